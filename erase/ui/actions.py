"""What the pages and the named API call: plain values in, plain JSON values out."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from safetensors import SafetensorError, safe_open

from erase import runs
from erase.arguments import DTYPES, EXPORTS
from erase.batch.worker import Worker
from erase.errors import EraseError, InputError, first_line
from erase.events import ShouldStop, never
from erase.report.schema import read_report
from erase.runtime import replacing
from erase.ui.compare import Comparer, Source
from erase.ui.doorkeeper import MOST_UPLOAD, SPARE
from erase.ui.form import read_form, to_config, warnings
from erase.ui.jobs import Jobs
from erase.ui.records import remove
from erase.ui.roots import Roots

MOST_EXPORTS = 64 * 2**30  # bytes of all exports kept; the oldest are removed, as each can be written again
UPLOADS = "uploads"
FOLDERS = ("diffusers", "text-encoder")  # formats that are a folder, which is downloaded as one .zip
LONGEST = 1800.0  # seconds that an export may take
PAGES = (runs.PAGE, runs.REPORT, runs.ROWS)

Export = Callable[[list[str], Path, ShouldStop], None]
"""Arguments of `erase`, a log's path, and whether to end early: run it to its end. Raises `EraseError`."""


def in_a_process(arguments: list[str], log: Path, should_stop: ShouldStop = never) -> None:
    """Run a command to its end in a process of its own, so that its memory is given back."""
    process, end = Worker(arguments, log, {"HF_HUB_OFFLINE": "1"}), time.monotonic() + LONGEST
    ended = None
    try:
        while ended is None and not should_stop() and time.monotonic() < end:
            ended = process.wait(0.5)
    finally:
        process.kill()
    if ended is None:
        raise EraseError(f"stopped, or not done after {LONGEST / 60:.0f} minutes; try again, or use the command line")
    if ended.code:
        raise (InputError if ended.code == InputError.exit_code else EraseError)(ended.error or "it failed")


@dataclass(frozen=True, slots=True)
class Actions:
    """The verbs of one server. All raise `EraseError`, mostly an `InputError`, with the line that the page shows."""

    roots: Roots
    jobs: Jobs
    comparer: Comparer
    run_export: Export = in_a_process
    after_removal: list[Callable[[], None]] = field(default_factory=list)
    """Called when files went, so that twins of them go too."""
    _exporting: Lock = field(default_factory=Lock)
    _uploading: Lock = field(default_factory=Lock)

    def erase(self, form: Mapping[str, Any], session: str = "") -> str:
        """Queue the run that a form (fields of `Form`) asks for; return its name.

        The same form again from the same session within a moment is the same run.
        """
        read = read_form(form)
        config = to_config(read, self.roots)
        warnings(config)  # refuses what no run could use
        key = f"{session}\n{json.dumps(asdict(read), sort_keys=True)}" if session else None
        return self.jobs.submit(
            config, sensitive=read.sensitive or "nudity" in [c.kind for c in config.concepts], key=key
        )

    def status(self, name: str) -> dict[str, Any]:
        """`Jobs.status` as JSON; paths as text."""
        return _plain(asdict(self.jobs.status(name)))

    def stop(self, name: str) -> dict[str, Any]:
        """Stop a run; return its status."""
        self.jobs.stop(name)
        return self.status(name)

    def resume(self, name: str) -> dict[str, Any]:
        """Queue a stopped run again; return its status."""
        return self.status(self.jobs.resume(name))

    def evaluate(self, name: str) -> dict[str, Any]:
        """Queue the judging of a run; return its status."""
        return self.status(self.jobs.evaluate(name))

    def generate(
        self, model: str, prompt: str, seed: int = 0, steps: int = 25, guidance: float = 3.0, strength: float = 1.0
    ) -> str:
        """Draw one picture with a model or `run:NAME`; return the PNG's path."""
        return str(self.comparer.pictures([Source(model, strength)], [prompt], [seed], steps, guidance)[0].path)

    def export(self, name: str, format: str = "diffusers", dtype: str = "", rank: int | None = None) -> str:
        """Write a run's model in a format of `erase export`; return the file to download: a .safetensors, or a .zip.

        One that was written before from the same weights is returned again.
        """
        if format not in EXPORTS:
            raise InputError(f"format {str(format)[:40]!r} is unknown; use {', '.join(EXPORTS)}")
        if dtype and dtype not in DTYPES:
            raise InputError(f"dtype {str(dtype)[:40]!r} is unknown; use {', '.join(DTYPES)}")
        if rank is not None and not _is_rank(rank):
            raise InputError(f"rank {str(rank)[:40]!r} is no whole number between 1 and 1000")
        run = self.roots.finished(name)
        made = "-".join(filter(None, [format, dtype, f"rank{int(rank)}" if rank else ""]))
        folder = self.roots.exports / name / made
        place = folder / (f"{name}-{made}.zip" if format in FOLDERS else f"{name}-{made}.safetensors")
        with self._exporting:  # one at a time: each holds a whole model
            if place.is_file() and place.stat().st_mtime >= (run / runs.MODEL).stat().st_mtime:
                return str(place)
            remove(folder)
            _thin(self.roots.exports, MOST_EXPORTS)
            self._tell_removed()
            folder.mkdir(parents=True)
            output = folder / "model" if format in FOLDERS else place
            words = ["export", str(run), "--format", format, "--output", str(output)]
            words += ["--dtype", dtype] if dtype else []
            words += ["--rank", str(int(rank))] if rank else []
            try:
                self.run_export(words, folder / ".log", lambda: self.jobs.closing)
                if format in FOLDERS:
                    _zip(output, place, f"{name}-{made}")
                    shutil.rmtree(output)
            except BaseException:
                remove(folder)
                raise
        return str(place)

    def runs(self) -> list[dict[str, Any]]:
        """`Jobs.listing` as JSON."""
        return [_plain(asdict(info)) for info in self.jobs.listing()]

    def delete(self, name: str) -> list[dict[str, Any]]:
        """Remove a run, with its exports and what was drawn to compare; return the runs that are left."""
        self.jobs.delete(name)
        for picture in self.roots.pictures.glob("*"):  # of which runs, they do not say; they are drawn again when asked
            with suppress(OSError):
                picture.unlink()
        self._tell_removed()
        return self.runs()

    def _tell_removed(self) -> None:
        for call in self.after_removal:
            call()

    def report(self, name: str) -> dict[str, Any]:
        """What a judged run's report.json holds. Raises `InputError` where there is none yet."""
        path = self.roots.run(name) / runs.REPORT
        if not path.is_file():
            raise InputError(f"run {name!r} has no report yet; finish or evaluate it first")
        return read_report(path).model_dump(by_alias=True)

    def downloads(self, name: str) -> list[str]:
        """Paths of report.html, report.json and rows.jsonl, as far as the run has them."""
        folder = self.roots.run(name)
        return [str(self.roots.file(folder / page)) for page in PAGES if (folder / page).is_file()]

    def upload(self, path: str | Path, name: str, most: int = MOST_UPLOAD) -> str:
        """Take a .safetensors file that a visitor sent, of at most `most` bytes, among the models; return its name.

        Raises `InputError` for another kind of file, and for a name that is taken.
        """
        plain = self.roots.models_name(Path(name).name if isinstance(name, str) else name)
        if not plain.endswith(".safetensors"):
            raise InputError(f"file {plain!r} is refused: only .safetensors files are taken")
        source, place = Path(path), self.roots.models / UPLOADS / plain
        if source.is_symlink() or not source.is_file():
            raise InputError(f"file {plain!r} did not arrive; send it again")
        size = source.stat().st_size
        if size > most:
            raise InputError(f"file {plain!r} has {size:,} bytes; at most {most:,} are taken")
        place.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(place.parent).free < size + SPARE:
            raise InputError(f"file {plain!r} has {size:,} bytes, too many for this server's disk; remove models there")
        try:
            with safe_open(source, "pt") as file:
                held = len(list(file.keys()))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"file {plain!r} is no safetensors file ({first_line(error)})") from None
        if not held:
            raise InputError(f"file {plain!r} holds no tensors")
        with self._uploading:  # of two with one name, the second is refused
            if os.path.lexists(place):
                raise InputError(f"a model named {plain!r} is here already; give the file another name")
            with replacing(place) as temporary:
                shutil.copyfile(source, temporary)
        return f"{UPLOADS}/{plain}"


def _is_rank(rank: Any) -> bool:
    number = isinstance(rank, int | float) and not isinstance(rank, bool)  # one from another program has no type
    return number and 1 <= rank <= 1000 and rank == int(rank)


def _thin(exports: Path, most: int) -> None:
    """Remove the oldest exports, each a folder, until the others hold at most `most` bytes."""
    found = []
    for folder in exports.glob("*/*"):
        with suppress(OSError):  # a run that is deleted in this moment takes its exports along
            facts = [path.stat() for path in folder.iterdir()]
            newest = max((fact.st_mtime for fact in facts), default=0.0)
            found.append((newest, sum(fact.st_size for fact in facts), folder))
    held = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if held <= most:
            return
        held -= size
        remove(folder)


def _zip(folder: Path, place: Path, name: str) -> None:
    """One file of a folder, under `name`; stored, since weights do not get smaller."""
    with replacing(place) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(file, f"{name}/{file.relative_to(folder).as_posix()}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value

"""What a visitor may name: models, runs and files, each below a folder that whoever started the server chose.

A visitor is not trusted. A name becomes a path here and nowhere else, and only after its symbolic links were followed.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase import runs
from erase.config import WORLD, load_config, run_folders
from erase.errors import InputError
from erase.runtime import CONFIG, output_folder

RUN = "run:"
WEIGHTS = (".safetensors", ".ckpt")
SERVED = (".png", ".json", ".jsonl", ".html", ".safetensors", ".zip", ".md")
MOST_FILES = 2000  # in a folder with a model; one of Stable Diffusion XL has about 30
LONGEST = 400  # letters of a name, its folders included
OWN = ".ui"
INDEX = "model_index.json"


@dataclass(frozen=True, slots=True)
class Roots:
    """The two folders that the server works in: `models` is only read (but for uploads), `runs` read and written.

    `hub` allows models of the Hugging Face hub by their id, which are fetched from there.
    """

    models: Path
    runs: Path
    hub: bool = False

    @classmethod
    def made(cls, models: Path, runs: Path, hub: bool = False) -> Roots:
        """Roots with absolute paths; `runs`, and what the UI keeps in it, is made. Raises `InputError`."""
        found = cls(models.expanduser().resolve(), output_folder(runs.expanduser().resolve()), hub)
        for place in (found.runs, found.exports, found.pictures, found.jobs):
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot make the folder {place}: {error.strerror or error}") from None
        return found

    @property
    def exports(self) -> Path:
        """Exported models, to download."""
        return self.runs / OWN / "exports"

    @property
    def pictures(self) -> Path:
        """Pictures drawn to compare."""
        return self.runs / OWN / "pictures"

    @property
    def jobs(self) -> Path:
        """The queue; never served."""
        return self.runs / OWN / "jobs"

    def model(self, text: str) -> str:
        """What `Config.model` takes for a model that a visitor named.

        That is `world`; a folder or file below the models' root by its name from there; `run:NAME` for a finished run;
        or, where the server allows it, a hub id. Raises `InputError` for anything else.
        """
        text = text.strip(" ") if isinstance(text, str) else text
        if text == WORLD:
            return WORLD
        if isinstance(text, str) and text.startswith(RUN):
            return str(self.finished(text.removeprefix(RUN)))
        try:
            parts = _parts("model", text)
        except InputError:
            if self._is_hub_id(text):
                return text
            raise
        path = self.models.joinpath(*parts)
        if not path.exists():
            if self._is_hub_id(text):
                return text
            hint = "" if self.hub else "; hub ids are not allowed on this server"
            raise InputError(f"model {text!r} is not among the server's models; take one from the list{hint}")
        return str(self._checked_model(text, path))

    def _is_hub_id(self, text: Any) -> bool:
        from erase.models.hub import FORM

        # A path of this name, from where the server was started, would be read in the hub's place.
        return self.hub and isinstance(text, str) and FORM.fullmatch(text) is not None and not Path(text).exists()

    def _checked_model(self, text: str, path: Path) -> Path:
        real, root = path.resolve(), self.models.resolve()
        if not _inside(real, root):
            raise InputError(f"model {text!r} leads out of the server's models; take one from the list")
        if real.is_file():
            if real.suffix.lower() not in WEIGHTS:
                raise InputError(f"model {text!r} is no {' or '.join(WEIGHTS)} file; take one from the list")
            return real
        if not (real / INDEX).is_file() or (real / CONFIG).exists():  # a run's folder would name its own base
            raise InputError(f"model {text!r} is neither a model's folder nor a file; take one from the list")
        # A folder that is a link is gone into too: what is in it would be read. A circle of them ends at the limit.
        below = (
            Path(place, name) for place, folders, files in os.walk(real, followlinks=True) for name in folders + files
        )
        for number, found in enumerate(below):
            if number >= MOST_FILES or not _inside(found.resolve(), root):
                why = "has too many files" if number >= MOST_FILES else "has links out of the server's models"
                raise InputError(f"model {text!r} {why}; take one from the list")
        return real

    def run(self, name: str) -> Path:
        """The folder of a run by its name, directly below the runs' root. Raises `InputError` for anything else."""
        path = self.runs / self.run_name(name)
        if path.is_symlink() or not path.is_dir():
            raise InputError(f"run {name!r} does not exist; take one from the list")
        return path

    def run_name(self, name: str) -> str:
        """The name itself, if it can be a run's. Raises `InputError`."""
        parts = _parts("run", name)
        if len(parts) != 1:
            raise InputError(f"run {_shown(name)} is a path; give the run's name alone")
        return parts[0]

    def models_name(self, name: Any) -> str:
        """The name itself, if a file directly below a folder of models can have it. Raises `InputError`."""
        return "/".join(_parts("file", name))

    def finished(self, name: str) -> Path:
        """The folder of a run with a trained model that lies, with all that it began from, below the roots."""
        return self.usable(runs.require_run(self.run(name), finished=True))

    def usable(self, folder: Path) -> Path:
        """The folder of a run, if all that it began from lies below the roots. Raises `InputError`."""
        name = folder.name
        chain = run_folders(str(folder))
        if not all(_inside(one, self.runs.resolve()) for one in chain):
            raise InputError(f"run {name!r} began from a run outside this server's runs; it cannot be used here")
        base = str(load_config(chain[-1] / CONFIG).model)
        if base != WORLD and not self._may_read(base):
            raise InputError(f"run {name!r} began from a model outside this server's models; it cannot be used here")
        return folder

    def _may_read(self, base: str) -> bool:
        try:
            return _inside(Path(base).resolve(strict=True), self.models.resolve())
        except OSError:
            return self._is_hub_id(base)

    def file(self, path: str | Path) -> Path:
        """A picture, report or export that may be served: a regular file in a run's folder, or among what the UI made.

        Raises `InputError` for anything else, hidden files and the queue included.
        """
        try:
            real = Path(path).resolve(strict=True)
            found = real.is_file()
        except (OSError, ValueError, RuntimeError, TypeError):
            found, real = False, Path()
        root = self.runs.resolve()
        served = any(_inside(real, place.resolve()) for place in (self.exports, self.pictures))
        if found and not served and _inside(real, root):
            served = not any(part.startswith(".") for part in real.relative_to(root).parts)
        if not found or not served or real.suffix.lower() not in SERVED:
            raise InputError(f"file {_shown(path)} is not one that this server shows")
        return real

    def models_list(self) -> list[str]:
        """What `model` takes: the world, then the models below the root by name, then the finished runs."""
        return [
            WORLD,
            *sorted(self._below(self.models, 3)),
            *(f"{RUN}{name}" for name in self.runs_list(finished=True)),
        ]

    def runs_list(self, *, finished: bool = False) -> list[str]:
        """Names of the runs, the newest first; `finished`: only those with a trained model."""
        wanted = runs.MODEL if finished else CONFIG
        found: list[tuple[float, str]] = []
        for folder in self.runs.iterdir() if self.runs.is_dir() else ():
            try:
                name = self.run_name(folder.name)
                if not folder.is_symlink() and (folder / wanted).is_file():
                    found.append(((folder / CONFIG).stat().st_mtime, name))
            except (InputError, OSError):  # not a run, or deleted in this moment
                continue
        return [name for _, name in sorted(found, reverse=True)]

    def _below(self, folder: Path, depth: int) -> Iterator[str]:
        """Names of the models in a folder, and in the folders in it."""
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            return
        for path in entries:
            name = path.relative_to(self.models).as_posix()
            try:
                _parts("model", name)
                if path.is_file() or (path / INDEX).is_file():
                    self._checked_model(name, path)
                    yield name
                elif depth > 1 and _inside(path.resolve(), self.models.resolve()):
                    yield from self._below(path, depth - 1)
            except (InputError, OSError, RuntimeError):  # not a model, or not one to use
                continue


def _parts(what: str, text: Any) -> list[str]:
    """A name cut at its slashes. Raises `InputError` for one that is no plain relative name."""
    if not isinstance(text, str) or not text or len(text) > LONGEST:
        raise InputError(f"{what} {_shown(text)} is no name of 1 to {LONGEST} letters")
    odd = next((sign for sign in text if not sign.isprintable() or sign in '\\:*?"<>|'), None)
    # Signs that another form of Unicode turns into dots or slashes, or that only look like others.
    if odd is not None or unicodedata.normalize("NFKC", text) != unicodedata.normalize("NFC", text):
        raise InputError(f"{what} {_shown(text)} has signs that no name here has; take one from the list")
    parts = text.split("/")
    if any(not part or part[0] in ".~-" or part.strip() != part or len(part.encode()) > 255 for part in parts):
        raise InputError(f"{what} {_shown(text)} is no plain name below the server's folder; take one from the list")
    return parts


def _inside(path: Path, root: Path) -> bool:
    """Whether a resolved path lies below a resolved root."""
    return path != root and path.is_relative_to(root)


def _shown(value: Any) -> str:
    """A value for a message: quoted, escaped, cut."""
    text = ascii(str(value))
    return text if len(text) <= 80 else f"{text[:76]}...'"

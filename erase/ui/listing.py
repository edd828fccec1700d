"""The list of runs, those that the command line made among them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from erase import runs
from erase.concept import title
from erase.config import WORLD, Config, load_config
from erase.errors import InputError
from erase.report.schema import Report, read_report
from erase.runtime import CONFIG, write_text
from erase.ui.progress import Progress
from erase.ui.records import UNDER_WAY, Record, State
from erase.ui.roots import RUN, Roots

SENSITIVE = "SENSITIVE"
"""A file that a run's folder has if its pictures are to be blurred until revealed."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run in the list. `finished`: it has a trained model, to compare, evaluate and export; `judged`: scores.

    `scores` maps a score's name to {"before": [value, low, high], "after": ...}; `created` is ISO 8601.
    """

    name: str
    state: State
    place: int = 0
    concept: str = ""
    method: str = ""
    optimizer: str = ""
    model: str = ""
    created: str = ""
    finished: bool = False
    judged: bool = False
    sensitive: bool = False
    lora: bool = False
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """How a run is doing. `step` of `total` and `speed` (a second) belong to the `phase`; `place` is 1 for the next.

    `losses` holds (round, loss) by role, at most 300 of each; `preview` is the newest grid of samples. `finished`: it
    has a trained model, to compare, evaluate and export.
    """

    name: str
    state: State
    place: int = 0
    phase: str = ""
    step: int = 0
    total: int = 0
    speed: float = 0.0
    seconds_left: float | None = None
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    preview: Path | None = None
    scores: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    sensitive: bool = False
    finished: bool = False


def status_of(info: RunInfo, progress: Progress, folder: Path) -> Status:
    """How a run is doing, from what the list shows of it and its events."""
    under_way = info.state in ("running", "stopping")
    preview = progress.preview
    if preview is not None and not (preview.is_file() and preview.resolve().is_relative_to(folder.resolve())):
        preview = None
    return Status(
        info.name,
        info.state,
        info.place,
        (progress.phase or "starting") if under_way else info.state,
        progress.step,
        progress.total,
        progress.speed if under_way else 0.0,
        progress.seconds_left if under_way else None,
        {role: curve.shown() for role, curve in list(progress.curves.items())},
        preview,
        progress.scores,
        list(progress.warnings),
        info.error,
        info.sensitive,
        info.finished,
    )


def mark_sensitive(folder: Path) -> None:
    """Mark a run's pictures to be blurred, once its process has claimed the folder."""
    if (folder / CONFIG).is_file() and not (folder / SENSITIVE).exists():
        with suppress(InputError):
            write_text(folder / SENSITIVE, "pictures are blurred until revealed\n")


def is_sensitive(folder: Path, config: Config | None = None) -> bool:
    """Whether a run's pictures are to be blurred until revealed: it was marked so, or a concept is of kind nudity."""
    if (folder / SENSITIVE).exists():
        return True
    try:
        config = config or load_config(folder / CONFIG)
    except InputError:  # nobody knows what it shows
        return True
    return any(concept.kind == "nudity" for concept in config.concepts)


class Listing:
    """Reads run folders, each once for as long as its files stay the same."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._known: dict[str, tuple[tuple[int, ...], RunInfo]] = {}

    def __call__(self, records: Mapping[str, Record], places: Mapping[str, int]) -> list[RunInfo]:
        """All runs, the newest first: those with a job, and all other folders that are runs."""
        names = dict.fromkeys([*records, *self._roots.runs_list()])
        for gone in self._known.keys() - names.keys():
            self._known.pop(gone, None)
        found = [self.info(name, records.get(name), places.get(name, 0)) for name in names]
        return sorted(found, key=lambda info: (info.created, info.name), reverse=True)

    def info(self, name: str, record: Record | None, place: int) -> RunInfo:
        """What the list shows of a run: what its folder says, and how its job is doing."""
        folder = self._roots.runs / name
        info = self._read(name, folder)
        if record is None:
            return info
        state, error = info.state, ""
        if record.state in (*UNDER_WAY, "failed"):
            # What failed may have been finished from the command line since; judging that failed has left it finished.
            if not (record.state == "failed" and record.task == "run" and info.state == "done"):
                state, error = record.state, record.error
        elif record.state == "done" and not (folder / CONFIG).is_file():
            state = record.state
        return replace(
            info,
            state=state,
            place=place,
            concept=info.concept or record.concept,
            method=info.method or record.method,
            optimizer=info.optimizer or record.optimizer,
            model=info.model or record.model,
            created=record.created or info.created,
            sensitive=info.sensitive or record.sensitive,
            error=error,
        )

    def model_name(self, model: str) -> str:
        """How `Roots.model` calls what a configuration has as its model; of one outside the roots the last part."""
        if model == WORLD:
            return WORLD
        path = Path(model)
        if path.is_absolute():
            for root, form in ((self._roots.runs, f"{RUN}{{}}"), (self._roots.models, "{}")):
                if path.is_relative_to(root):
                    return form.format(path.relative_to(root).as_posix())
            return path.name
        return model

    def _read(self, name: str, folder: Path) -> RunInfo:
        mark = tuple(_changed(folder / part) for part in (CONFIG, runs.MODEL, runs.REPORT, runs.DONE, SENSITIVE))
        known = self._known.get(name)
        if known is None or known[0] != mark:
            known = mark, self._info(name, folder)
            self._known[name] = known
        return known[1]

    def _info(self, name: str, folder: Path) -> RunInfo:
        state: State = "done" if (folder / runs.DONE).exists() else "stopped"
        try:
            created = datetime.fromtimestamp((folder / CONFIG).stat().st_mtime).astimezone()
            config = load_config(folder / CONFIG)
        except FileNotFoundError:
            return RunInfo(name, state)
        except (InputError, OSError) as error:
            return RunInfo(name, "failed", error=str(error).splitlines()[0], sensitive=True)
        report = _report(folder)
        return RunInfo(
            name,
            state,
            concept=title([concept.name for concept in config.concepts]),
            method=config.method.name,
            optimizer=config.train.optimizer if config.train else "",
            model=self.model_name(config.model),
            created=created.isoformat(timespec="seconds"),
            finished=(folder / runs.MODEL).is_file(),
            judged=bool(report and report.scores),
            sensitive=is_sensitive(folder, config),
            lora=config.method.rank is not None,
            scores=_scores(report) if report else {},
        )


def _report(folder: Path) -> Report | None:
    try:
        return read_report(folder / runs.REPORT)
    except InputError:
        return None


def _scores(report: Report) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for score in report.scores:
        found.setdefault(score.name, {})[score.arm] = [score.value, score.low, score.high]
    return found


def _changed(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0

"""How a job becomes a process: the folder that it is to claim, its command, and whether the folder is free."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from erase import runs
from erase.batch.worker import Ended, Worker
from erase.errors import InputError
from erase.runtime import CONFIG, sweep
from erase.ui.records import SETTINGS, Record
from erase.ui.roots import Roots

ELSEWHERE = 20.0  # seconds since its last event in which a run that is not ours counts as running


class Process(Protocol):
    """One `erase` command in a process of its own, as `Worker` is."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> Ended | None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


Start = Callable[[list[str], Path, Sequence[int]], Process]
"""Arguments of `erase`, the log's path, and locks that the process is to hold -> the process."""


def worker_of(roots: Roots) -> Start:
    """How a server starts processes; one without the hub fetches nothing."""
    offline = {} if roots.hub else {"HF_HUB_OFFLINE": "1"}
    return lambda arguments, log, held: Worker(arguments, log, offline, held)


def arguments_of(roots: Roots, record: Record) -> list[str]:
    """The command of a job: to judge, to go on, or to begin."""
    folder = roots.runs / record.name
    if record.task == "eval":
        return ["eval", str(folder), "--quiet"]
    if (folder / CONFIG).is_file():
        return ["run", "--resume", str(folder), "--quiet"]
    sweep(folder)  # a process that was killed while it claimed the folder
    with suppress(OSError):
        if (folder / runs.EVENTS).stat().st_size == 0:
            (folder / runs.EVENTS).unlink()
    return ["run", str(roots.jobs / record.name / SETTINGS), "--output", str(folder), "--quiet"]


def reserve(roots: Roots, concepts: str, method: str) -> Path:
    """Make an empty folder, which the run's process claims."""
    for name in runs.names(concepts, method):
        try:
            (roots.runs / name).mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"cannot make the run folder {name}: {error.strerror or error}") from None
        return roots.runs / name
    raise InputError(f"there are too many runs of {concepts!r} by {method} of today; delete some")


def check_elsewhere(folder: Path, ended: float = 0.0) -> None:
    """Raises `InputError` for a run that the command line is busy with, or seems to be, where no lock tells.

    `ended`: when, in seconds since the epoch, this server's own process was done with it.
    """
    if runs.at_work(folder):
        raise InputError(f"run {folder.name!r} is at work outside this server; try again when that has ended")
    with suppress(OSError):
        last = (folder / runs.EVENTS).stat().st_mtime
        if last > ended + 1 and time.time() - last < ELSEWHERE and not (folder / runs.DONE).exists():
            raise InputError(f"run {folder.name!r} seems to run outside this server; try again in half a minute")

"""The queue on the disk: a folder for each job with what it is, its settings, and a lock that its process holds."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from erase import runs
from erase.batch.worker import PREFIX, Ended, last_error
from erase.errors import InputError, Interrupted
from erase.runtime import write_json

State = Literal["queued", "running", "stopping", "stopped", "done", "failed"]
Task = Literal["run", "eval"]
UNDER_WAY = ("queued", "running", "stopping")
JOB, SETTINGS, LOG, LOCK = "job.json", "config.yaml", "log.txt", "lock"


@dataclass(frozen=True, slots=True)
class Record:
    """One job as it is stored. `order` is its place among all that were ever queued; `asked`, when it was told to stop.

    The title fields are for lists, until the run's own folder has them.
    """

    name: str
    task: Task = "run"
    state: State = "queued"
    order: int = 0
    sensitive: bool = False
    concept: str = ""
    method: str = ""
    optimizer: str = ""
    model: str = ""
    created: str = ""
    pid: int = 0
    asked: float = 0.0
    error: str = ""


def write(jobs: Path, record: Record) -> None:
    """Store a job, all or nothing."""
    write_json(jobs / record.name / JOB, asdict(record))


def written(jobs: Path, name: str) -> float:
    """When a job was stored last, in seconds since the epoch; 0 where it never was."""
    try:
        return (jobs / name / JOB).stat().st_mtime
    except OSError:
        return 0.0


def read_all(jobs: Path) -> list[Record]:
    """The jobs stored, in their order; one that is damaged is left out: its run's folder still says how far it got."""
    found = []
    for path in jobs.glob(f"*/{JOB}"):
        with suppress(OSError, ValueError, TypeError):
            found.append(_record(json.loads(path.read_text(encoding="utf-8")), path.parent.name))
    return sorted(found, key=lambda record: record.order)


def _record(given: Any, name: str) -> Record:
    kept = {field.name: given[field.name] for field in fields(Record) if field.name in given}
    record = Record(**{**kept, "name": name})
    kinds = {"str": str, "int": int, "bool": bool, "float": int | float, "State": str, "Task": str}
    wrong = [f.name for f in fields(Record) if not isinstance(getattr(record, f.name), kinds[str(f.type)])]
    if wrong or record.state not in get_args(State) or record.task not in get_args(Task):
        raise ValueError(f"{name}: not a job")
    return record


def remove(place: Path) -> None:
    """Remove a folder: renamed first, so that half of it is never taken for all."""
    aside = place.with_name(f".gone-{place.name[:200]}-{time.time_ns()}")
    with suppress(FileNotFoundError):
        place.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def lock(path: Path) -> int | None:
    """Take a lock: a descriptor that holds it until it is closed, or None where another process has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class Adopted:
    """A process that an earlier server started, known by the lock that it holds. Has what `Worker` has."""

    def __init__(self, pid: int, job: Path, folder: Path, task: Task = "run") -> None:
        self.pid, self._job, self._folder, self._task = pid, job, folder, task

    def poll(self) -> Ended | None:
        """How it ended, as its folder and its log tell; None while it holds its lock."""
        descriptor = lock(self._job / LOCK)
        if descriptor is None:
            return None
        os.close(descriptor)
        error = last_error(self._job / LOG, 1)
        done, failed = (self._folder / runs.DONE).exists(), _failed(self._job / LOG)
        if not failed or (done and self._task == "run"):  # a run that is judged again is done before and after
            return Ended(0 if done else Interrupted.exit_code)
        return Ended(Interrupted.exit_code if "--resume" in error else 1, error)

    def stop(self) -> None:
        """Ask it to end after the round under way."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        # While the lock is held, its process lives and no other one has its number.
        if self.pid > 1 and self.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)


def _failed(log: Path) -> bool:
    with suppress(OSError):
        return PREFIX in log.read_text(encoding="utf-8", errors="replace")[-(2**16) :]
    return False

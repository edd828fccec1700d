"""A batch's folder: the runs, and beside them, in `.batch/`, what the batch itself keeps."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from erase.batch.matrix import Job, Matrix, difference
from erase.config import Config, load_config
from erase.errors import InputError
from erase.runtime import CONFIG, DONE, EVENTS, TEMPORARY, command, output_folder, write_text

PRIVATE = ".batch"
MARK = "# settings "


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of a batch lie."""

    output: Path

    def folder(self, name: str) -> Path:
        """A job's run folder."""
        return self.output / name

    def settings(self, name: str) -> Path:
        """The settings that a job was begun with."""
        return self.output / PRIVATE / "jobs" / f"{name}.yaml"

    def log(self, name: str) -> Path:
        """What a job's commands said; locked as long as one of them is at work."""
        return self.output / PRIVATE / "logs" / f"{name}.log"

    @property
    def cache(self) -> Path:
        """Pictures of base models, for the jobs to share."""
        return self.output / PRIVATE / "cache"

    @property
    def history(self) -> Path:
        """One line for each attempt that ended."""
        return self.output / PRIVATE / "history.jsonl"

    @property
    def stop(self) -> Path:
        """Is there while the batch is to stop."""
        return self.output / PRIVATE / "stop"

    @property
    def page(self) -> Path:
        """The summary of all runs."""
        return self.output / "report.html"


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one try at a job ended; `seconds` is its time from start to end."""

    job: str
    code: int
    error: str
    seconds: float
    method: str


def fingerprint(config: Config) -> str:
    """SHA-256 of a job's settings, without where it is written."""
    text = json.dumps(config.model_dump(mode="json", exclude={"output"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def settings_text(config: Config) -> str:
    """A job's settings as the file that its command reads, with their fingerprint on top."""
    settings = config.model_dump(mode="json", exclude={"output"})
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # a batch of thousands would wait for the other one
    text = yaml.dump(settings, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return f"{MARK}{fingerprint(config)}\n{text}"


def states(matrix: Matrix, *, redo: bool = False) -> dict[str, str]:
    """What there is of each job: "new", "begun", "done", or, with `redo`, "other" for one made with other settings.

    Writes nothing. Raises `InputError` that names every folder which cannot be used.
    """
    place, found, problems = Place(output_folder(matrix.output)), {}, []
    for job in matrix.jobs:
        state, problem = _state(place, job)
        found[job.name] = state
        if problem and not (redo and state == "other"):
            problems.append(problem)
    if problems:
        more = [f"and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise InputError("\n  ".join([f"{place.output} cannot be used as it is", *problems[:20], *more]))
    return found


def _state(place: Place, job: Job) -> tuple[str, str]:
    folder, record = place.folder(job.name), place.settings(job.name)
    try:
        held = {path.name for path in folder.iterdir() if not TEMPORARY.fullmatch(path.name)}
    except FileNotFoundError:
        return "new", ""
    except OSError as error:
        return "other", f"{folder} cannot be read: {error.strerror or error}"
    if CONFIG not in held:
        # A run that was killed before it had its settings leaves an empty log of events.
        empty = held <= {EVENTS} and not any((folder / name).stat().st_size for name in held)
        return ("new", "") if empty else ("other", f"{folder} holds other files; move them, or name another output")
    try:
        with record.open(encoding="utf-8") as file:
            mark = file.readline()
        if mark.strip() != f"{MARK}{fingerprint(job.config)}":
            why = difference(load_config(record), job.config)
            if why:
                return "other", (
                    f"{folder} was made with other settings ({why}); take --redo to put it aside and begin anew, or "
                    "name another output"
                )
    except (OSError, UnicodeDecodeError):
        return "other", f"{folder} is a run that this batch did not begin; move it, or name another output"
    except InputError as error:
        return "other", f"{record} is damaged ({error}); take --redo to put its run aside and begin anew"
    return "done" if DONE in held else "begun", ""


def put_aside(folder: Path) -> Path | None:
    """Give a run another name, `NAME~1` and so on, so that its place is free; None where there was none."""
    if not folder.exists():
        return None
    for number in range(1, 10_000):
        other = folder.with_name(f"{folder.name}~{number}")
        if not os.path.lexists(other):
            try:
                return folder.rename(other)
            except OSError as error:
                raise InputError(f"cannot put {folder} aside: {error.strerror or error}") from None
    raise InputError(f"{folder} was put aside 10,000 times; remove those that nobody needs")


def write_settings(place: Place, job: Job) -> Path:
    """Write a job's settings where its command reads them."""
    write_text(place.settings(job.name), settings_text(job.config))
    return place.settings(job.name)


@contextmanager
def claimed(output: Path) -> Iterator[int]:
    """Lock a batch's folder and give the lock's descriptor. Raises `InputError` where another batch has it."""
    path = output / PRIVATE / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = path.read_text(encoding="utf-8", errors="replace").strip() or "unknown"
            raise InputError(
                f"{output} is being worked on by another erase batch ({owner}); wait for it, or name another output"
            ) from None
        except OSError as error:  # of a file system without locks
            raise InputError(f"cannot lock {path}: {error.strerror or error}; name another output") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} of {os.uname().nodename}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def remember(place: Place, attempt: Attempt, settings: str) -> None:
    """Add an attempt to the history."""
    line = {
        "job": attempt.job,
        "code": attempt.code,
        "error": attempt.error,
        "seconds": round(attempt.seconds, 3),
        "method": attempt.method,
        "settings": settings,
        "time": round(time.time(), 3),
    }
    try:
        with place.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {place.history}: {error.strerror or error}") from None


def history(place: Place) -> list[Attempt]:
    """All attempts so far; lines that are cut are left out."""
    try:
        lines = place.history.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [attempt for line in lines if (attempt := _attempt(line))]


def _attempt(line: str) -> Attempt | None:
    try:
        given: Any = json.loads(line)
        return Attempt(
            str(given["job"]),
            int(given["code"]),
            str(given["error"]),
            float(given["seconds"]),
            str(given["method"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def seconds_by_method(attempts: Sequence[Attempt]) -> dict[str, list[float]]:
    """What finished jobs took, by method."""
    found: dict[str, list[float]] = {}
    for attempt in attempts:
        if attempt.code == 0:
            found.setdefault(attempt.method, []).append(attempt.seconds)
    return found


def go_on(path: Path, more: Sequence[str]) -> str:
    """The command that goes on with a batch."""
    return command("batch", path, *more)

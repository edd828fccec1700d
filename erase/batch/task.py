"""A job as a process: what its command is, by what its folder holds, and one command at a time in one folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from erase.batch.worker import Ended, Worker
from erase.errors import InputError
from erase.runtime import CHECKPOINTS, CONFIG, DONE, EVENTS, sweep

PATIENCE = 60.0  # seconds until another command lets go of a folder: that of a node which died, say


@dataclass(frozen=True, slots=True)
class Task:
    """All that an engine needs of a job; plain, so that it can be sent.

    `settings` is the file that its command reads, `aside` that a broken run lies in its place and is to be moved.
    """

    name: str
    folder: Path
    settings: Path
    log: Path
    cache: Path
    aside: bool = False


class Running(Protocol):
    """A job at work."""

    def poll(self) -> Ended | None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


@dataclass(slots=True)
class Run:
    """A worker on a task, which ends well only with a finished run."""

    task: Task
    worker: Worker
    resumed: bool

    def poll(self) -> Ended | None:
        """How it ended, or None while it runs."""
        ended = self.worker.poll()
        if ended is not None and ended.code == 0:
            if not (self.task.folder / DONE).is_file():
                ended = Ended(1, f"{self.task.folder} was left without {DONE}")
            else:  # nobody goes on from here, and thousands of them fill a disk
                shutil.rmtree(self.task.folder / CHECKPOINTS, ignore_errors=True)
        return None if ended is None else replace(ended, resumed=self.resumed)

    def stop(self) -> None:
        """Ask it to end after the round under way."""
        self.worker.stop()

    def kill(self) -> None:
        """End it at once."""
        self.worker.kill()


def begin(task: Task, environment: Mapping[str, str], held: Sequence[int] = (), patience: float = 0.0) -> Run:
    """Begin a job, or go on with what there is of it, in a process that ends with this one.

    Waits `patience` seconds at most for another command on the same job. Raises `InputError` where that goes on, or
    no process can be started.
    """
    lock = _lock(task.log, patience)
    try:
        resumed = (task.folder / CONFIG).is_file()
        if not resumed:
            _clear(task.folder)
        rest = ["--resume", str(task.folder)] if resumed else [str(task.settings), "--output", str(task.folder)]
        arguments = ["run", *rest, "--cache", str(task.cache), "--quiet"]
        return Run(task, Worker(arguments, task.log, environment, [*held, lock], leashed=True), resumed)
    finally:
        os.close(lock)  # the worker has it now


def _lock(path: Path, patience: float) -> int:
    """Lock a job's log; see `Worker`'s `held`."""
    deadline = time.monotonic() + patience
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise InputError(f"{path} belongs to a command that is at work still; wait for it") from None
            time.sleep(0.2)
        except OSError as error:  # of a file system without locks
            os.close(descriptor)
            raise InputError(f"cannot lock {path}: {error.strerror or error}; name another output") from None


def _clear(folder: Path) -> None:
    """Take away what a run that was killed before it had its settings left: an empty log of events."""
    if not folder.is_dir():
        return
    sweep(folder)
    with suppress(OSError):
        if (folder / EVENTS).stat().st_size == 0:
            (folder / EVENTS).unlink()


def carry_out(task: Task, environment: Mapping[str, str], should_stop: Callable[[], bool], pause: float = 0.2) -> Ended:
    """Begin a job and wait for its end; a stop is passed on once, and waited for."""
    try:
        run = begin(task, environment, patience=PATIENCE)
    except InputError as error:
        return Ended(1, str(error))
    asked = False
    try:
        while (ended := run.poll()) is None:
            if not asked and should_stop():
                run.stop()
                asked = True
            time.sleep(pause)
        return ended
    except BaseException:
        run.kill()
        raise

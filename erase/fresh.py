"""A judging's files lie beside the run's old ones until all are there, so rows never tell of other pictures."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from erase import runs
from erase.errors import InputError
from erase.evaluation.features import FILE
from erase.evaluation.rows import ARMS

if sys.platform != "win32":
    import fcntl

PLACE = ".judging"
# In this order, so that a stop in between leaves pictures that the rows do not fit, which is noticed, or no features.
FILES = (FILE, *(f"images/{arm}" for arm in ARMS), runs.ROWS)


@contextmanager
def judged_afresh(folder: Path) -> Iterator[Path]:
    """Give a folder inside the run's for pictures, rows and features; if the block succeeds they replace the run's.

    After an error or a stop the run has what it had. What a crash left is removed first. Raises `InputError` where
    another command judges the run, and for a disk that is full or read-only.
    """
    with _alone(folder):
        place, old = folder / PLACE, folder / PLACE / "old"
        shutil.rmtree(place, ignore_errors=True)
        try:
            place.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"cannot write {place}: {error.strerror or error}") from None
        try:
            yield place
            try:
                for name in FILES:
                    _move(folder / name, old / name)
                    if name != FILE:
                        _move(place / name, folder / name)
                _move(place / FILE, folder / FILE)
            except OSError as error:
                raise InputError(f"cannot write {error.filename}: {error.strerror or error}") from None
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse a second judging at the same time, by a lock that ends with the process that holds it."""
    held = None
    if sys.platform != "win32":
        with suppress(OSError):
            held = os.open(folder / runs.CONFIG, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if held is not None:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{folder} is being judged by another command; wait for it") from None
            except OSError:  # a file system without locks
                pass
        yield
    finally:
        if held is not None:
            os.close(held)

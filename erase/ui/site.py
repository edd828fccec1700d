"""What every page of one server shares: its actions, the folder its files are served from, and how errors are told."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from erase.errors import EraseError, InputError, printable
from erase.runtime import replacing
from erase.ui.actions import Actions

Result = TypeVar("Result")
# What computes waits for its turn in `Jobs`, which tells its place; here only so many may wait at a time.
DEVICE = {"concurrency_id": "device", "concurrency_limit": 8}
# One export after the other, beside what is drawn.
EXPORT = {"concurrency_id": "export", "concurrency_limit": 8}
# Everything but the seven named endpoints: hidden, and not to be called from outside. What only looks something up does
# not wait in the queue.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
TWIN = "twin-"  # begins the names of its own folders in `served`; Gradio keeps what visitors send beside them
QUICK: dict[str, Any] = {**PRIVATE, "queue": False, "show_progress": "hidden"}


@dataclass(frozen=True, slots=True)
class Site:
    """One server's verbs, and `served`, the only folder of which it sends files."""

    actions: Actions
    served: Path

    def show(self, path: str | Path) -> str:
        """A file's twin in `served`, under a name that nobody guesses; a link where the disk allows one, else a copy.

        Raises `InputError` for a file that may not be shown.
        """
        real = self.actions.roots.file(path)
        try:
            facts = real.stat()
            told = f"{real}\0{facts.st_size}\0{facts.st_mtime_ns}\0{self.served}"
            place = self.served / f"{TWIN}{hashlib.sha256(told.encode()).hexdigest()}" / real.name
            if not place.exists():
                place.parent.mkdir(exist_ok=True)
                try:
                    os.link(real, place)
                except FileExistsError:  # someone else asked for it in this moment
                    pass
                except OSError:  # another file system
                    with replacing(place) as temporary:
                        shutil.copyfile(real, temporary)
        except OSError as error:
            raise InputError(f"file {real.name} cannot be shown: {error.strerror or error}") from None
        return str(place)

    def sweep(self) -> None:
        """Take away the twins of files that are gone: a link that is left alone. A copy, on another disk, goes too."""
        for twin in self.served.glob(f"{TWIN}*/*"):
            with suppress(OSError):
                if twin.is_file() and twin.stat().st_nlink == 1:
                    twin.unlink()

    def shown(self, path: str | Path | None) -> str | None:
        """`show`, or None where there is no such file, as when a run is deleted while someone looks at it."""
        if path is None:
            return None
        with suppress(InputError):
            return self.show(path)
        return None


def told(error: Exception) -> str:
    """An error as one line, worded as the command line does; one that nobody foresaw leaves a traceback in the log."""
    if isinstance(error, EraseError):
        return "; ".join(printable(line.strip()) for line in str(error).splitlines() if line.strip())
    traceback.print_exception(error, file=sys.stderr)
    return f"unexpected {type(error).__name__}: {printable(' '.join(str(error).split()))}"


def guarded(handler: Callable[..., Result]) -> Callable[..., Result]:
    """The handler, whose errors reach the page as a line in a corner. It shows HTML, so the line is escaped."""

    @functools.wraps(handler)
    def call(*args: Any, **kwargs: Any) -> Result:
        try:
            return handler(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error(escape(told(error)), title="That did not work", print_exception=False) from None

    return call

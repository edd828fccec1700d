"""A Ctrl-C that a library swallowed is not lost.

While packages are imported Python may run a callback whose errors it only prints, KeyboardInterrupt too; the command
would go on as if nobody had asked. `remember` notes the signal before it is raised, `check` raises it again.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType

_asked: list[int] = []


def remember() -> None:
    """Note each Ctrl-C from now on, where it does what it does by default and nobody else has asked for it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):  # in another thread than the main one, which gets no signals
            signal.signal(signal.SIGINT, _note)


def _note(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt if one was noted and came to nothing."""
    if _asked:
        raise KeyboardInterrupt


def forget() -> None:
    """The command ended: what was noted was for it, and Ctrl-C does what it did before."""
    _asked.clear()
    if signal.getsignal(signal.SIGINT) is _note:
        with suppress(ValueError):
            signal.signal(signal.SIGINT, signal.default_int_handler)

"""Every error that a user can meet, and the exit code it ends with.

    EraseError            1   a run failed
    ├── InputError        2   something given from outside is wrong
    │   └── Unresumable   2   what a run saved is broken or of another one
    └── Interrupted     130   stopped on request; the run can be resumed

The text of an error is one line: what is wrong, the value got, what to do next.
"""

from __future__ import annotations

AFRESH = "start a new run"  # in the text of each `Unresumable`, by which a batch tells it from other wrong input


class EraseError(Exception):
    """A run failed; what it had saved is kept."""

    exit_code = 1


class InputError(EraseError):
    """A value, file or folder given from outside cannot be used."""

    exit_code = 2


class Unresumable(InputError):
    """What a run saved cannot be gone on with, whatever is tried. Its text holds `AFRESH`, for other processes."""


class Interrupted(EraseError):
    """The user asked to stop; the state is on disk."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """What another library's error says first; its kind, where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def printable(text: str) -> str:
    """Text with names from outside in it, its line breaks and control codes escaped: one line that moves no cursor."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)

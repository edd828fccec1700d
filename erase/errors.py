"""Every error that a user can meet, and the exit code it ends with.

    EraseError            1   a run failed
    ├── InputError        2   something given from outside is wrong
    └── Interrupted     130   stopped on request; the run can be resumed

The text of an error is one line: what is wrong, the value got, what to do next.
"""

from __future__ import annotations


class EraseError(Exception):
    """A run failed; what it had saved is kept."""

    exit_code = 1


class InputError(EraseError):
    """A value, file or folder given from outside cannot be used."""

    exit_code = 2


class Interrupted(EraseError):
    """The user asked to stop; the state is on disk."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """What another library's error says first; its kind, where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def printable(text: str) -> str:
    """Text with names from outside in it, its line breaks and control codes escaped: one line that moves no cursor."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)

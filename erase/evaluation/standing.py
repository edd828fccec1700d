"""In which order runs are shown: none that destroyed pictures, or other concepts, stands above one that erased."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from erase.errors import InputError
from erase.evaluation.metrics import verdict

# What says nothing of the method comes after what does, then lost concepts, and destroyed pictures last; all else keeps
# its place.
LATER = {"not drawn before": 1, "validity not known": 1, "others lost": 2, "degenerate": 3}


def standing(found: Sequence[Any]) -> str:
    """The verdict on a run's scores, "" where they are none of a judged run."""
    try:
        return verdict(found) if found else ""
    except InputError:
        return ""


def standing_of(found: Sequence[dict[str, Any]]) -> str:
    """`standing` of scores as `workflow.evaluate` returns them."""
    return standing([SimpleNamespace(**score) for score in found])


def place(word: str) -> int:
    """What to sort by, stably, for a run with this verdict."""
    return LATER.get(word, 0)

"""A finished run's pictures before and after, with what the judge saw, and whether they are to be blurred."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from erase.ui.roots import Roots


@dataclass(frozen=True, slots=True)
class Twin:
    """One prompt and seed, before and after. `role` as in report.json; an answer is "", `good` None: not judged."""

    role: str
    prompt: str
    seed: int
    expected: str
    before: Path
    after: Path
    before_answer: str = ""
    after_answer: str = ""
    before_good: bool | None = None
    after_good: bool | None = None


def twins(roots: Roots, name: str) -> list[Twin]:
    """The pictures that a run's report shows. Raises `InputError` where there is no report yet."""
    raise NotImplementedError

"""A finished run's pictures before and after, with what the judge saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from erase import runs
from erase.errors import InputError
from erase.report.schema import read_report
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
    """The pictures that a run's report shows, forget prompts first. Raises `InputError` where there is no report yet.

    One whose file was removed is left out.
    """
    folder = roots.run(name)
    if not (folder / runs.REPORT).is_file():
        raise InputError(f"run {name!r} has no report yet; finish or evaluate it first")
    found = []
    for pair in read_report(folder / runs.REPORT).images:
        try:
            before, after = (roots.file(folder / picture.path) for picture in (pair.before, pair.after))
        except InputError:
            continue
        answers = pair.before.answer, pair.after.answer, pair.before.good, pair.after.good
        found.append(Twin(pair.role, pair.prompt, pair.seed, pair.expected, before, after, *answers))
    return sorted(found, key=lambda twin: twin.role != "forget")

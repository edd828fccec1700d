"""One run against another on equal prompts, seeds and noise: what an interval for each alone cannot tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from erase.errors import InputError
from erase.evaluation.metrics import Change, changes
from erase.evaluation.paired import holm
from erase.evaluation.rows import Row, reported_judge, twin_key

SHARED = ("target", "domain", "prompt", "expected", "sampler", "steps", "cfg", "noise_hash")


def versus(first: Sequence[Row], others: Mapping[str, Sequence[Row]]) -> dict[str, list[Change]]:
    """Other minus first in every score, over the pictures that each drew after its erasing.

    The tests are those of `changes`; Holm's family is every difference of every other run here. Raises `InputError`
    for runs that were not asked the same: other concepts, prompts, seeds, steps or base pictures.
    """
    judge = reported_judge(first)
    found = {name: changes(twins(first, rows, name), judge=judge) for name, rows in others.items()}
    adjusted = holm({f"{name}\n{c.name}": c.p for name, given in found.items() for c in given})
    return {name: [replace(c, p_holm=adjusted[f"{name}\n{c.name}"]) for c in given] for name, given in found.items()}


def twins(first: Sequence[Row], other: Sequence[Row], name: str) -> list[Row]:
    """Rows of both as if the first run was before and the other after. Raises `InputError` as `versus` does."""
    ours, theirs = ({twin_key(row): row for row in rows if row["arm"] == "after"} for rows in (first, other))
    if ours.keys() != theirs.keys():
        raise InputError(f"{name} was asked other prompts or seeds; judge both by the same settings")
    if reported_judge(first) != reported_judge(other):
        raise InputError(f"{name} was judged by {reported_judge(other)}, not by {reported_judge(first)}")
    for key, row in ours.items():
        unlike = [field for field in SHARED if row[field] != theirs[key][field]]
        if unlike:
            raise InputError(f"{name} differs in {', '.join(unlike)}; only runs that were asked the same are compared")
    run = next(iter(ours.values()))["run_id"]
    before = [{**row, "arm": "before"} for row in ours.values()]
    return before + [{**row, "run_id": run} for row in theirs.values()]

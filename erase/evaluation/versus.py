"""One run against another on equal prompts, seeds and noise: what an interval for each alone cannot tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from erase.errors import InputError
from erase.evaluation.metrics import Change, changes
from erase.evaluation.paired import holm
from erase.evaluation.rows import SHARED, Row, reported_judge, twin_key

# What a judge says of itself without deciding its answers: the name of a file whose hash is there, and what it counted.
ASIDE = ("file", "detections", "pictures")
Facts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged run: its rows, and what each of its judges says of itself (`judges` of report.json)."""

    rows: Sequence[Row]
    judges: Facts = field(default_factory=dict)


def versus(first: Judged, others: Mapping[str, Judged]) -> tuple[dict[str, list[Change]], dict[str, str]]:
    """Other minus first in every score that both have, over the pictures that each drew after its erasing.

    The tests are those of `changes`; Holm's family is every difference of every other run here. Beside it, the runs
    that are not compared and why: other concepts, prompts, seeds, steps, another base model, or other judges.
    """
    found: dict[str, list[Change]] = {}
    refused: dict[str, str] = {}
    for name, other in others.items():
        try:
            found[name] = changes(twins(first, other, name), judge=reported_judge(first.rows))
        except InputError as error:
            refused[name] = str(error)
    adjusted = holm({f"{name}\n{c.name}": c.p for name, given in found.items() for c in given})
    return {
        name: [replace(c, p_holm=adjusted[f"{name}\n{c.name}"]) for c in given] for name, given in found.items()
    }, refused


def twins(first: Judged, other: Judged, name: str) -> list[Row]:
    """Rows of both, with the judges that both have, as if the first run was before and the other after.

    Raises `InputError` for what `versus` does not compare.
    """
    ours, theirs = ({twin_key(row): row for row in one.rows if row["arm"] == "after"} for one in (first, other))
    if ours.keys() != theirs.keys():
        raise InputError(f"{name} was asked other prompts or seeds; judge both by the same settings")
    if reported_judge(first.rows) != reported_judge(other.rows):
        raise InputError(f"{name} was judged by {reported_judge(other.rows)}, not by {reported_judge(first.rows)}")
    for key, row in ours.items():
        unlike = [label for label in SHARED if row[label] != theirs[key][label]]
        if unlike:
            raise InputError(f"{name} differs in {', '.join(unlike)}; only runs that were asked the same are compared")
    bases = [{row["model_sha"] for row in one.rows if row["arm"] == "before"} for one in (first, other)]
    if bases[0] != bases[1]:
        raise InputError(f"{name} began from other weights; only runs on one base model are compared")
    shared = common_judges(first.rows, other.rows)
    fault = unlike_judges(first.judges, other.judges, shared)
    if fault:
        raise InputError(f"{name} was judged otherwise, {fault}; judge both by the same judges")
    run = next(iter(ours.values()))["run_id"]
    before = [{**row, "arm": "before"} for row in ours.values()]
    return judged_by(before + [{**row, "run_id": run} for row in theirs.values()], shared)


def common_judges(rows: Sequence[Row], *others: Sequence[Row]) -> list[str]:
    """The judges of the rows that looked at all others too, in the first rows' order."""
    return [name for name in rows[0]["judges"] if all(name in one[0]["judges"] for one in others)]


def judged_by(rows: Sequence[Row], judges: Sequence[str]) -> list[Row]:
    """The rows with these judges' answers alone, so that no score is made of others."""
    return [{**row, "judges": {name: row["judges"][name] for name in judges}} for row in rows]


def deciding(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What of a judge's facts decides its answers."""
    found = {key: value for key, value in facts.items() if key not in ASIDE}
    return {k: deciding(v) if isinstance(v, Mapping) else v for k, v in found.items()}


def unlike_judges(first: Facts, other: Facts, names: Sequence[str]) -> str:
    """Which fact of which judge differs between two runs, "" where none does: one name may stand for two models."""
    for name in names:
        own, its = (deciding(facts.get(name, {})) for facts in (first, other))
        keys = [key for key in {**own, **its} if own.get(key) != its.get(key)]
        if keys:
            return f"{name} differs in {', '.join(_told(key, own.get(key), its.get(key)) for key in keys)}"
    return ""


def _told(key: str, own: Any, its: Any) -> str:
    """The fact with both values where they fit a line; of a file or a list the name says enough."""
    short = all(isinstance(value, str | int | float) and len(str(value)) <= 40 for value in (own, its))
    return f"{key} ({its}, not {own})" if short else key

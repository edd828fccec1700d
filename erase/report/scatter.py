"""How stable a procedure is: runs that differ by seed alone, their deviation kept apart from that of judging."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from erase.errors import InputError
from erase.evaluation.stability import Deviation, Ratio, deviation, sd_ratio
from erase.report.schema import Report

LEAST = 3  # runs of which a deviation is said


@dataclass(frozen=True, slots=True)
class Scatter:
    """A score over runs that differ by seed: their mean, and `Deviation` of it.

    `ratio` is their deviation over that of the first such runs with the same model, concept and judging; None for these
    themselves, and where the runs of one are all alike.
    """

    names: tuple[str, ...]
    score: str
    mean: float
    found: Deviation
    ratio: Ratio | None = None


def scatters(judged: Sequence[tuple[str, Report]], scores: Sequence[str]) -> list[Scatter]:
    """Of named runs, those with equal settings but for the seed, `LEAST` seeds or more: each of the scores, after.

    Runs judged on equal prompts and noise share a part of the error of judging, so what is left for the runs
    themselves is a lower bound.
    """
    groups: dict[str, dict[int, tuple[str, Report]]] = {}
    for name, report in judged:
        settings = {key: value for key, value in report.config.items() if key not in ("seed", "output")}
        same = json.dumps(settings, sort_keys=True, default=str)
        groups.setdefault(same, {}).setdefault(int(report.config.get("seed") or 0), (name, report))
    found = []
    first: dict[tuple[str, str], list[float]] = {}  # by question and score
    for members in groups.values():
        if len(members) < LEAST:
            continue
        names = tuple(name for name, _ in members.values())
        config = next(iter(members.values()))[1].config
        asked = json.dumps([config.get(key) for key in ("model", "concept", "evaluate")], sort_keys=True, default=str)
        for score in scores:
            values = [report.score(score, "after") for _, report in members.values()]
            known = [value for value in values if value is not None]
            if len(known) == len(names):
                shares, deffs = [v.value for v in known], [max(v.deff or 1.0, 1.0) for v in known]
                sure = deviation(shares, [v.n for v in known], deffs)
                other = first.setdefault((asked, score), shares)
                ratio = None if other is shares else _ratio(shares, other)
                found.append(Scatter(names, score, sum(shares) / len(shares), sure, ratio))
    return found


def _ratio(shares: Sequence[float], others: Sequence[float]) -> Ratio | None:
    try:
        return sd_ratio(shares, others)
    except InputError:  # runs that are all alike have no deviation to divide by
        return None

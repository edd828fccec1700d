"""How stable a procedure is: runs that differ by seed alone, their deviation kept apart from that of judging."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from erase.evaluation.stability import Deviation, deviation
from erase.report.schema import Report

LEAST = 3  # runs of which a deviation is said


@dataclass(frozen=True, slots=True)
class Scatter:
    """A score over runs that differ by seed: their mean, and `Deviation` of it."""

    names: tuple[str, ...]
    score: str
    mean: float
    found: Deviation


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
    for members in groups.values():
        if len(members) < LEAST:
            continue
        names = tuple(name for name, _ in members.values())
        for score in scores:
            values = [report.score(score, "after") for _, report in members.values()]
            known = [value for value in values if value is not None]
            if len(known) == len(names):
                shares, deffs = [v.value for v in known], [max(v.deff or 1.0, 1.0) for v in known]
                sure = deviation(shares, [v.n for v in known], deffs)
                found.append(Scatter(names, score, sum(shares) / len(shares), sure))
    return found

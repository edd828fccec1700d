"""How far an erased model is from one that was trained without the concept, beside how far such models are apart.

The target of erasing is not a forget accuracy of zero but the gap to retraining: a gold model too draws a fox that a
judge takes for a cat now and then. Golds of several seeds differ among themselves, and no gap below that means much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from erase.errors import InputError
from erase.evaluation.metrics import Metric, asked_for, metrics_of
from erase.evaluation.paired import are_hits, paired_difference
from erase.evaluation.rows import SHARED, Row, pairs, reported_judge, twin_key
from erase.evaluation.versus import common_judges, judged_by


@dataclass(frozen=True, slots=True)
class Gap:
    """One score's distance to gold: run minus the mean of the golds, over `n` pictures at equal prompts and noise.

    The interval is of the prompts alone, with the golds as they are. `floor` is the largest distance between two of
    them, `floor_low` and `floor_high` its interval; None where there is one gold. `inside`: the gap's interval reaches
    into the golds' own spread, [-floor, floor].
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    gold: float
    floor: float | None = None
    floor_low: float | None = None
    floor_high: float | None = None

    @property
    def inside(self) -> bool | None:
        """Whether the run cannot be told from one more gold by this score; None where the floor is not known."""
        return None if self.floor is None else self.low <= self.floor and self.high >= -self.floor


def gold_gaps(rows: Sequence[Row], golds: Mapping[str, Sequence[Row]]) -> list[Gap]:
    """Gaps of all scores of a run's rows to the rows of gold runs, by name, as the judges that all of them have say.

    Raises `InputError` for no gold, for one that was asked for other pictures than the run, and for one whose reporting
    judge is another.
    """
    if not golds:
        raise InputError("gold: there is none; name at least one")
    judge = reported_judge(rows)
    for gold, its in golds.items():
        if reported_judge(its) != judge:
            raise InputError(f"gold {gold} was judged by {reported_judge(its)}, not by {judge}; judge both alike")
    shared = common_judges(rows, *golds.values())
    rows, golds = judged_by(rows, shared), {name: judged_by(its, shared) for name, its in golds.items()}
    found = []
    for name, metric in metrics_of(rows).items():
        own, clusters, keys = _measured(rows, metric, judge)
        theirs = []
        for gold, its in golds.items():
            values, _, others = _measured(its, metric, judge)
            if others != keys:
                raise InputError(f"gold {gold} was asked for other pictures than the run; evaluate both with one set")
            theirs.append(values)
        found.append(gap_of(name, own, theirs, clusters))
    return found


def gap_of(
    name: str,
    own: Sequence[float],
    theirs: Sequence[Sequence[float]],
    clusters: Sequence[str],
    *,
    shares: bool = False,
) -> Gap:
    """The gap of one score: its number for each picture of the run and of each gold, and the pictures' prompts.

    `shares`: the numbers are means of hits. Hits are found by themselves, and their mean over golds is a share.
    """
    mean, shares = list(np.mean(theirs, axis=0)), shares or are_hits(own, *theirs)
    gap = paired_difference(mean, own, clusters, shares=shares)
    apart = [paired_difference(one, other, clusters, shares=shares) for one, other in combinations(theirs, 2)]
    floor = max(apart, key=lambda d: abs(d.value), default=None)
    spread = (None, None, None)
    if floor is not None:  # as a distance: the sign says only which gold came first
        low, high = (floor.low, floor.high) if floor.value >= 0 else (-floor.high, -floor.low)
        spread = (abs(floor.value), low, high)
    return Gap(name, gap.value, gap.low, gap.high, gap.n, float(np.mean(mean)), *spread)


def _measured(rows: Sequence[Row], metric: Metric, judge: str) -> tuple[list[float], list[str], list[object]]:
    """A score's number for each picture after, its prompt, and what the picture was made from beside the weights."""
    after = [row for _, row in pairs(rows, metric.role) if metric.about in (None, asked_for(row))]
    values = [metric.measure(row, judge) for row in after]
    return values, [row["prompt_id"] for row in after], [_made_from(row) for row in after]


def _made_from(row: Row) -> object:
    return twin_key(row), *(row[key] for key in SHARED)

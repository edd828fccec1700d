"""What a judge's own errors do to a rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from erase.errors import InputError
from erase.evaluation.metrics import answer, asked_for
from erase.evaluation.rows import Row
from erase.evaluation.statistics import effective_size, wilson_bounds

FEWEST = 20  # pictures without the concept, below which a rate of false alarms says nothing


@dataclass(frozen=True, slots=True)
class Corrected:
    """A rate with the judge's errors taken out and its 95 % interval, cut to 0 to 1.

    `resolved` is False where the rate seen is no more than twice what the judge calls a hit on nothing: then only
    `high`, an upper bound, may be claimed.
    """

    value: float
    low: float
    high: float
    resolved: bool


def rogan_gladen(seen: float, sensitivity: float, specificity: float) -> float:
    """The true rate behind a rate `seen` by an imperfect judge: (seen + sp - 1) / (se + sp - 1) (Rogan, Gladen 1978).

    Not cut: a value below 0 says that the rate lies below the judge's resolution.
    """
    if not 0 <= seen <= 1 or not 0 <= sensitivity <= 1 or not 0 <= specificity <= 1:
        raise InputError(f"rates must lie in 0 to 1; got {seen}, {sensitivity}, {specificity}")
    power = sensitivity + specificity - 1
    if power <= 0:
        raise InputError(f"a judge of sensitivity {sensitivity}, specificity {specificity} tells nothing; use another")
    return (seen + specificity - 1) / power


def corrected(
    seen: float, n: float, found: tuple[float, float], refused: tuple[float, float], confidence: float = 0.95
) -> Corrected:
    """Rogan and Gladen's rate with an interval that counts the judge's errors as estimated too (Lang, Reiczigel 2014).

    `seen` is a share of n pictures; `found` is (hits, pictures) of the judge on pictures of the concept, `refused`
    (refusals, pictures) on pictures without it; all are effective numbers, which for two or three prompts lie below 1,
    so that little can be claimed. With
    n' = n + z^2, p' = (n p + z^2 / 2) / n', Se' = (hits + 1) / (n_Se + 2), Sp' alike and r' the rate of these,
    r' + 2 z^2 (r' Se'(1-Se')/n_Se' - (1-r') Sp'(1-Sp')/n_Sp')
      -+ z / (Se' + Sp' - 1) sqrt(p'(1-p')/n' + r'^2 Se'(1-Se')/n_Se' + (1-r')^2 Sp'(1-Sp')/n_Sp').
    A rate that is not resolved is bounded above by that of a judge without false alarms as well, and below by 0.
    """
    for hits, size in (found, refused):
        if size <= 0 or not 0 <= hits <= size:
            raise InputError(f"a judge's rate needs 0 <= hits <= n and n > 0; got {hits} of {size}")
    if n <= 0:
        raise InputError(f"a rate needs pictures; got {n}")
    sensitivity, specificity = found[0] / found[1], refused[0] / refused[1]
    value = rogan_gladen(seen, sensitivity, specificity)
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    size = n + z * z
    p = (n * seen + z * z / 2) / size
    se, sp = ((hits + 1) / (total + 2) for hits, total in (found, refused))
    rate = (p + sp - 1) / (se + sp - 1)
    of_se, of_sp = se * (1 - se) / (found[1] + 2), sp * (1 - sp) / (refused[1] + 2)
    middle = rate + 2 * z * z * (rate * of_se - (1 - rate) * of_sp)
    half = z / (se + sp - 1) * math.sqrt(p * (1 - p) / size + rate**2 * of_se + (1 - rate) ** 2 * of_sp)
    low, high, shown = (min(1.0, max(0.0, end)) for end in (middle - half, middle + half, value))
    resolved = seen > 2 * (1 - specificity)
    if not resolved:
        low, high = 0.0, max(high, min(1.0, wilson_bounds(seen, n, confidence)[1] / se))
    return Corrected(shown, min(low, shown), max(high, shown), resolved)


@dataclass(frozen=True, slots=True)
class Left:
    """The share of a concept that is left of what the unerased model drew, without the judge's false alarms.

    `alarms` of `n_alarms` kept pictures before are called the concept. `value`, `low`, `high` and `resolved` are those
    of `Corrected`.
    """

    name: str
    alarms: int
    n_alarms: int
    value: float
    low: float
    high: float
    resolved: bool


def left(rows: Sequence[Row], *, judge: str = "conv") -> list[Left]:
    """What is left of each concept that `forget` rows ask for, by name.

    A share r of what was drawn (before, the judge names b of the pictures; f of those without the concept) is seen as
    a = r b + (1 - r) f, so r = (a - f) / (b - f): Rogan and Gladen's rate with b for the sensitivity, which needs no
    word on how often the unerased model draws the concept at all. f is taken from the kept pictures before. Before
    and after are reckoned with as independent, which their common noise makes too wide rather than too narrow.

    Concepts of one prompt, those with fewer than `FEWEST` such pictures, and those that the unerased model draws no
    oftener than the judge sees them where they are not, are left out.
    """

    def called(row: Row, name: str) -> bool:
        return bool(row["valid"]) and answer(row, row["domain"], judge) == name

    def counts(chosen: Sequence[Row], name: str) -> tuple[float, float]:
        """Share called the concept, and the effective number of pictures."""
        hits = [float(called(row, name)) for row in chosen]
        _, size = effective_size(hits, [row["prompt_id"] for row in chosen])
        return sum(hits) / len(hits), size

    forget = [row for row in rows if row["role"] == "forget"]
    kept = {
        (row["prompt_id"], row["seed"]): row
        for row in rows
        if row["arm"] == "before" and row["role"] in ("retain_in", "neighbour")
    }
    found = []
    for name in sorted({asked_for(row) for row in forget}):
        arms = [[row for row in forget if row["arm"] == arm and asked_for(row) == name] for arm in ("before", "after")]
        others = [row for row in kept.values() if asked_for(row) != name]
        if len(others) < FEWEST or any(len({row["prompt_id"] for row in of}) < 2 for of in (*arms, others)):
            continue
        (before, n_before), (after, n_after), (alarms, n_others) = (counts(of, name) for of in (*arms, others))
        if before <= alarms:
            continue
        refused = (1 - alarms) * n_others, n_others
        rate = corrected(after, n_after, (before * n_before, n_before), refused)
        hits = sum(called(row, name) for row in others)
        found.append(Left(name, hits, len(others), rate.value, rate.low, rate.high, rate.resolved))
    return found

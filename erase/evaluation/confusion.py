"""What a judge's own errors do to a rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from erase.errors import InputError
from erase.evaluation.statistics import wilson_bounds


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
    seen: float, n: float, found: tuple[int, int], refused: tuple[int, int], confidence: float = 0.95
) -> Corrected:
    """Rogan and Gladen's rate with an interval that counts the judge's errors as estimated too (Lang, Reiczigel 2014).

    `seen` is a share of n pictures (an effective number where prompts have several seeds); `found` is (hits, pictures)
    of the judge on pictures of the concept, `refused` (refusals, pictures) on pictures without it. With
    n' = n + z^2, p' = (n p + z^2 / 2) / n', Se' = (hits + 1) / (n_Se + 2), Sp' alike and r' the rate of these,
    r' + 2 z^2 (r' Se'(1-Se')/n_Se' - (1-r') Sp'(1-Sp')/n_Sp')
      -+ z / (Se' + Sp' - 1) sqrt(p'(1-p')/n' + r'^2 Se'(1-Se')/n_Se' + (1-r')^2 Sp'(1-Sp')/n_Sp').
    A rate that is not resolved is bounded above by that of a judge without false alarms as well, and below by 0.
    """
    for hits, size in (found, refused):
        if size < 1 or not 0 <= hits <= size:
            raise InputError(f"a judge's rate needs 0 <= hits <= n and n >= 1; got {hits} of {size}")
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

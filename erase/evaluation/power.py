"""How many prompts, pairs or runs a claim takes, and what to say where there are too few."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy import stats

from erase.errors import InputError
from erase.evaluation.statistics import wilson_bounds

WANTED = 0.02  # half-width of an interval that the advice aims at: 2 points
MOST = 10_000_000


def prompts_for(p: float, half: float = WANTED, deff: float = 1.0) -> int:
    """Fewest independent trials, times `deff`, at which Wilson's 95 % interval of a share p is `half` wide to a side.

    Half the width counts, so that a share of 0 or 1 has an answer too. Raises `InputError` for what is no share.
    """
    if not 0 <= p <= 1 or not 0 < half < 0.5 or deff <= 0:
        raise InputError(f"a sample size needs p in 0 to 1, half-width in 0 to 0.5, deff > 0; got {p}, {half}, {deff}")

    def fits(n: int) -> bool:
        low, high = wilson_bounds(p, n)
        return (high - low) / 2 <= half

    return math.ceil(_smallest(fits) * deff)


def pairs_for(difference: float, discordant: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Fewest twins at which McNemar's test finds a difference of shares, `discordant` being the share that changes.

    n = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 / d^2 (Connor 1987), psi = discordant.
    """
    if not 0 < abs(difference) <= discordant <= 1:
        raise InputError(f"pairs need 0 < |difference| <= discordant <= 1; got {difference}, {discordant}")
    first, second = float(stats.norm.ppf(1 - alpha / 2)), float(stats.norm.ppf(power))
    root = first * math.sqrt(discordant) + second * math.sqrt(discordant - difference**2)
    return math.ceil((root / difference) ** 2)


def runs_for(ratio: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Fewest runs an arm at which the F test tells two deviations apart that differ by `ratio` (runs are normal).

    Power is P(F > F_crit / ratio^2) + P(F < F'_crit / ratio^2) at R - 1 and R - 1 degrees of freedom.
    """
    if not ratio > 1:
        raise InputError(f"a ratio of deviations must be above 1; got {ratio}")

    def fits(runs: int) -> bool:
        if runs < 2:
            return False
        upper, lower = (float(stats.f.ppf(q, runs - 1, runs - 1)) / ratio**2 for q in (1 - alpha / 2, alpha / 2))
        return float(stats.f.sf(upper, runs - 1, runs - 1) + stats.f.cdf(lower, runs - 1, runs - 1)) >= power

    return _smallest(fits)


def prompts_to_decide(value: float, low: float, high: float, margin: float, prompts: int) -> int | None:
    """Prompts at which the interval of a change would leave -margin outside, if its value stayed as it is.

    The width falls with the square root of the prompts. None where the value is the margin itself.
    """
    away = abs(value + margin)
    reach = value - low if value > -margin else high - value
    if away < 1e-9:
        return None
    return max(prompts, math.ceil(prompts * (reach / away) ** 2) + 1)


def advice(
    widths: Sequence[tuple[str, float, float, float, int]], half: float = WANTED
) -> list[tuple[str, float, int]]:
    """For each (name, share, low, high, prompts) wider than `half` to a side: (name, half-width, prompts to reach it).

    The design effect is read off the interval itself: its width against that of independent prompts.
    """
    found = []
    for name, share, low, high, prompts in widths:
        reach = (high - low) / 2
        if reach > half:
            plain = wilson_bounds(share, prompts)
            worse = max(1.0, (reach / ((plain[1] - plain[0]) / 2)) ** 2)
            found.append((name, reach, prompts_for(share, half, worse)))
    return found


def _smallest(fits: Callable[[int], bool]) -> int:
    """Least n from 1 on for which `fits`, which stays true once it is."""
    high = 1
    while not fits(high):
        high *= 2
        if high > MOST:
            raise InputError(f"more than {MOST:,} would be needed; ask for less")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high

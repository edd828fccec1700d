"""Before against after on equal prompts, seeds and noise: pairs say more than two intervals side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import optimize, stats

from erase.errors import InputError
from erase.evaluation.statistics import BLOCK, Interval, cluster_bootstrap, effective_size

MARGIN = 0.05  # points of accuracy that an erasure may cost before it counts as damage
ALPHA = 0.05  # of a whole family of changes
FLIPS = 4999
Retained = Literal["kept", "lost", "undecided"]


class Adjusted(Protocol):
    """A change with its interval and its p in the family."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def p_holm(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Discordance:
    """Pairs that were right before only (`lost`), after only (`gained`), and McNemar's exact two-sided p."""

    lost: int
    gained: int
    p: float


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> Discordance:
    """McNemar's exact test on twins: under no change, lost ~ Binomial(lost + gained, 1/2)."""
    _twinned(before, after)
    lost = sum(bool(b) and not a for b, a in zip(before, after, strict=True))
    gained = sum(bool(a) and not b for b, a in zip(before, after, strict=True))
    p = float(stats.binomtest(lost, lost + gained, 0.5).pvalue) if lost + gained else 1.0
    return Discordance(lost, gained, p)


def sign_flip(change: Sequence[float], clusters: Sequence[str], *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p of no change: where before and after are exchangeable, a cluster's sum may as well be its opposite.

    p = (1 + #{|flipped total| >= |total|}) / (1 + flips) (Fisher 1935; Phipson and Smyth 2010 for the ones). All 2^K
    signs are tried where that is fewer. Holds for scores, and for several pictures a prompt, where McNemar's does not.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    values = np.asarray(change, dtype=np.float64)
    order = np.lexsort((values, index))
    sums = np.bincount(index[order], weights=values[order], minlength=len(names))
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    least = abs(float(sums.sum())) * (1 - 1e-12)
    if len(sums) <= math.log2(flips):
        signs = 1 - 2.0 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
        return float((np.abs(signs @ sums) >= least).mean())
    rng, found = np.random.default_rng(seed), 0
    block = max(1, BLOCK // len(sums))
    for start in range(0, flips, block):
        signs = rng.integers(2, size=(min(block, flips - start), len(sums))) * 2.0 - 1
        found += int((np.abs(signs @ sums) >= least).sum())
    return (1 + found) / (1 + flips)


def tango(lost: float, gained: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of the paired difference (gained - lost) / n (Tango 1998).

    The differences D for which |gained - lost - n D| <= z sqrt(n (2 q + D (1 - D))), where q is the probability of a
    loss that is likeliest given D: the larger root of 2n q^2 + B q - lost D (1 - D) with
    B = -lost - gained + (2n - gained + lost) D. Counts may be divided by a design effect and so no whole numbers.
    Raises `InputError` where the counts do not fit n.
    """
    if n <= 0 or lost < 0 or gained < 0 or lost + gained > n * (1 + 1e-9):
        raise InputError(f"a paired difference needs lost + gained <= n and n > 0; got {lost}, {gained}, {n}")
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    value = (gained - lost) / n

    def beyond(d: float) -> float:
        b = -lost - gained + (2 * n - gained + lost) * d
        q = (math.sqrt(max(0.0, b * b + 8 * n * lost * d * (1 - d))) - b) / (4 * n)
        spread = math.sqrt(max(0.0, n * (2 * q + d * (1 - d))))
        return abs(gained - lost - n * d) - z * spread

    def end(limit: float) -> float:
        start = value + 1e-9 * (limit - value)  # at an estimate of 0, 1 or -1 the spread is 0 too
        if abs(limit - value) < 1e-12 or beyond(start) >= 0:
            return value
        return (
            limit
            if beyond(limit) <= 0
            else float(optimize.root_scalar(beyond, bracket=(start, limit), method="brentq", xtol=1e-12).root)
        )

    return end(-1.0), end(1.0)


def paired_difference(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[str], *, shares: bool = False, seed: int = 0
) -> Interval:
    """Interval of mean(after - before) over twins.

    Hits (0 or 1) get Tango's, at the effective number of pairs where prompts have several seeds; scores the bootstrap
    over clusters of the difference. `shares` are means of hits, from 0 to 1: a difference d of such varies no more than
    hits that differ as often as |d| sums to, so they get Tango's at these sums. A bootstrap claims certainty where few
    prompts differ.
    """
    _twinned(before, after)
    if not len(before) or len(before) != len(clusters):
        raise InputError(f"a score needs rows, each with its prompt; got {len(before)} rows, {len(clusters)} prompts")
    change = [float(a) - float(b) for b, a in zip(before, after, strict=True)]
    if not shares and not are_hits(before, after):
        return cluster_bootstrap(change, clusters, seed=seed)
    n, groups = len(change), len(set(clusters))
    lost, gained = (math.fsum(max(0.0, sign * d) for d in change) for sign in (-1, 1))
    deff, effective = (1.0, float(n)) if groups == n else effective_size(change, clusters)
    low, high = tango(lost * effective / n, gained * effective / n, effective)
    value = (gained - lost) / n
    method = "tango" if groups == n else "tango-deff"
    return Interval(value, min(low, value), max(high, value), n, groups, deff, method)


def are_hits(*values: Sequence[float]) -> bool:
    """Whether all are 0 or 1."""
    return {float(v) for each in values for v in each} <= {0.0, 1.0}


def non_inferiority(low: float, high: float, margin: float = MARGIN) -> Retained:
    """Did a change of accuracy stay above -margin? From its two-sided 95 % interval, so at 2.5 % one-sided.

    "kept": the whole interval is above -margin; "lost": the whole of it below; else more prompts are needed. That a
    test found no difference (p > .05) is never taken for the absence of one.
    """
    if not 0 < margin < 1 or low > high:
        raise InputError(f"non-inferiority needs a margin inside 0 to 1 and low <= high; got {margin}, {low}, {high}")
    return "kept" if low > -margin else "lost" if high < -margin else "undecided"


def equivalent(low: float, high: float, margin: float = MARGIN) -> bool:
    """Do two models agree to within the margin? Two one-sided tests: the interval lies inside -margin to margin.

    With a 95 % interval that is TOST at 2.5 % (Schuirmann 1987).
    """
    return non_inferiority(low, high, margin) == "kept" and high < margin


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p (1979) over a declared family: the i-th smallest times (m - i), never falling, at most 1.

    Rejecting where it is at most alpha keeps the chance of any false claim in the family at alpha.
    """
    if any(not 0 <= value <= 1 for value in p.values()):
        raise InputError(f"p values must lie in 0 to 1; got {dict(p)}")
    found, worst = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda key: (p[key], key))):
        worst = max(worst, min(1.0, (len(p) - rank) * p[name]))
        found[name] = worst
    return {name: found[name] for name in p}


def beyond_chance(change: Adjusted) -> bool:
    """Whether a report may call a change one: its own 95 % interval holds no 0, and Holm's p is at most 5 %.

    Among ten changes of which none is real one such interval in three reports misses 0 by chance alone. A change of an
    older report, without p, is not called one.
    """
    return not change.low <= 0 <= change.high and change.p_holm is not None and change.p_holm <= ALPHA


def _twinned(before: Sequence[float], after: Sequence[float]) -> None:
    if len(before) != len(after):
        raise InputError(f"{len(before)} rows before, {len(after)} after: every picture needs its twin")

"""Intervals and tests. Pictures of one prompt resemble each other, so prompts are what is resampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from erase.errors import InputError

RESAMPLES = 2000
FEW = 30  # below so many clusters the percentiles of a bootstrap are too narrow


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval, pictures, independent clusters, design effect, and how it was made.

    `deff` is the variance of the estimate over that of as many independent pictures.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int
    deff: float
    method: str


@dataclass(frozen=True, slots=True)
class Discordance:
    """Pairs that were right before only (`lost`), after only (`gained`), and McNemar's exact two-sided p."""

    lost: int
    gained: int
    p: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion of independent trials (Wilson 1927).

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Raises `InputError` for n = 0.
    """
    if n < 1 or not 0 <= successes <= n:
        raise InputError(f"a proportion needs 0 <= successes <= n and n >= 1; got {successes} of {n}")
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    p = successes / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else (middle - half) / scale
    high = 1.0 if successes == n else (middle + half) / scale
    return Interval(p, low, high, n, n, 1.0, "wilson")


def cluster_bootstrap(
    values: Sequence[float],
    clusters: Sequence[str],
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of a mean by resampling whole clusters with replacement.

    Percentiles with `FEW` clusters or more; with fewer, the bootstrap's deviation times Student's t at K - 1,
    corrected by sqrt(K / (K - 1)) and cut to `bounds`. The order of the rows does not matter.
    """
    sums, counts = _totals(values, clusters)
    n, groups = int(counts.sum()), len(sums)
    mean = float(sums.sum() / n)
    if groups < 2:
        raise InputError(f"an interval needs 2 prompts or more; got {groups} with {n} pictures; raise evaluate.prompts")
    deff = _design_effect(values, mean, sums, counts)
    draws = np.random.default_rng(seed).integers(groups, size=(resamples, groups))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    tail = (1 - confidence) / 2
    if groups >= FEW:
        low, high = (float(q) for q in np.quantile(means, [tail, 1 - tail]))
        return Interval(mean, min(low, mean), max(high, mean), n, groups, deff, "bootstrap")
    half = float(stats.t.ppf(1 - tail, groups - 1) * means.std() * math.sqrt(groups / (groups - 1)))
    return Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), n, groups, deff, "bootstrap-t")


def proportion(hits: Sequence[bool], clusters: Sequence[str], *, seed: int = 0) -> Interval:
    """Share of hits: Wilson where every cluster has one row, else the bootstrap over clusters.

    When all rows agree a bootstrap would claim certainty; then it is Wilson's over the number of clusters.
    """
    _checked(hits, clusters)
    groups, total = len(set(clusters)), sum(map(bool, hits))
    if groups == len(hits):
        return wilson(total, groups)
    if total in (0, len(hits)):
        cautious = wilson(groups if total else 0, groups)
        deff = len(hits) / groups
        return Interval(cautious.value, cautious.low, cautious.high, len(hits), groups, deff, "wilson-clusters")
    return cluster_bootstrap([float(h) for h in hits], clusters, bounds=(0.0, 1.0), seed=seed)


def paired_difference(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[str], *, seed: int = 0
) -> Interval:
    """Interval of mean(after - before) over twins, by resampling clusters.

    Where hits (0 or 1) all change alike, the width is Wilson's over the clusters instead of nothing.
    """
    if len(before) != len(after):
        raise InputError(f"{len(before)} rows before, {len(after)} after: every picture needs its twin")
    _checked(before, clusters)
    change = [float(a) - float(b) for b, a in zip(before, after, strict=True)]
    binary = {float(v) for v in (*before, *after)} <= {0.0, 1.0}
    if binary and len(set(change)) == 1:
        groups = len(set(clusters))
        kept = wilson(groups, groups).low if change[0] else wilson(0, groups).high
        ends = {0.0: (-kept, kept), 1.0: (kept, 1.0), -1.0: (-1.0, -kept)}[change[0]]
        return Interval(change[0], *ends, len(change), groups, len(change) / groups, "wilson-clusters")
    return cluster_bootstrap(change, clusters, bounds=(-1.0, 1.0) if binary else (-math.inf, math.inf), seed=seed)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> Discordance:
    """McNemar's exact test on twins: under no change, lost ~ Binomial(lost + gained, 1/2)."""
    if len(before) != len(after):
        raise InputError(f"{len(before)} rows before, {len(after)} after: every picture needs its twin")
    lost = sum(bool(b) and not a for b, a in zip(before, after, strict=True))
    gained = sum(bool(a) and not b for b, a in zip(before, after, strict=True))
    p = float(stats.binomtest(lost, lost + gained, 0.5).pvalue) if lost + gained else 1.0
    return Discordance(lost, gained, p)


def _checked(values: Sequence[float], clusters: Sequence[str]) -> None:
    if not len(values) or len(values) != len(clusters):
        raise InputError(f"a score needs rows, each with its prompt; got {len(values)} rows, {len(clusters)} prompts")


def _totals(values: Sequence[float], clusters: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and size of each cluster, clusters by name and values by size, so that row order leaves no trace."""
    _checked(values, clusters)
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise InputError("a score met a value that is not finite; look for NaN in rows.jsonl")
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    order = np.lexsort((found, index))
    sums = np.bincount(index[order], weights=found[order], minlength=len(names))
    return sums, np.bincount(index, minlength=len(names))


def _design_effect(values: Sequence[float], mean: float, sums: np.ndarray, counts: np.ndarray) -> float:
    """Linearised variance of the mean over clusters, divided by that of independent rows."""
    n, groups = int(counts.sum()), len(sums)
    single = float(np.var(np.sort(np.asarray(values, dtype=np.float64)), ddof=1)) / n
    if single == 0:
        return 1.0
    residual = sums - mean * counts
    return float((residual**2).sum() * groups / (groups - 1) / n**2 / single)

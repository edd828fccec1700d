"""Intervals and tests. Pictures of one prompt resemble each other, so prompts are what is resampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from erase.errors import InputError

RESAMPLES = 2000
BLOCK = 4_000_000  # numbers held at once while resampling
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

    @property
    def n_eff(self) -> float:
        """Independent pictures that would tell as much: n / deff."""
        return self.n / max(self.deff, 1.0)

    @property
    def rho(self) -> float | None:
        """How alike pictures of one prompt are: deff = 1 + (m - 1) rho, m pictures a prompt. None where m is 1."""
        size = self.n / self.clusters
        return (self.deff - 1) / (size - 1) if size > 1 else None


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion of independent trials (Wilson 1927).

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Raises `InputError` for n = 0.
    """
    if n < 1 or not 0 <= successes <= n:
        raise InputError(f"a proportion needs 0 <= successes <= n and n >= 1; got {successes} of {n}")
    p = successes / n
    return Interval(p, *wilson_bounds(p, n, confidence), n, n, 1.0, "wilson")


def wilson_bounds(p: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's bounds of a share `p` of `n` trials; n may be an effective size and no whole number."""
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if p == 0 else max(0.0, (middle - half) / scale)
    high = 1.0 if p == 1 else min(1.0, (middle + half) / scale)
    return min(low, p), max(high, p)


def few(groups: int, n: int) -> str:
    """What to say where one prompt is all there is."""
    return f"an interval needs 2 prompts or more; got {groups} with {n} pictures; raise evaluate.prompts (--count)"


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
        raise InputError(few(groups, n))
    deff = _linearised(values, mean, sums, counts)
    means = _resampled(sums, counts, resamples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    if groups >= FEW:
        low, high = (float(q) for q in np.quantile(means, [tail, 1 - tail]))
        return Interval(mean, min(low, mean), max(high, mean), n, groups, deff, "bootstrap")
    half = float(stats.t.ppf(1 - tail, groups - 1) * means.std() * math.sqrt(groups / (groups - 1)))
    return Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), n, groups, deff, "bootstrap-t")


def proportion(hits: Sequence[bool], clusters: Sequence[str]) -> Interval:
    """Share of hits: Wilson's interval where every cluster has one row, else Wilson's at the effective size.

    n_eff = n / deff * (z / t_{K-1})^2 takes the place of n (Kish 1965 for deff; the ratio of quantiles is Korn and
    Graubard's, 1998, for K clusters). A plain bootstrap over clusters is too narrow with few prompts and claims
    certainty at 0 and 1; this keeps its coverage there (tests, docs/statistics.md).
    """
    groups = len(set(clusters))
    sums, counts = _totals([float(bool(hit)) for hit in hits], clusters)
    n, total = int(counts.sum()), round(float(sums.sum()))
    if groups == n:
        return wilson(total, n)
    deff, effective = effective_size([float(bool(hit)) for hit in hits], clusters)
    low, high = wilson_bounds(total / n, effective)
    return Interval(total / n, low, high, n, groups, deff, "wilson-deff")


def effective_size(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, float]:
    """Design effect as estimated, and the number of independent rows that an interval should reckon with.

    The first is the linearised variance of the mean over clusters divided by that of as many independent rows (Kish's
    deff). It is poorly known where few clusters differ from the rest, and nothing at all where none does, so the
    second reckons with half a cluster more in which all rows are alike: n / deff' * (z / t_{K-1})^2 with
    deff' = (h max(deff, 1) + m / 2) / (h + 1 / 2), h the clusters that hold a row other than the commonest value, and
    m their mean size, weighted by size. Raises `InputError` for fewer than 2 clusters.
    """
    sums, counts = _totals(values, clusters)
    n, groups = int(counts.sum()), len(sums)
    if groups < 2:
        raise InputError(few(groups, n))
    size = float((counts**2).sum() / n)
    rows = np.asarray(values, dtype=np.float64)
    levels, times = np.unique(rows, return_counts=True)
    odd = rows != levels[times.argmax()]
    h = len(set(np.asarray(clusters)[odd].tolist()))
    deff = _linearised(values, float(sums.sum() / n), sums, counts) if h else size
    cautious = max(1.0, (h * max(deff, 1.0) + size / 2) / (h + 0.5))
    return deff, n / cautious * float((stats.norm.ppf(0.975) / stats.t.ppf(0.975, groups - 1)) ** 2)


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


def _resampled(sums: np.ndarray, counts: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means over clusters drawn with replacement, (resamples,); in blocks, since prompts may be many."""
    groups, found = len(sums), []
    block = max(1, BLOCK // groups)
    for start in range(0, resamples, block):
        draws = rng.integers(groups, size=(min(block, resamples - start), groups))
        found.append(sums[draws].sum(1) / counts[draws].sum(1))
    return np.concatenate(found)


def _linearised(values: Sequence[float], mean: float, sums: np.ndarray, counts: np.ndarray) -> float:
    """Linearised variance of the mean over clusters, divided by that of independent rows."""
    n, groups = int(counts.sum()), len(sums)
    single = float(np.var(np.sort(np.asarray(values, dtype=np.float64)), ddof=1)) / n
    if single == 0:
        return 1.0
    residual = sums - mean * counts
    return float((residual**2).sum() * groups / (groups - 1) / n**2 / single)

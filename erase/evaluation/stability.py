"""How stable a procedure is: deviation over runs, kept apart from the error of judging finitely many pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from erase.errors import InputError

RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Deviation:
    """Standard deviation over runs with its 95 % interval, and what of it judging alone would make.

    `total` is the deviation of the runs' scores, `sampling` that part of it which the number of pictures explains,
    `runs` what is left (0 where nothing is); `low` and `high` bound `runs`.
    """

    total: float
    sampling: float
    runs: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratio of two deviations (first over second) with its 95 % interval, and Brown-Forsythe's p of equal ones."""

    value: float
    low: float
    high: float
    p: float


def sd_interval(sd: float, runs: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a standard deviation of normal values: sd sqrt((R - 1) / chi2_q), q = 0.975 and 0.025."""
    if runs < 2 or sd < 0:
        raise InputError(f"a deviation needs 2 runs or more; got sd {sd} of {runs}")
    tail = (1 - confidence) / 2
    low, high = (float(stats.chi2.ppf(q, runs - 1)) for q in (1 - tail, tail))
    return sd * math.sqrt((runs - 1) / low), sd * math.sqrt((runs - 1) / high)


def deviation(shares: Sequence[float], sizes: Sequence[int], deffs: Sequence[float] | None = None) -> Deviation:
    """Deviation of a share over runs, sampling error taken out: var_total = var_runs + mean p (1 - p) deff / n.

    `shares` are one a run, over `sizes` pictures with design effects `deffs`. The interval moves the chi-squared bounds
    of the total by the same sampling variance, and stops at 0. Where all runs are judged on the same prompts and noise
    they share a part of the sampling error, so `runs` is then a lower bound.
    """
    runs = len(shares)
    if runs < 2 or len(sizes) != runs or (deffs is not None and len(deffs) != runs):
        raise InputError(f"a deviation needs 2 runs or more, each with its size; got {runs} shares, {len(sizes)} sizes")
    p, n = np.asarray(shares, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if not (np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all() and (n >= 1).all()):
        raise InputError("a deviation needs shares in 0 to 1 and sizes of 1 or more")
    spread = np.ones(runs) if deffs is None else np.asarray(deffs, dtype=np.float64)
    sampling = float((p * (1 - p) * spread / n).mean())
    total = float(p.std(ddof=1))
    low, high = sd_interval(total, runs)
    left, least, most = (math.sqrt(max(0.0, sd**2 - sampling)) for sd in (total, low, high))
    return Deviation(total, math.sqrt(sampling), left, least, most, runs)


def sd_ratio(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Ratio:
    """Ratio of the deviations of two arms' runs.

    Interval: log ratio -+ t times its bootstrap deviation, runs drawn with replacement within each arm, t at
    R1 + R2 - 2 (percentiles of so few runs would be too narrow). p: Brown and Forsythe's test (1974), an analysis of
    variance of the distances to the arm's median. Raises `InputError` for fewer than 3 runs an arm, or equal runs.
    """
    arms = [np.sort(np.asarray(values, dtype=np.float64)) for values in (first, second)]
    if any(len(arm) < 3 or not np.isfinite(arm).all() or arm[0] == arm[-1] for arm in arms):
        raise InputError(f"a ratio of deviations needs 3 different runs an arm; got {len(first)} and {len(second)}")
    logs = [_log_sds(arm, np.random.default_rng([seed, place])) for place, arm in enumerate(arms)]
    value = math.log(arms[0].std(ddof=1) / arms[1].std(ddof=1))
    error = math.sqrt(sum(float(found.var(ddof=1)) for found in logs))
    half = float(stats.t.ppf(0.975, sum(map(len, arms)) - 2)) * error
    p = float(stats.levene(*arms, center="median").pvalue)
    return Ratio(math.exp(value), math.exp(value - half), math.exp(value + half), p)


def _log_sds(arm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log deviations of resampled runs; resamples of one run alone have none and are left out."""
    draws = arm[rng.integers(len(arm), size=(RESAMPLES, len(arm)))]
    sds = draws.std(axis=1, ddof=1)
    return np.log(sds[sds > 0])

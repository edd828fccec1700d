"""Intervals against published values, hand arithmetic, and their own promise of coverage."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from erase.errors import InputError
from erase.evaluation.statistics import (
    cluster_bootstrap,
    effective_size,
    proportion,
    wilson,
    wilson_bounds,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # 0 of n: high = z^2 / (n + z^2); the others by hand from Wilson's formula with z = 1.959964.
    [(0, 50, 0.0, 0.071348), (10, 10, 0.722467, 1.0), (8, 10, 0.490162, 0.943318), (50, 100, 0.403832, 0.596168)],
)
def test_wilson_known_values(successes, n, low, high):
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    assert (found.value, found.n, found.clusters, found.method) == (successes / n, n, n, "wilson")


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(InputError, match="n >= 1"):
        wilson(successes, n)


def test_one_row_a_prompt_is_wilson_and_more_is_wilson_at_the_effective_size():
    single = proportion([True, False, True, True], list("abcd"))
    assert single == wilson(3, 4)
    assert (single.n_eff, single.rho) == (4, None)
    hits, names = [i % 3 == 0 for i in range(80)], [str(i // 2) for i in range(80)]
    found = proportion(hits, names)
    _, effective = effective_size([float(h) for h in hits], names)
    assert found.method == "wilson-deff"
    assert (found.low, found.high) == wilson_bounds(27 / 80, effective)


def test_effective_size_by_hand():
    # 4 prompts of 2 pictures, hits (2, 2, 0, 0): deff = (2 * 4 / 3 / 8) / (2/7 * 8 / 8): residuals +-1, so
    # 4 * 4/3 / 64 = 1/12 over var 2/7 / 8 = 1/28. The prior adds half a prompt of alike pictures to the 2 odd ones.
    deff, effective = effective_size([1.0] * 4 + [0.0] * 4, list("aabbccdd"))
    assert deff == pytest.approx(28 / 12)
    cautious = (2 * 28 / 12 + 1) / 2.5
    assert effective == pytest.approx(8 / cautious * (1.959964 / 3.182446) ** 2, rel=1e-5)
    with pytest.raises(InputError, match="2 prompts"):
        effective_size([1.0, 0.0], ["a", "a"])


def test_unanimous_clusters_are_not_certain():
    found = proportion([False] * 60, [str(i // 3) for i in range(60)])
    assert found.value == found.low == 0
    assert wilson(0, 20).high < found.high < wilson(0, 15).high  # 20 prompts, and t at 19 instead of z
    assert (found.n, found.clusters, found.deff, found.n_eff, found.rho) == (60, 20, 3, 20, 1)


def test_design_effect_of_copies_is_their_number():
    # Every cluster holds 4 equal rows: 4 rows carry the information of 1. By hand: 40 clusters, half of them hits;
    # variance over clusters 1/4 * 40/39 / 40, over rows 1/4 * 160/159 / 160; ratio 4 * 159/156.
    hits = [bool(i // 4 % 2) for i in range(160)]
    found = proportion(hits, [str(i // 4) for i in range(160)])
    assert found.deff == pytest.approx(4 * 159 * 40 / (39 * 160))
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(40), rel=0.08)
    assert found.rho == pytest.approx((found.deff - 1) / 3)


def test_bootstrap_is_seeded_and_blind_to_row_order():
    rng = random.Random(0)
    rows = [(rng.random(), f"p{i // 4}") for i in range(160)]
    first = cluster_bootstrap([v for v, _ in rows], [c for _, c in rows])
    rng.shuffle(rows)
    assert cluster_bootstrap([v for v, _ in rows], [c for _, c in rows]) == first
    # Sums of these depend on the order in floating point: (1 + 1e16) - 1e16 = 0, (1e16 - 1e16) + 1 = 1.
    names = ["a", "a", "a", "b"]
    assert cluster_bootstrap([1, 1e16, -1e16, 0], names) == cluster_bootstrap([1e16, -1e16, 1, 0], names)
    other = cluster_bootstrap([v for v, _ in rows], [c for _, c in rows], seed=1)
    assert (other.low, other.high) != (first.low, first.high)


def test_small_bootstrap_uses_student_and_stays_in_bounds():
    # Two clusters of means 0 and 1: t(1) = 12.7, so the interval is all there is.
    found = cluster_bootstrap([0, 0, 1, 1], list("aabb"), bounds=(0.0, 1.0))
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    values = [float(i % 10) for i in range(10)]
    found = cluster_bootstrap(values, [str(i) for i in range(10)])
    # mean 4.5, s = 3.02765, t(9) = 2.26216: half-width 2.26216 * 3.02765 / sqrt(10) = 2.1659
    assert found.high - 4.5 == pytest.approx(2.1659, rel=0.06)


def test_bootstrap_refuses_nothing_one_prompt_and_nan():
    for values, clusters, match in (([], [], "needs rows"), ([1, 0], ["a", "a"], "2 prompts"), ([math.nan, 0], ["a", "b"], "finite")):  # fmt: skip  # noqa: E501
        with pytest.raises(InputError, match=match):
            cluster_bootstrap(values, clusters)


def made(rng, prompts, seeds, rate, shared):
    """Hits of prompts x seeds: with probability sqrt(shared) a row copies its prompt's own draw, so rho = shared."""
    own = rng.random((prompts, 1)) < rate
    return np.where(rng.random((prompts, seeds)) < math.sqrt(shared), own, rng.random((prompts, seeds)) < rate)


@pytest.mark.parametrize(
    ("prompts", "seeds", "shared", "rate"), [(20, 5, 0.3, 0.1), (10, 5, 0.6, 0.3), (20, 20, 0.3, 0.02)]
)
def test_few_prompts_and_rates_near_0_keep_their_coverage(prompts, seeds, shared, rate):
    """Where a bootstrap over prompts holds the truth 60 to 90 times in 100."""
    rng, kept, plain, trials = np.random.default_rng(1), 0, 0, 400
    names = [str(i // seeds) for i in range(prompts * seeds)]
    for trial in range(trials):
        rows = made(rng, prompts, seeds, rate, shared).ravel()
        found = proportion(rows.tolist(), names)
        kept += found.low <= rate <= found.high
        if trial < 100:
            old = cluster_bootstrap(rows.astype(float).tolist(), names, resamples=300)
            plain += old.low <= rate <= old.high
    assert kept / trials >= 0.93
    assert plain / 100 < kept / trials

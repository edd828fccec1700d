"""Intervals against published values, hand arithmetic, and their own promise of coverage."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from erase.errors import InputError
from erase.evaluation.statistics import cluster_bootstrap, mcnemar, paired_difference, proportion, wilson


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


def test_one_row_a_prompt_is_wilson_and_more_is_a_bootstrap():
    single = proportion([True, False, True, True], list("abcd"))
    assert single == wilson(3, 4)
    many = [i % 3 == 0 for i in range(80)]
    assert proportion(many, [str(i // 2) for i in range(80)]).method == "bootstrap"
    assert proportion(many[:20], [str(i // 2) for i in range(20)]).method == "bootstrap-t"


def test_unanimous_clusters_are_not_certain():
    found = proportion([False] * 60, [str(i // 3) for i in range(60)])
    assert found.value == found.low == 0
    assert found.high == pytest.approx(wilson(0, 20).high)
    assert (found.n, found.clusters, found.deff) == (60, 20, 3)


def test_design_effect_of_copies_is_their_number():
    # Every cluster holds 4 equal rows: 4 rows carry the information of 1. By hand: 40 clusters, half of them hits;
    # variance over clusters 1/4 * 40/39 / 40, over rows 1/4 * 160/159 / 160; ratio 4 * 159/156.
    hits = [bool(i // 4 % 2) for i in range(160)]
    found = proportion(hits, [str(i // 4) for i in range(160)])
    assert found.deff == pytest.approx(4 * 159 * 40 / (39 * 160))
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(40), rel=0.08)


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


@pytest.mark.parametrize(("seeds", "shared", "least"), [(1, 0.0, 0.93), (5, 0.5, 0.90)])
def test_coverage(seeds, shared, least):
    """95 % intervals hold the truth about 95 times in 100; pooled rows of one prompt would do so far less often."""
    rng = np.random.default_rng(3)
    hits, naive, trials, prompts, rate = 0, 0, 250, 60, 0.3
    for trial in range(trials):
        # With probability `shared` a row copies its prompt's own draw, which makes rows of a prompt alike.
        own = rng.random((prompts, 1)) < rate
        rows = np.where(rng.random((prompts, seeds)) < math.sqrt(shared), own, rng.random((prompts, seeds)) < rate)
        names = [str(i // seeds) for i in range(prompts * seeds)]
        found = proportion(rows.ravel().tolist(), names, seed=trial)
        hits += found.low <= rate <= found.high
        pooled = wilson(int(rows.sum()), rows.size)
        naive += pooled.low <= rate <= pooled.high
    assert least <= hits / trials <= 0.99
    if seeds > 1:
        assert naive / trials < 0.85


def test_paired_difference_is_after_minus_before():
    before, after = [1.0] * 50 + [0.0] * 50, [1.0] * 20 + [0.0] * 80
    found = paired_difference(before, after, [str(i) for i in range(100)])
    assert found.value == pytest.approx(-0.3)
    # sd of a difference that is -1 in 30 % of rows: sqrt(.3 * .7) = .4583; half-width 1.96 * .04583
    assert (found.low, found.high) == pytest.approx((-0.39, -0.21), abs=0.02)


def test_paired_difference_of_equal_arms_has_a_width_and_of_equal_scores_none():
    hits = [1.0, 0.0] * 25
    names = [str(i) for i in range(50)]
    found = paired_difference(hits, hits, names)
    assert (found.value, found.low, found.high) == pytest.approx((0, -0.071348, 0.071348), abs=1e-6)
    found = paired_difference([1.0] * 50, [0.0] * 50, names)
    assert (found.value, found.low, found.high) == pytest.approx((-1, -1, -(1 - 0.071348)), abs=1e-6)
    scores = [0.1 * (i % 7) for i in range(50)]
    found = paired_difference(scores, scores, names)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_paired_difference_needs_twins():
    with pytest.raises(InputError, match="twin"):
        paired_difference([1.0], [1.0, 0.0], ["a"])


def test_mcnemar_by_hand():
    # 1 gained, 5 lost: 2 * (C(6,0) + C(6,1)) / 2^6 = 14 / 64; the concordant rows do not matter.
    before = [True] * 5 + [False] + [True] * 10
    after = [False] * 5 + [True] + [True] * 10
    found = mcnemar(before, after)
    assert (found.lost, found.gained, found.p) == (5, 1, pytest.approx(14 / 64))
    assert mcnemar([True, False], [True, False]).p == 1.0

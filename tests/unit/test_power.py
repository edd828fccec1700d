"""Sample sizes against the published table, deviations over runs, and judges that err."""

from __future__ import annotations

import math

import numpy as np
import pytest

from erase.errors import InputError
from erase.evaluation.confusion import corrected, rogan_gladen
from erase.evaluation.power import (
    advice,
    pairs_for,
    prompts_for,
    prompts_to_decide,
    runs_for,
)
from erase.evaluation.stability import deviation, sd_interval, sd_ratio
from erase.evaluation.statistics import wilson


@pytest.mark.parametrize(("p", "n"), [(0.5, 2398), (0.2, 1535), (0.1, 868), (0.9, 868), (0.05, 469), (0.02, 223), (0, 93)])  # fmt: skip  # noqa: E501
def test_prompts_for_two_points(p, n):
    assert prompts_for(p) == n
    assert prompts_for(p, deff=2.5) == math.ceil(2.5 * n)


def test_prompts_for_is_the_least():
    for n in (868, 867):
        found = wilson(round(n * 0.1), n)
        width = (found.high - found.low) / 2
        assert (width <= 0.02) is (n == 868) or n * 0.1 != round(n * 0.1)


@pytest.mark.parametrize(
    ("difference", "discordant", "n"), [(0.05, 0.1, 312), (-0.05, 0.2, 626), (0.02, 0.1, 1960), (0.02, 0.2, 3923)]
)
def test_pairs_for_80_percent_power(difference, discordant, n):
    assert pairs_for(difference, discordant) == n


def test_runs_for_a_ratio_of_deviations():
    assert [runs_for(r) for r in (2, 3, 3.5)] == [19, 9, 7]


def test_advice_names_what_is_too_wide_and_counts_prompts():
    tight, wide = wilson(10, 1000), wilson(180, 200)
    rows = [("a", tight.value, tight.low, tight.high, 1000), ("b", wide.value, wide.low, wide.high, 200)]
    assert [(name, n) for name, _, n in advice(rows)] == [("b", 868)]
    # Twice as wide as independent prompts would be: four times as many are needed.
    (found,) = advice([("c", 0.9, 0.9 - 2 * (wide.high - wide.low) / 2, 0.9 + (wide.high - wide.low), 200)])
    assert found[2] == pytest.approx(4 * 868, rel=0.01)


def test_prompts_to_decide_a_verdict():
    # -2 points, 95 % from -7 to 3: a reach of 5 must fall to 3, so (5/3)^2 times the prompts.
    assert prompts_to_decide(-0.02, -0.07, 0.03, 0.05, 200) == math.ceil(200 * 25 / 9) + 1
    assert prompts_to_decide(-0.05, -0.1, 0.0, 0.05, 200) is None


def test_interval_of_a_deviation():
    # R = 5: sqrt(4 / 11.1433), sqrt(4 / 0.484419).
    assert sd_interval(1.0, 5) == pytest.approx((0.59913, 2.87356), abs=1e-4)
    assert sd_interval(2.0, 20) == pytest.approx((2 * 0.76049, 2 * 1.46057), abs=1e-4)


def test_deviation_takes_the_sampling_error_out():
    """Runs that differ by 5 points, judged on 400 pictures each, whose deff is 2."""
    rng, runs, deff, n = np.random.default_rng(0), 400, 2.0, 400
    truth = 0.8 + 0.05 * rng.standard_normal(runs)
    seen = rng.binomial(int(n / deff), truth) / int(n / deff)
    found = deviation(seen.tolist(), [n] * runs, [deff] * runs)
    assert found.runs == pytest.approx(0.05, rel=0.1)
    assert found.low < found.runs < found.high
    assert found.sampling == pytest.approx(math.sqrt((seen * (1 - seen)).mean() * deff / n))
    assert found.total == pytest.approx(math.hypot(found.runs, found.sampling))
    # Runs that differ by nothing but sampling have a deviation whose interval holds 0.
    same = deviation((rng.binomial(100, 0.5, 8) / 100).tolist(), [100] * 8)
    assert same.low == 0.0


def test_ratio_of_deviations():
    rng, kept, false = np.random.default_rng(3), 0, 0
    for trial in range(120):
        first, second = (2 * rng.standard_normal(10)).tolist(), rng.standard_normal(10).tolist()
        found = sd_ratio(first, second, seed=trial)
        kept += found.low <= 2 <= found.high
        false += sd_ratio([v / 2 for v in first], second, seed=trial).p <= 0.05
    assert found.value == pytest.approx(np.std(first, ddof=1) / np.std(second, ddof=1))
    assert kept / 120 >= 0.89
    assert false / 120 <= 0.1
    assert sd_ratio((20 * rng.standard_normal(10)).tolist(), second).p < 0.01
    with pytest.raises(InputError, match="3 different"):
        sd_ratio([1.0, 1.0, 1.0], second)


def test_a_judge_that_errs():
    assert rogan_gladen(0.05, 0.85, 0.97) == pytest.approx(0.02 / 0.82)
    assert rogan_gladen(0.0, 0.85, 0.97) < 0
    with pytest.raises(InputError, match="tells nothing"):
        rogan_gladen(0.5, 0.5, 0.5)
    below = corrected(0.0, 300, (170, 200), (194, 200))
    assert (below.value, below.low, below.resolved) == (0, 0, False) and 0 < below.high < 0.05
    assert corrected(0.5, 300, (170, 200), (194, 200)).resolved


@pytest.mark.parametrize(("se", "sp", "rate"), [(0.95, 0.99, 0.1), (0.85, 0.97, 0.3), (0.9, 0.9, 0.5)])
def test_the_corrected_rate_covers(se, sp, rate):
    rng, kept, naive = np.random.default_rng(7), 0, 0
    for _ in range(600):
        seen = rng.binomial(200, rate * se + (1 - rate) * (1 - sp))
        found = corrected(seen / 200, 200, (int(rng.binomial(200, se)), 200), (int(rng.binomial(200, sp)), 200))
        kept += found.low <= rate <= found.high
        plain = wilson(int(seen), 200)
        naive += plain.low <= rate <= plain.high
    assert 0.93 <= kept / 600 <= 0.985
    assert naive < kept or rate == 0.5

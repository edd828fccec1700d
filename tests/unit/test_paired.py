"""Differences over twins: closed forms, the equations solved the long way, and coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize

from erase.errors import InputError
from erase.evaluation.paired import (
    equivalent,
    holm,
    mcnemar,
    non_inferiority,
    paired_difference,
    sign_flip,
    tango,
)

Z = 1.959963984540054


def test_paired_difference_is_after_minus_before():
    before, after = [1.0] * 50 + [0.0] * 50, [1.0] * 20 + [0.0] * 80
    found = paired_difference(before, after, [str(i) for i in range(100)])
    assert found.value == pytest.approx(-0.3)
    assert (found.low, found.high) == tango(30, 0, 100)
    assert (found.method, found.n, found.clusters) == ("tango", 100, 100)


def test_tango_without_change_and_with_nothing_but_change():
    # No discordant pair: the bound solves n D = z sqrt(n (D - D^2)), so D = z^2 / (n + z^2), Wilson's of 0 in n.
    bound = Z**2 / (50 + Z**2)
    assert tango(0, 0, 50) == pytest.approx((-bound, bound), abs=1e-9)
    # All pairs changed alike: half of what is not D may be change the other way, so twice as much is left open.
    assert tango(50, 0, 50) == pytest.approx((-1.0, -(1 - 2 * bound)), abs=1e-6)
    assert tango(0, 50, 50) == pytest.approx((1 - 2 * bound, 1.0), abs=1e-6)


@pytest.mark.parametrize(("lost", "gained", "n"), [(12, 2, 50), (1, 0, 44), (5, 5, 30), (3, 40, 60)])
def test_tango_against_the_likelihood_maximised_numerically(lost, gained, n):
    """At either bound the score statistic is z, with the loss rate found by search and not by the quadratic."""
    for bound in tango(lost, gained, n):
        assert -1 < bound < 1

        def against(q, d=bound):  # minus the log likelihood of a multinomial with gain rate q + d
            rest = 1 - 2 * q - d
            terms = ((lost, q), (gained, q + d), (n - lost - gained, rest))
            return -sum(count * math.log(max(rate, 1e-300)) for count, rate in terms if count)

        best = optimize.minimize_scalar(
            against, bounds=(max(0, -bound), (1 - bound) / 2), method="bounded", options={"xatol": 1e-12}
        ).x
        score = (gained - lost - n * bound) / math.sqrt(n * (2 * best + bound * (1 - bound)))
        assert abs(score) == pytest.approx(Z, rel=1e-4)


@pytest.mark.parametrize(("n", "loss", "gain"), [(50, 0.1, 0.1), (100, 0.3, 0.0), (200, 0.05, 0.02)])
def test_tango_covers(n, loss, gain):
    rng, kept = np.random.default_rng(2), 0
    for _ in range(600):
        _, lost, gained = rng.multinomial(n, [1 - loss - gain, loss, gain])
        low, high = tango(int(lost), int(gained), n)
        kept += low <= gain - loss <= high
    assert 0.93 <= kept / 600 <= 0.97


def test_pictures_of_one_prompt_do_not_count_as_pairs_of_their_own():
    rng, kept, naive, prompts, seeds = np.random.default_rng(5), 0, 0, 50, 4
    names = np.repeat(np.arange(prompts).astype(str), seeds).tolist()
    for _ in range(300):
        own, each = rng.random((prompts, 1)), rng.random((prompts, seeds))
        after = np.where(rng.random((prompts, seeds)) < 0.8, own, each) > 0.2  # 20 % are lost, alike within a prompt
        found = paired_difference([1.0] * after.size, after.ravel().astype(float).tolist(), names)
        kept += found.low <= -0.2 <= found.high
        low, high = tango(int((~after).sum()), 0, after.size)
        naive += low <= -0.2 <= high
    assert found.method == "tango-deff" and found.deff > 1.5
    assert kept / 300 >= 0.92
    assert naive / 300 < 0.85


def test_equal_arms_of_hits_have_a_width_and_equal_scores_none():
    hits, names = [1.0, 0.0] * 25, [str(i) for i in range(50)]
    found = paired_difference(hits, hits, names)
    assert (found.value, found.low, found.high) == pytest.approx((0, -0.071348, 0.071348), abs=1e-6)
    scores = [0.1 * (i % 7) for i in range(50)]
    found = paired_difference(scores, scores, names)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_refusals():
    with pytest.raises(InputError, match="twin"):
        paired_difference([1.0], [1.0, 0.0], ["a"])
    with pytest.raises(InputError, match="needs rows"):
        paired_difference([], [], [])
    with pytest.raises(InputError, match="lost \\+ gained"):
        tango(3, 3, 5)
    with pytest.raises(InputError, match="margin"):
        non_inferiority(0.0, 0.1, margin=0.0)
    with pytest.raises(InputError, match="p values"):
        holm({"a": 1.2})


def test_mcnemar_by_hand():
    # 1 gained, 5 lost: 2 * (C(6,0) + C(6,1)) / 2^6 = 14 / 64; the concordant rows do not matter.
    before = [True] * 5 + [False] + [True] * 10
    after = [False] * 5 + [True] + [True] * 10
    found = mcnemar(before, after)
    assert (found.lost, found.gained, found.p) == (5, 1, pytest.approx(14 / 64))
    assert mcnemar([True, False], [True, False]).p == 1.0


def test_sign_flip_of_few_prompts_tries_every_sign():
    change = [0.3, -0.1, 0.5, 0.2]
    totals = [abs(sum(s * c for s, c in zip(signs, change, strict=True))) for signs in itertools.product((1, -1), repeat=4)]  # fmt: skip  # noqa: E501
    expected = sum(t >= 0.9 - 1e-9 for t in totals) / 16
    assert sign_flip(change, list("abcd")) == pytest.approx(expected)
    assert sign_flip([0.0, 0.0], list("ab")) == 1.0
    # Two pictures of each prompt: as one difference each, twice as large.
    assert sign_flip([c for c in change for _ in (0, 1)], [n for n in "abcd" for _ in (0, 1)]) == pytest.approx(
        expected
    )


def test_sign_flip_agrees_with_mcnemar_and_is_blind_to_order():
    # 25 lost, 9 gained of independent hits: flips are binomial, as McNemar's are.
    before = [1.0] * 25 + [0.0] * 9 + [1.0] * 20
    after = [0.0] * 25 + [1.0] * 9 + [1.0] * 20
    change = [a - b for b, a in zip(before, after, strict=True)]
    names = [f"{i:03d}" for i in range(54)]
    p = sign_flip(change, names)
    assert p == pytest.approx(mcnemar([b > 0 for b in before], [a > 0 for a in after]).p, abs=0.006)
    assert p == sign_flip(change[::-1], names[::-1])


def test_non_inferiority_looks_at_the_whole_interval():
    assert [non_inferiority(*ends) for ends in ((-0.04, 0.02), (-0.09, -0.06), (-0.08, 0.01), (-0.05, 0.1))] == [
        "kept", "lost", "undecided", "undecided",
    ]  # fmt: skip
    assert non_inferiority(-0.04, 0.02, margin=0.02) == "undecided"
    assert equivalent(-0.04, 0.04) and not equivalent(-0.04, 0.06) and not equivalent(-0.06, 0.0)


def test_holm_by_hand():
    # Sorted .01 .02 .03 .5 times 4 3 2 1 = .04 .06 .06 .5, never falling.
    found = holm({"c": 0.03, "a": 0.01, "d": 0.5, "b": 0.02})
    assert found == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5})
    assert list(found) == ["c", "a", "d", "b"]
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_holm_keeps_the_chance_of_any_false_claim():
    rng = np.random.default_rng(6)
    false = sum(min(holm({str(i): float(p) for i, p in enumerate(rng.random(10))}).values()) <= 0.05 for _ in range(800))  # fmt: skip  # noqa: E501
    assert 0.03 <= false / 800 <= 0.07

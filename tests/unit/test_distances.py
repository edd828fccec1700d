"""Distances against closed forms, their nulls, and what they refuse (acceptance tests 6 and 7)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from erase.errors import InputError
from erase.evaluation.distances import (
    DISTANCES,
    LEAST,
    clip_distance,
    frechet_distance,
    kernel_distance,
    shift,
)

RNG = np.random.default_rng(0)


def named(n, seeds=1):
    return [f"p{i // seeds:04d}" for i in range(n)]


@pytest.mark.parametrize("n", [30, 400])
def test_frechet_is_the_formula_with_fewer_and_more_pictures_than_dimensions(n):
    first, second = RNG.normal(size=(n, 50)), 1.3 * RNG.normal(size=(n, 50)) + 0.1
    one, two = np.cov(first.T), np.cov(second.T)
    gap = first.mean(0) - second.mean(0)
    root = sqrtm(one @ two).real
    assert frechet_distance(first, second) == pytest.approx(gap @ gap + np.trace(one + two - 2 * root), rel=1e-4)


def test_frechet_of_gaussians_nears_the_analytic_value():
    # N(0, 1) and N(0.5, 4) in 3 dimensions: 3 * 0.25 + 3 * (1 + 4 - 2 * 2) = 3.75.
    first, second = RNG.normal(size=(40_000, 3)), 0.5 + 2 * RNG.normal(size=(40_000, 3))
    assert frechet_distance(first, second) == pytest.approx(3.75, rel=0.05)


def test_frechet_is_biased_as_1_over_n_and_kernel_distance_is_not():
    frechets, kernels = [], []
    for _ in range(40):
        first, second = RNG.normal(size=(100, 64)), RNG.normal(size=(100, 64))
        frechets.append(frechet_distance(first, second))
        kernels.append(kernel_distance(first, second))
    assert min(frechets) > 10, "the same distribution, and yet far apart: why a null is shown"
    assert abs(np.mean(kernels)) < 3 * np.std(kernels) / np.sqrt(40)
    assert min(kernels) < 0 < max(kernels)


def test_kernel_distance_by_hand():
    # One dimension, k = (xy + 1)^3. x = (0, 1), y = (2, 0): within x k(0,1) = 1, within y 1; across 1, 1, 27, 1: 7.5.
    assert kernel_distance(np.array([[0.0], [1.0]]), np.array([[2.0], [0.0]])) == pytest.approx(1 + 1 - 2 * 30 / 4)


def test_clip_distance_by_hand_and_blind_to_length():
    # All x the same direction, all y the opposite: |x - y|^2 = 4, k = exp(-4 / 200); 1000 (1 + 1 - 2 k).
    first, second = np.array([[1.0, 0], [3.0, 0]]), np.array([[-2.0, 0], [-1.0, 0]])
    assert clip_distance(first, second) == pytest.approx(2000 * (1 - np.exp(-0.02)))
    assert clip_distance(first, first) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("measure", [kernel_distance, frechet_distance, clip_distance])
def test_unequal_numbers_and_what_is_no_feature_are_refused(measure):
    good = RNG.normal(size=(10, 4))
    for other, match in ((good[:9], "10 and 9 pictures"), (good[:, :3], "4 and 3 features"), (good[0], "shape"),
                         (good.astype(int), "floats"), (np.where(good > 0, np.nan, good), "NaN")):  # fmt: skip
        with pytest.raises(InputError, match=match):
            measure(good, other)
    with pytest.raises(InputError, match="2 pictures"):
        measure(good[:1], good[:1])


@pytest.mark.parametrize("name", DISTANCES)
def test_no_change_is_no_shift(name):
    pictures = RNG.normal(size=(60, 8))
    found = shift(name, "retain", pictures, pictures.copy(), named(60))
    assert (found.p, found.n, found.half) == (1.0, 60, 30)
    assert found.value == pytest.approx(found.null, rel=1e-9) and abs(found.high) < 1e-9


@pytest.mark.parametrize("name", DISTANCES)
def test_a_shift_is_found_beside_its_null(name):
    before = RNG.normal(size=(80, 8)) + 2
    found = shift(name, "retain", before, before + 0.5 * RNG.normal(size=(80, 8)) + np.linspace(-1, 1, 8), named(80))
    assert found.low > 0 and found.p <= 0.01
    assert found.low <= found.excess <= found.high


def test_the_permutation_p_is_a_p_and_the_interval_covers():
    rng = np.random.default_rng(0)  # its own: what other tests drew must not decide this one
    low, kept, times = 0, 0, 50
    truth = kernel_distance(rng.normal(size=(4000, 4)), rng.normal(size=(4000, 4)) + 0.3)
    for seed in range(times):
        before, again = rng.normal(size=(2, 60, 4))
        low += shift("KD_conv", "retain", before, again, named(60), seed=seed).p <= 0.1
        found = shift("KD_conv", "retain", before, before + 0.3, named(60), seed=seed)
        kept += found.low <= truth <= found.high
    assert 0.02 <= low / times <= 0.22
    assert kept / times >= 0.88


def test_pictures_of_one_prompt_stay_together():
    """Three seeds a prompt that are copies: a p over pictures would take 60 prompts for 180."""
    low = 0
    for seed in range(30):
        before, again = (np.repeat(RNG.normal(size=(30, 3)), 3, axis=0) for _ in range(2))
        low += shift("KD_conv", "retain", before, again, named(90, 3), seed=seed).p <= 0.1
    assert low / 30 <= 0.27


def test_order_leaves_no_trace_and_seeds_do():
    before, after = RNG.normal(size=(2, 50, 4))
    names = named(50)
    order = RNG.permutation(50)
    first = shift("KD_conv", "retain", before, after, names)
    again = shift("KD_conv", "retain", before[order], after[order], [names[i] for i in order])
    assert again == first
    assert shift("KD_conv", "retain", before, after, names, seed=1).value != first.value


def test_a_shift_refuses_few_prompts_uneven_ones_and_other_names(monkeypatch):
    pictures = RNG.normal(size=(60, 4))
    with pytest.raises(InputError, match=f"{LEAST} prompts or more; got 6"):
        shift("KD_conv", "retain", pictures, pictures, named(60, 10))
    with pytest.raises(InputError, match="unequal numbers"):
        shift("KD_conv", "retain", pictures, pictures, ["p0000", *named(59)])
    with pytest.raises(InputError, match="not known"):
        shift("LPIPS", "retain", pictures, pictures, named(60))
    with pytest.raises(InputError, match="59 prompts"):
        shift("KD_conv", "retain", pictures, pictures, named(59))
    monkeypatch.setattr("erase.evaluation.distances.MOST", 40)
    assert shift("CMMD_clip", "retain", pictures, pictures, named(60)).n == 40

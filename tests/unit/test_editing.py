"""Closed-form editors as pure functions of tensors: what they promise exactly.

Run: pytest tests/unit/test_editing.py
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from erase.methods import EDITORS
from erase.methods.editing import EditOptions, Weights
from erase.methods.rece import revive
from erase.methods.speed import influenced, null_space
from erase.methods.uce import edit as uce

D = 24


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHTS: Weights = {"k": normal(16, D), "v": normal(40, D, seed=1)}
ERASE, TARGET, KEEP = normal(3, D, seed=2), normal(3, D, seed=3), normal(9, D, seed=4)
NONE = torch.zeros(0, D, dtype=torch.float64)


def change(edited: Weights) -> Tensor:
    """W' - W0 of all weights, one above the other: (o, d)."""
    return torch.cat([edited[name] - w for name, w in WEIGHTS.items()])


def outputs(weights: Weights, rows: Tensor) -> Tensor:
    """All weights' outputs for the rows: (n, o)."""
    return rows @ torch.cat(list(weights.values())).T


@pytest.mark.parametrize("name", EDITORS)
def test_nothing_to_erase_changes_nothing(name: str):
    edited = EDITORS[name].edit(WEIGHTS, NONE, NONE, KEEP, EditOptions())
    assert all(torch.equal(edited[k], w) for k, w in WEIGHTS.items())


@pytest.mark.parametrize("name", ["uce", "speed"])  # what rece finds is shorter than c, so it pulls where c does not
def test_what_already_means_its_target_changes_nothing(name: str):
    edited = EDITORS[name].edit(WEIGHTS, ERASE, ERASE, KEEP, EditOptions())
    assert torch.allclose(change(edited), torch.zeros(56, D, dtype=torch.float64))


@pytest.mark.parametrize("keep", [NONE, KEEP], ids=["alone", "beside what is kept"])
@pytest.mark.parametrize("name", EDITORS)
def test_an_output_moves_to_its_target_as_lam_goes_to_zero(name: str, keep: Tensor):
    gaps = []
    for lam in (1.0, 1e-3, 1e-10):
        options = EditOptions(lam=lam, repeats=0, null=0.0)  # rece's repeats add embeddings of their own
        edited = EDITORS[name].edit(WEIGHTS, ERASE, TARGET, keep, options)
        gaps.append(float((outputs(edited, ERASE) - outputs(WEIGHTS, TARGET)).norm()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize("count", [1, 3])
def test_the_change_has_at_most_a_rank_for_each_embedding(name: str, count: int):
    options = EditOptions(repeats=2)
    edited = EDITORS[name].edit(WEIGHTS, ERASE[:count], TARGET[:count], KEEP, options)
    assert torch.linalg.matrix_rank(change(edited), rtol=1e-8) == count * (3 if name == "rece" else 1)


def test_uce_is_the_published_formula():
    lam, weight = 0.3, 2.0
    edited = uce(WEIGHTS, ERASE, TARGET, KEEP, EditOptions(lam=lam, keep_weight=weight))
    for name, w in WEIGHTS.items():
        left, right = lam * w, lam * torch.eye(D, dtype=torch.float64)
        for c, t in zip(ERASE, TARGET, strict=True):
            left, right = left + torch.outer(w @ t, c) / 3, right + torch.outer(c, c) / 3
        for k in KEEP:
            left = left + weight * torch.outer(w @ k, k) / 9
            right = right + weight * torch.outer(k, k) / 9
        assert torch.allclose(edited[name], left @ torch.linalg.inv(right))


@pytest.mark.parametrize("name", ["uce", "rece"])
def test_a_large_weight_keeps_the_outputs_of_what_is_kept(name: str):
    moved = []
    for weight in (0.0, 1.0, 1e9):
        edited = EDITORS[name].edit(WEIGHTS, ERASE, TARGET, KEEP, EditOptions(keep_weight=weight))
        moved.append(float((outputs(edited, KEEP) - outputs(WEIGHTS, KEEP)).norm()))
    assert moved[0] > moved[1] > moved[2]
    assert moved[2] < 1e-6
    assert float(change(edited).norm()) > 0.1


def test_what_rece_finds_brings_the_old_output_back_in_least_squares():
    edited = uce(WEIGHTS, ERASE, TARGET, KEEP, EditOptions(lam=0.01))
    found = revive(WEIGHTS, edited, ERASE, 0.0)
    best = torch.linalg.lstsq(torch.cat(list(edited.values())), outputs(WEIGHTS, ERASE).T).solution.T
    assert torch.allclose(found, best)
    assert torch.allclose(outputs(edited, found), outputs(WEIGHTS, ERASE))  # one map for all weights can be undone
    short = revive(WEIGHTS, edited, ERASE, 10.0)
    assert (short.norm(dim=1) < found.norm(dim=1)).all()


def test_rece_leaves_less_that_brings_the_concept_back():
    gaps = []
    for repeats in (0, 1, 3):
        edited = EDITORS["rece"].edit(WEIGHTS, ERASE, TARGET, KEEP, EditOptions(lam=0.01, repeats=repeats))
        found = revive(WEIGHTS, edited, ERASE, 1.0)
        gaps.append(float((outputs(edited, found) - outputs(WEIGHTS, ERASE)).norm()))
    assert gaps[0] < gaps[1] < gaps[2]


def test_speed_leaves_the_outputs_of_what_is_kept():
    options = EditOptions(null=0.0)
    edited = EDITORS["speed"].edit(WEIGHTS, ERASE, TARGET, KEEP, options)
    kept = influenced(ERASE, TARGET, KEEP, options)
    assert 0 < len(kept) < len(KEEP)
    assert (outputs(edited, kept) - outputs(WEIGHTS, kept)).abs().max() < 1e-5
    assert float(change(edited).norm()) > 0.1


def test_speed_filters_out_what_an_edit_would_hardly_move():
    apart = torch.linalg.qr(ERASE.T, mode="complete").Q[:, 3:].T  # orthogonal to everything erased
    kept = influenced(ERASE, TARGET, torch.cat([apart, KEEP]), EditOptions())
    assert len(kept) and all(bool((row == KEEP).all(1).any()) for row in kept)


@pytest.mark.parametrize("share", [0.0, 1e-3, 0.1, 0.5])
def test_a_null_space_holds_its_share_at_most(share: float):
    rows = normal(60, D, seed=5) * torch.logspace(0, -4, D, dtype=torch.float64)
    onto = null_space(rows, share)
    assert torch.allclose(onto @ onto, onto)
    assert (rows @ onto).square().sum() <= max(share, 1e-9) * rows.square().sum()
    wider = null_space(rows, share + 0.4)
    assert wider.trace() > onto.trace()


def test_several_concepts_at_once_are_one_edit():
    both = uce(WEIGHTS, ERASE, TARGET, KEEP, EditOptions(lam=1e-10))
    assert torch.allclose(outputs(both, ERASE), outputs(WEIGHTS, TARGET), atol=1e-6)
    one = uce(WEIGHTS, ERASE[:1], TARGET[:1], KEEP, EditOptions(lam=1e-10))
    assert not torch.allclose(outputs(one, ERASE[1:]), outputs(WEIGHTS, TARGET[1:]), atol=1e-1)


@pytest.mark.parametrize("name", EDITORS)
def test_half_precision_weights_are_solved_in_double_and_keep_their_type(name: str):
    low = {k: w.bfloat16() for k, w in WEIGHTS.items()}
    exact = {k: w.double() for k, w in low.items()}
    edited = EDITORS[name].edit(low, ERASE.float(), TARGET.float(), KEEP.float(), EditOptions())
    wanted = EDITORS[name].edit(exact, ERASE.float(), TARGET.float(), KEEP.float(), EditOptions())
    assert all(torch.equal(edited[k], wanted[k].bfloat16()) for k in low)


@pytest.mark.parametrize("name", EDITORS)
def test_unequal_shapes_are_refused(name: str):
    with pytest.raises(ValueError, match=r"erase \(3, 24\) and target \(2, 24\) must have one shape"):
        EDITORS[name].edit(WEIGHTS, ERASE, TARGET[:2], KEEP, EditOptions(repeats=0))

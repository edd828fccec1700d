"""NPO's loss on numbers: bounded ascent, with the sign and the slope of its formula.

Run: pytest tests/unit/test_losses.py
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from erase.methods import METHODS, Batch, Nets, Options

TARGET = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
ZERO = torch.zeros(3)
BATCH = Batch(torch.zeros_like(TARGET), ZERO, ZERO, ZERO, target=TARGET)


def off(by: Tensor | float) -> Tensor:
    """A prediction whose squared error is `by` squared, everywhere."""
    return TARGET + by


def loss(method: str, student: Tensor, teacher: Tensor, beta: float = 10.0) -> Tensor:
    nets = Nets(lambda *_: student, lambda *_: teacher)
    return METHODS[method].forget(nets, BATCH, Options(beta=beta))


@pytest.mark.parametrize("beta", [0.1, 1.0, 30.0])
def test_npo_is_the_published_formula(beta: float):
    errors, original = torch.tensor([0.5, 1.0, 0.2]), 0.7
    student = off(errors[:, None, None, None])
    ratio = torch.exp(-(errors.square() - original**2))  # pi_th / pi_0, with log pi = -l
    wanted = 2 / beta * torch.log1p(ratio**beta).mean()
    assert torch.allclose(loss("npo", student, off(original), beta), wanted, atol=1e-6)


def test_npo_falls_as_the_students_loss_rises_and_never_below_zero():
    values = [float(loss("npo", off(by), off(0.5))) for by in (0.1, 0.5, 0.7, 1.0, 30.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0, abs=1e-6)
    assert values[1] == pytest.approx(2 / 10 * math.log(2), rel=1e-5)


def gradient(method: str, by: float) -> Tensor:
    student = off(by).requires_grad_()
    return torch.autograd.grad(loss(method, student, off(0.5)), student)[0]


def test_npo_is_ascent_where_nothing_was_forgotten_and_ends_far_above():
    assert torch.allclose(gradient("npo", 0.5), gradient("ga", 0.5), rtol=1e-4)
    left = float(gradient("npo", math.sqrt(0.25 + 0.3)).norm() / gradient("ga", math.sqrt(0.25 + 0.3)).norm())
    assert left == pytest.approx(2 / (1 + math.exp(3)), rel=1e-3)  # a tenth at 3 / beta above
    assert float(gradient("npo", 5.0).abs().max()) < 1e-6 < float(gradient("ga", 5.0).abs().min())

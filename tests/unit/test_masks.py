"""Saliency masks on plain tensors. Run: pytest tests/unit/test_masks.py"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from erase.errors import EraseError
from erase.methods.masks import fisher_mask, gradient_mask, kth_largest


def numbers(seed: int, most: int) -> dict[str, torch.Tensor]:
    """Two tensors of whole numbers, many of them equal, some zero."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(-most, most + 1, (6, 7), generator=generator).float() for name in "ab"}


@pytest.mark.parametrize("most", [1, 3, 1000])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.77, 1.0])
def test_the_largest_gradients_are_chosen_and_ties_by_position(share: float, most: int) -> None:
    wanted = numbers(0, most)
    parameters = {name: nn.Parameter(torch.ones_like(value)) for name, value in wanted.items()}
    loss = sum((wanted[name] * p).sum() for name, p in parameters.items())
    found = gradient_mask(parameters, [lambda: loss], share)
    flat = torch.cat([value.abs().flatten() for value in wanted.values()])
    chosen = torch.zeros(84, dtype=torch.bool)
    chosen[flat.argsort(descending=True, stable=True)[: max(1, round(share * 84))]] = True
    assert torch.equal(torch.cat([value.flatten() for value in found.values()]), chosen)


@pytest.mark.parametrize("k", [1, 2, 500, 999, 1000])
def test_the_kth_largest_is_that_of_a_sorted_list(k: int) -> None:
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0)) ** 20  # down to 1e-40
    assert kth_largest([values[:300], values[300:].view(7, 100)], k) == float(
        values.sort(descending=True).values[k - 1]
    )


def test_a_fisher_mask_is_a_ratio_of_mean_squares() -> None:
    p = {"a": nn.Parameter(torch.ones(3))}
    forget = [
        lambda: (p["a"] * torch.tensor([2.0, 1.0, 0.0])).sum(),
        lambda: (p["a"] * torch.tensor([0.0, 1.0, 0.0])).sum(),
    ]
    retain = [lambda: (p["a"] * torch.tensor([1.0, 1.0, 0.0])).sum()]
    assert fisher_mask(p, forget, retain, 1.0)["a"].tolist() == [
        True,
        True,
        True,
    ]  # 2 and 1 times; the floor over itself
    assert fisher_mask(p, forget, retain, 1.5)["a"].tolist() == [True, False, False]
    with pytest.raises(EraseError, match="leaves no weight to move; lower method.ratio"):
        fisher_mask(p, forget, retain, 10.0)

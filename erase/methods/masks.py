"""Saliency masks: which of the trained weights a forget step may move.

Both are made once, from the original weights, out of gradients of the plain denoising loss under the concept's prompt.
The authors' code takes the loss of the guided prediction; the plain one is what training moves, and needs one branch.
A method says which role's steps its mask binds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from erase.errors import EraseError

SCALE = 1024.0


def gradient_mask(
    parameters: dict[str, nn.Parameter], losses: list[Callable[[], Tensor]], share: float
) -> dict[str, Tensor]:
    """SalUn's: the `share` of weights with the largest |sum over batches of the forget gradient|, over all tensors.

    Returns boolean tensors, True where a weight may move. Exactly the wanted number is chosen, ties by position.
    """
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for loss in losses:
        for name, gradient in zip(parameters, gradients(parameters, loss()), strict=True):
            total[name] += gradient
    sizes = [value.abs_() for value in total.values()]
    keep = max(1, round(share * sum(size.numel() for size in sizes)))
    least = kth_largest(sizes, keep)
    spare = keep - sum(int((size > least).sum()) for size in sizes)  # as many of those that equal it
    mask = {}
    for name, size in total.items():
        level = (size == least).flatten()
        level &= level.cumsum(0) <= spare
        spare -= int(level.sum())
        mask[name] = (size > least) | level.view_as(size)
    return mask


def kth_largest(values: Sequence[Tensor], k: int) -> float:
    """The k-th largest of all values, float32 and not negative, by bisection: no sorting, and no memory for it.

    Such floats are ordered as their bits are, read as whole numbers: 31 countings find all of these.
    """
    low, high = 0, torch.tensor(torch.inf).view(torch.int32).item()
    while low < high:
        middle = (low + high + 1) // 2
        enough = sum(int((value.view(torch.int32) >= middle).sum()) for value in values) >= k
        low, high = (middle, high) if enough else (low, middle - 1)
    return torch.tensor(low, dtype=torch.int32).view(torch.float32).item()


def fisher_mask(
    parameters: dict[str, nn.Parameter],
    forget: list[Callable[[], Tensor]],
    retain: list[Callable[[], Tensor]],
    ratio: float,
) -> dict[str, Tensor]:
    """SFRon's: weights whose diagonal Fisher on forget data is at least `ratio` times that on retain data.

    F = mean over losses of the squared gradient; give one loss a picture (not a batch), or it is no Fisher. Both get a
    floor of 1e-15, as in the authors' code, so a weight that neither loss reaches is in at ratio 1 and out above it.
    """
    forgets, retains = (_fisher(parameters, losses) for losses in (forget, retain))
    mask = {name: forgets[name] + 1e-15 >= ratio * (retains[name] + 1e-15) for name in parameters}
    if not any(bool(value.any()) for value in mask.values()):
        raise EraseError("the saliency mask leaves no weight to move; lower method.ratio")
    return mask


def _fisher(parameters: dict[str, nn.Parameter], losses: list[Callable[[], Tensor]]) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for loss in losses:
        for name, gradient in zip(parameters, gradients(parameters, loss()), strict=True):
            total[name] += gradient.square() / len(losses)
    return total


def gradients(parameters: Mapping[str, Tensor], loss: Tensor) -> tuple[Tensor, ...]:
    """Gradients without touching `.grad`; a parameter that the loss does not reach gets zeros.

    The loss is scaled up for the backward pass, by a power of two (exact in float32): fp16 would lose small gradients.
    """
    found = torch.autograd.grad(loss * SCALE, list(parameters.values()), allow_unused=True)
    return tuple(
        torch.zeros_like(p) if g is None else g / SCALE for p, g in zip(parameters.values(), found, strict=True)
    )

"""Saliency masks: which of the trained weights a forget step may move.

Both are made once, from the original weights, out of gradients of the plain denoising loss under the concept's prompt.
The authors' code takes the loss of the guided prediction; the plain one is what training moves, and needs one branch.
A method says which role's steps its mask binds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
    flat = torch.cat([value.abs().flatten() for value in total.values()])
    keep = max(1, round(share * flat.numel()))
    chosen = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    chosen[flat.argsort(descending=True, stable=True)[:keep]] = True
    return _split(parameters, chosen)


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
    parts = []
    for losses in (forget, retain):
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for loss in losses:
            for name, gradient in zip(parameters, gradients(parameters, loss()), strict=True):
                total[name] += gradient.square() / len(losses)
        parts.append(torch.cat([value.flatten() for value in total.values()]))
    chosen = parts[0] + 1e-15 >= ratio * (parts[1] + 1e-15)
    return _split(parameters, chosen)


def gradients(parameters: Mapping[str, Tensor], loss: Tensor) -> tuple[Tensor, ...]:
    """Gradients without touching `.grad`; a parameter that the loss does not reach gets zeros.

    The loss is scaled up for the backward pass, by a power of two (exact in float32): fp16 would lose small gradients.
    """
    found = torch.autograd.grad(loss * SCALE, list(parameters.values()), allow_unused=True)
    return tuple(
        torch.zeros_like(p) if g is None else g / SCALE for p, g in zip(parameters.values(), found, strict=True)
    )


def _split(parameters: dict[str, nn.Parameter], chosen: Tensor) -> dict[str, Tensor]:
    if not chosen.any():
        raise EraseError("the saliency mask leaves no weight to move; lower method.ratio or raise method.mask_share")
    parts = chosen.split([p.numel() for p in parameters.values()])
    return {name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)}

r"""Blockwise 8-bit storage of optimizer states.

A block of 256 values shares one fp32 scale, the largest magnitude :math:`s`. A magnitude :math:`r` is stored as

.. math::
    q \approx L \sqrt{r / s}, \qquad r \approx s \, (q / L)^2

with :math:`L` = 127 (signed) or 255 levels; for second moments :math:`r` is the root, so they live in the fourth-root
domain, and roots down to 1.5e-5 of the block's largest survive.

Rounding is random, unbiased in :math:`r`. Rounding to the nearest level would freeze a slow average: one Adam step
changes the second moment by about 0.1 %, less than half a level, and every such change would be rounded away. The
random numbers follow from the step number, so the same run gives the same bits and a resumed one goes on exactly.
A low-discrepancy sequence in their place is biased (5 % in 300 steps): what was stored depends on its last terms.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 256


class Packed(NamedTuple):
    """Codes `(blocks, 256)` int8 or uint8, and scales `(blocks, 1)` fp32."""

    codes: Tensor
    scales: Tensor


def pack(values: Tensor, *, signed: bool, squares: bool, step: int) -> Packed:
    """Quantise a tensor of any shape; `step` seeds the rounding.

    An unsigned value that is not 0 keeps at least code 1: a second moment errs upwards then, to smaller steps, where
    a 0 would divide by epsilon.
    """
    flat = values.detach().float().flatten()
    blocks = pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    sizes = blocks.abs().sqrt_() if squares else blocks.abs()
    scales = sizes.amax(dim=1, keepdim=True)
    levels = 127 if signed else 255
    relative = sizes.div_(scales.clamp_min(torch.finfo(torch.float32).tiny)).mul_(levels * levels)
    low = relative.sqrt().floor_()
    # Between codes q and q + 1 the magnitude grows by 2 q + 1: the fraction of that gap is the chance to round up.
    fraction = (relative - low * low).div_(low * 2 + 1)
    codes = low.add_(fraction.add_(_dither(step, values.device)).floor_()).clamp_(max=levels)
    if not signed:
        codes = torch.maximum(codes, (blocks > 0).to(codes.dtype))
        return Packed(codes.to(torch.uint8), scales)
    return Packed(codes.copysign_(blocks).to(torch.int8), scales)


def unpack(packed: Packed, like: Tensor, *, signed: bool, squares: bool) -> Tensor:
    """The values, in the shape and dtype of `like`."""
    levels = 127 if signed else 255
    codes = packed.codes.float()
    sizes = (codes * codes).mul_(packed.scales / (levels * levels))
    if squares:
        sizes.mul_(sizes)
    values = sizes.copysign_(codes) if signed else sizes
    return values.flatten()[: like.numel()].view(like.shape).to(like.dtype)


def _dither(step: int, device: torch.device) -> Tensor:
    """256 numbers in [0, 1), one for each place of a block; made on the CPU, so that devices agree."""
    return torch.rand(BLOCK, generator=torch.Generator().manual_seed(step)).to(device)

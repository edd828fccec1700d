"""Gradient ascent on the concept's pictures, with denoising on the kept ones."""

from __future__ import annotations

from torch import Tensor

from erase.methods.parts import Batch, Method, Nets, Options, denoise


def forget(nets: Nets, batch: Batch, options: Options) -> Tensor:
    """-MSE(eps_th(x_t, c), eps). It has no lower bound, so the retain term and few rounds hold it."""
    return -denoise(nets, batch, options)


GA = Method(
    name="ga",
    summary="push up the denoising loss of the concept's pictures; the plain baseline",
    forget=forget,
    retain=denoise,
    forget_source="pictures",
    retain_source="pictures",
)

"""NPO: negative preference optimisation (Zhang et al., COLM 2024), with the denoising loss for the log-likelihood."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from erase.methods.parts import Batch, Method, Nets, Options, denoise, present


def forget(nets: Nets, batch: Batch, options: Options) -> Tensor:
    """-(2 / beta) mean_b log sigmoid(beta (l_th - l_0)), with l (B,) the MSE(eps(x_t, c), eps) of each latent.

    NPO is (2 / beta) E log(1 + (pi_th / pi_0)^beta); for a Gaussian log pi = -l up to a factor, which beta takes in.
    While student and teacher agree its gradient is that of ascent, -l_th; where l_th is some 3 / beta above l_0 a
    tenth of it is left, so it has the end that ascent lacks.
    """
    target = present(batch.target, "a picture's target")
    original = _errors(nets.teacher(batch.noisy, batch.times, batch.text), target)
    trained = _errors(nets.student(batch.noisy, batch.times, batch.text), target)
    return -(2 / options.beta) * F.logsigmoid(options.beta * (trained - original)).mean()


def _errors(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each latent: (B, C, h, w) twice to (B,)."""
    return (predicted - target).square().flatten(1).mean(1)


NPO = Method(
    name="npo",
    summary="gradient ascent that fades out above the original model's loss",
    forget=forget,
    retain=denoise,
    forget_source="pictures",
    retain_source="pictures",
)

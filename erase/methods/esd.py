"""ESD: Erased Stable Diffusion (Gandikota et al., ICCV 2023)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from erase.methods.parts import Batch, Method, Nets, Options, match_teacher, present


def forget(nets: Nets, batch: Batch, options: Options) -> Tensor:
    """MSE(eps_th(x_t, c), eps_0(x_t, c*) - eta (eps_0(x_t, c) - eps_0(x_t, ""))).

    eta is `guidance`; with no anchor c* is the prompt without the concept, "" if that was all it said. x_t lies on the
    teacher's own guided trajectories, half of them under c and half under c*: while it samples, an erased model leaves
    the former for the latter, and what it was not taught there comes out as blank pictures (docs/methods.md).
    """
    conditional = present(batch.conditional, "the teacher's prediction under the concept")
    unconditional = present(batch.unconditional, "the teacher's unconditional prediction")
    anchored = present(batch.anchored, "the teacher's prediction under the anchor")
    target = anchored - options.guidance * (conditional - unconditional)
    return F.mse_loss(nets.student(batch.noisy, batch.times, batch.text), target)


ESD = Method(
    name="esd",
    summary="steer the concept's prediction away from itself; prompts only",
    forget=forget,
    retain=match_teacher,
    forget_source="trajectories",
    retain_source="trajectories",
    shown="both",
)

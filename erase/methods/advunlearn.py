"""AdvUnlearn: forget also what an adversarial prompt brings back (Zhang et al., NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from erase.methods import esd
from erase.methods.masks import gradients
from erase.methods.parts import Batch, Method, Predict, match_teacher, present

Prefix = tuple[Tensor, ...]


def attack(
    student: Predict,
    batch: Batch,
    prefix: Prefix,
    steps: int,
    sizes: tuple[float, ...],
    average: Callable[[Sequence[Tensor]], None] | None = None,
) -> Prefix:
    """p <- p - a sign grad_p MSE(eps_th(x_t, [p; c]), eps_0(x_t, c)), `steps` times; p (k, E) for each text encoder.

    The prefix which makes the erased model predict under the concept's prompt what the original did. `sizes` are a for
    each encoder. `average` puts the mean over processes, each of which has a share of the batch, into the gradients.
    """
    target = present(batch.conditional, "the teacher's prediction under the concept")
    for _ in range(steps):
        free = {str(i): value.detach().requires_grad_(True) for i, value in enumerate(prefix)}
        text = replace(batch.text, prefix=tuple(free.values()))
        with torch.enable_grad():
            found = gradients(free, F.mse_loss(student(batch.noisy, batch.times, text), target))
        if average is not None:
            average(found)
        prefix = tuple(p - a * g.sign() for p, a, g in zip(prefix, sizes, found, strict=True))
    return prefix


ADVUNLEARN = Method(
    name="advunlearn",
    summary="esd on the text encoder, also for a prefix that would bring the concept back",
    forget=esd.forget,
    retain=match_teacher,
    forget_source="trajectories",
    retain_source="trajectories",
    shown="both",
    adversary=True,
)

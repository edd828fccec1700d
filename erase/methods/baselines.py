"""Pseudo methods that calibrate every axis of a report: what does nothing, what destroys, what only hides, and gold.

A method that does no better than these on an axis has shown nothing there. None of them trains or solves for anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Baseline:
    """Where the weights after come from, and what is done to prompts in the weights' stead.

    `weights`: the same as before, random ones, or another model's. `hides`: the concept's name is taken out of the
    prompt ("word"), or guidance steers away from it ("negative").
    """

    name: str
    summary: str
    weights: Literal["same", "random", "source"] = "same"
    hides: Literal["", "word", "negative"] = ""


BASELINES: dict[str, Baseline] = {
    b.name: b
    for b in (
        Baseline("noop", "baseline: nothing is done"),
        Baseline("word_filter", "baseline: the concept's name is struck from prompts", hides="word"),
        Baseline("negative_prompt", "baseline: the concept as the negative prompt", hides="negative"),
        Baseline("destroyer", "baseline: random weights", weights="random"),
        Baseline("retrained", "baseline: method.source, a model trained without the concept", weights="source"),
    )
}


def randomised(weights: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Normal weights of each tensor's own mean and deviation: as large as before, and without any memory."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, value in weights.items():
        spread = float(value.std()) if value.numel() > 1 else 0.0
        noise = torch.randn(value.shape, generator=generator)
        found[name] = (float(value.mean()) + (spread or 0.02) * noise).to(value.device, value.dtype)
    return found

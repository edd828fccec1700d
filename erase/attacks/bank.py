"""Noisy latents of what is to come back, with what the network should predict there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erase.attacks.subject import Subject, originally, targets
from erase.models import Model
from erase.runtime import stable_seed


@dataclass(frozen=True, slots=True)
class Noised:
    """Noisy latents (B, C, h, w), their times (B,), and a prediction wanted at each, of the latents' shape."""

    noisy: Tensor
    times: Tensor
    wanted: Tensor

    def __getitem__(self, part: slice) -> Noised:
        return Noised(self.noisy[part], self.times[part], self.wanted[part])


def noised(model: Model, clean: Tensor, seed: int) -> Noised:
    """Latents (B, C, h, w) at random times; wanted is what the model is trained to predict there (eps, v or flow)."""
    generator = torch.Generator().manual_seed(seed)
    times = model.random_times(len(clean), generator)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    noisy, wanted = model.add_noise(clean, noise, times)
    return Noised(noisy, times.to(clean.device), wanted)


def original_bank(subject: Subject, count: int, name: str) -> list[Noised]:
    """`count` noisings of every case's picture, and what the original predicts there under the case's whole prompt."""
    clean, found = targets(subject), []
    with originally(subject), torch.no_grad():
        text = subject.model.encode([case.prompt for case in subject.cases])
        for turn in range(count):
            subject.rest(f"{name}: the original's predictions", turn, count)
            one = noised(subject.model, clean, stable_seed(subject.seed, name, turn))
            wanted = [subject.model.predict(one.noisy[p], one.times[p], text[p]) for p in subject.portions()]
            found.append(Noised(one.noisy, one.times, torch.cat(wanted)))
    return found

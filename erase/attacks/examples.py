"""Pictures that an attacker would have: a few of the concept, or of anything else, drawn by the original model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from erase.attacks.budget import Budget
from erase.attacks.subject import Subject, encode_pictures, originally
from erase.runtime import stable_seed
from erase.sampling import Shot, sample
from erase.training.prompts import forget_pairs, retain_prompts


def concept_prompts(subject: Subject, count: int) -> list[str]:
    """Prompts that name the concept, none of them a case's."""
    generator = torch.Generator().manual_seed(stable_seed(subject.seed, "examples"))
    return [pair.prompt for pair in forget_pairs(subject.model, subject.request, count, False, generator)]


def other_prompts(subject: Subject, count: int) -> list[str]:
    """Prompts that name anything but what is erased; the empty one is left out, as it teaches no word."""
    generator = torch.Generator().manual_seed(stable_seed(subject.seed, "others"))
    drawn = retain_prompts(subject.model, subject.request, 2 * count, generator)
    return [prompt for prompt in drawn if prompt][:count]


def concept_pictures(subject: Subject, budget: Budget) -> Tensor:
    """Latents of pictures of the concept, (n, C, h, w), as many as any attack of the budget needs."""
    return _drawn(subject, "concept examples", concept_prompts(subject, most(budget)))


def other_pictures(subject: Subject, budget: Budget) -> Tensor:
    """The same of other things."""
    return _drawn(subject, "other examples", other_prompts(subject, most(budget)))


def most(budget: Budget) -> int:
    """How many pictures an attacker has."""
    return max(budget.examples, *budget.relearn_pictures)


def _drawn(subject: Subject, what: str, prompts: list[str]) -> Tensor:
    def make() -> Tensor:
        shots = [Shot(prompt, f"example/{i}", subject.seed) for i, prompt in enumerate(prompts)]
        with originally(subject):
            images = sample(
                subject.model,
                shots,
                steps=subject.steps,
                guidance=subject.guidance,
                on_event=subject.on_event,
                should_stop=subject.should_stop,
                what=what,
            )
        return encode_pictures(subject.model, torch.from_numpy(np.stack(images)))

    return subject.once(what, make)

"""Fine-tuning the erased model: on a few pictures of the concept, or, as the control, on as many of other things."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from erase.attacks.bank import noised
from erase.attacks.budget import Budget
from erase.attacks.examples import concept_pictures, concept_prompts, most, other_pictures, other_prompts
from erase.attacks.subject import Subject, Try, ask_again
from erase.models import Text, select
from erase.runtime import stable_seed

RATE, BATCH = 1e-4, 4
WHOLE = 2**28  # weights; of a network with more the cross-attention is tuned, as all of it would not fit a GPU


@contextmanager
def trainable(subject: Subject) -> Iterator[list[nn.Parameter]]:
    """The network's weights made ready to train, and put back to the bit at the end."""
    named: dict[str, nn.Parameter] = dict(subject.model.unet.named_parameters())
    if sum(p.numel() for p in named.values()) > WHOLE:
        named = select(subject.model, "xattn")  # whatever a run changed, so that runs and golds are tuned alike
    before = {name: p.detach().clone() for name, p in named.items()}
    try:
        for p in named.values():
            p.requires_grad_(True)
        yield list(named.values())
    finally:
        with torch.no_grad():
            for name, p in named.items():
                p.requires_grad_(False)
                p.grad = None
                p.copy_(before[name])


def tune(
    subject: Subject, weights: list[nn.Parameter], optimizer: torch.optim.Optimizer, clean: Tensor, text: Text,
    first: int, last: int, name: str,
) -> None:  # fmt: skip
    """Steps `first` to `last` of |eps(x_t, c) - eps|^2 on latents (n, C, h, w) with their prompts."""
    size = min(BATCH, len(clean))
    for step in range(first, last):
        subject.rest(f"{name}: training", step, last)
        generator = torch.Generator().manual_seed(stable_seed(subject.seed, "relearning", step))
        chosen = torch.randperm(len(clean), generator=generator)[:size].to(clean.device)
        given = noised(subject.model, clean[chosen], stable_seed(subject.seed, "relearning noise", step))
        with torch.enable_grad():
            found = subject.model.predict(given.noisy, given.times, text[chosen])
            (found - given.wanted).square().mean().backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _grid(subject: Subject, budget: Budget, name: str, clean: Tensor, prompts: list[str]) -> list[Try]:
    """Every number of pictures anew from the erased weights; after each number of steps all cases are drawn."""
    found: list[Try] = []
    with torch.no_grad():
        text = subject.model.encode(prompts)
    for count in budget.relearn_pictures:
        done, count = 0, min(count, len(clean))
        with trainable(subject) as weights:
            optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
            for steps in budget.relearn_steps:
                tune(subject, weights, optimizer, clean[:count], text[:count], done, steps, name)
                done, number = steps, len(found) // len(subject.cases) + 1
                dose = f"{steps} steps on {count}"
                planned = [(case, number, dose, subject.shot(case)) for case in subject.cases]
                found += ask_again(subject, planned, f"{name}: {count} pictures, {steps} steps")
    return found


def relearning(subject: Subject, budget: Budget) -> list[Try]:
    """On {1, 4, 16} pictures of the concept; does its prompt draw it again?"""
    return _grid(
        subject, budget, "relearning", concept_pictures(subject, budget), concept_prompts(subject, most(budget))
    )


def benign(subject: Subject, budget: Budget) -> list[Try]:
    """The same on pictures of other things: nobody means to bring it back."""
    return _grid(subject, budget, "benign", other_pictures(subject, budget), other_prompts(subject, most(budget)))

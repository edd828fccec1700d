"""Attacks that give the erased model a start: a noised picture of the concept, or the original's first steps.

What a start shows by itself is no work of the prompt, so each has a control from the same start under the empty prompt.
"""

from __future__ import annotations

from torch import Tensor

from erase.attacks.budget import Budget
from erase.attacks.subject import Subject, Try, developed, noise_of, originally, targets, walk

STRENGTHS = (0.9, 0.7, 0.5, 0.3)  # share of the way back to noise; the least help first
SHARES = (0.04, 0.12, 0.2, 0.4)  # of the steps that the original takes: 1, 3, 5 and 10 of 25; 1, 2, 3 and 4 of 10


def image_to_image(subject: Subject, budget: Budget) -> list[Try]:
    """The original's picture of the case, noised to each strength, drawn on by the erased model (SDEdit).

    By another noise than the picture was drawn from, which whoever has a picture does not have.
    """
    return _from_pictures(subject, budget, "image_to_image", named=True)


def unprompted_image(subject: Subject, budget: Budget) -> list[Try]:
    """The control of `image_to_image`: the same starts under the empty prompt."""
    return _from_pictures(subject, budget, "unprompted_image", named=False)


def completion(subject: Subject, budget: Budget) -> list[Try]:
    """The original draws the first steps, the erased model the rest."""
    return _from_steps(subject, budget, "completion", named=True)


def unprompted_completion(subject: Subject, budget: Budget) -> list[Try]:
    """The control of `completion`: the rest under the empty prompt."""
    return _from_steps(subject, budget, "unprompted_completion", named=False)


def complete(subject: Subject, prompts: list[str], noise: Tensor, k: int) -> Tensor:
    """k steps by the original under the cases' prompts, the rest by the erased model under `prompts`: clean latents."""
    what, model = "completion", subject.model
    with originally(subject):
        text = model.encode([case.prompt for case in subject.cases])
        begun = walk(subject, text, noise, last=k, what=what) if k else noise
    if k >= subject.steps:
        return begun
    return walk(subject, model.encode(model.told(prompts)), begun, first=k, what=what)


def restart(subject: Subject, prompts: list[str], clean: Tensor, noise: Tensor, strength: float) -> Tensor:
    """Clean latents noised to `strength` of the way and drawn on under `prompts`: clean latents again."""
    model = subject.model
    first = min(subject.steps - 1, round(subject.steps * (1 - strength)))
    time = model.solver(subject.steps).timesteps[first]
    noisy, _ = model.add_noise(clean, noise, time.expand(len(clean)))
    return walk(subject, model.encode(model.told(prompts)), noisy, first=first, what="image_to_image")


def doses(steps: int) -> list[int]:
    """How many of `steps` the original takes, by `SHARES`: each more than the one before while there are more."""
    found: list[int] = []
    for share in SHARES:
        least = found[-1] + 1 if found else 1
        found.append(min(max(least, round(share * steps)), max(1, steps - 1)))
    return found


def _from_pictures(subject: Subject, budget: Budget, name: str, *, named: bool) -> list[Try]:
    clean, found = targets(subject), []
    for turn in range(budget.pictures):
        subject.rest(name, turn, budget.pictures)
        strength, seed = STRENGTHS[turn % len(STRENGTHS)], 1 + turn // len(STRENGTHS)
        drawn = restart(subject, _prompts(subject, named), clean, noise_of(subject, seed), strength)
        found += developed(subject, drawn, turn + 1, f"strength {strength}", seed, named=named)
    return found


def _from_steps(subject: Subject, budget: Budget, name: str, *, named: bool) -> list[Try]:
    found = []
    for turn in range(budget.pictures):
        subject.rest(name, turn, budget.pictures)
        k, seed = doses(subject.steps)[turn % len(SHARES)], turn // len(SHARES)
        drawn = complete(subject, _prompts(subject, named), noise_of(subject, seed), k)
        found += developed(subject, drawn, turn + 1, f"{k} of {subject.steps} steps", seed, named=named)
    return found


def _prompts(subject: Subject, named: bool) -> list[str]:
    return [case.prompt if named else "" for case in subject.cases]

"""How long attacks will take, from a few seconds of timing on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from erase.attacks.bank import noised
from erase.attacks.budget import Budget
from erase.attacks.relearning import trainable
from erase.attacks.subject import Subject
from erase.attacks.table import ATTACKS
from erase.sampling import at_once, denoise, drawing, first_noise, hands

BATCH = 8
MANY = 256  # pictures, as attacks draw


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one picture, one gradient to the prompt, one sample of a training step, one text, and judging a picture."""

    picture: float
    gradient: float
    training: float
    text: float
    judging: float = 0.0


Look = Callable[[list[np.ndarray], list[str]], object]


def measure(subject: Subject, look: Look | None = None) -> Seconds:
    """Time each once warm: a picture by two of its steps and its decoding. Leaves no trace in the model.

    `look` judges pictures (H, W, 3) and their prompts; None counts no judging.
    """
    model = subject.model
    size, side = min(BATCH, at_once(model)), hands(model, MANY)
    prompts = [subject.cases[0].prompt] * size
    with torch.no_grad():
        text = model.encode(prompts)
    empty = model.encode([""])
    noise = first_noise(model, [subject.shot(subject.cases[0], turn) for turn in range(size)])

    def steps() -> None:
        denoise(model, text, empty, noise, subject.steps, subject.guidance, last=2)

    def develop() -> None:
        model.decode(noise)

    def slope() -> None:
        given = noised(model, noise, 0)
        states = text.states.detach().requires_grad_(True)
        with torch.enable_grad():
            model.predict(given.noisy, given.times, replace(text, states=states)).square().mean().backward()

    def train() -> None:
        with trainable(subject):
            slope()

    @torch.no_grad()
    def read() -> None:
        model.encode(prompts)

    def judge() -> None:
        if look:
            look(pictures, prompts)

    pictures = list(model.decode(noise).numpy())
    with drawing(side) as each:  # as pictures are drawn
        step = _timed(lambda: list(each(lambda _: steps(), range(side))))
        decoding = _timed(lambda: list(each(lambda _: develop(), range(side))))
    return Seconds(
        (step / 2 * subject.steps + decoding) / (size * side),
        _timed(slope) / size,
        _timed(train) / size,
        _timed(read) / size,
        _timed(judge) / size,
    )


def expected(names: Sequence[str], budget: Budget, seconds: Seconds) -> dict[str, float]:
    """Seconds of each."""
    found = {}
    for name in names:
        cost = ATTACKS[name].cost(budget)
        found[name] = (
            cost.pictures * (seconds.picture + seconds.judging)
            + cost.gradients * seconds.gradient
            + cost.training * seconds.training
            + cost.texts * seconds.text
        )
    return found


def _timed(work: Callable[[], object]) -> float:
    work()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun

"""What every attack is given: the erased model and the original's tensors, the cases, and how pictures are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from erase.attacks.inject import vocabulary
from erase.concept import Request
from erase.errors import Interrupted
from erase.evaluation.prompts import Ask
from erase.events import OnEvent, Progress, ShouldStop, ignore, never
from erase.models import Model, Text, put_tensors
from erase.models.parameters import Tensors
from erase.sampling import Made, Shot, at_once, dealt, denoise, develop, drawing, first_noise, hands, sample

Found = TypeVar("Found")
APART = 10_000  # between the seeds of a case's further pictures, so that cases do not share any


@dataclass(frozen=True, slots=True)
class Try:
    """One picture of an attack: `number` from 1 within its case, `step` says at which dose or iteration it was drawn.

    `image` is uint8 (H, W, 3); `lost` says that the model's latents were not finite.
    """

    case: Ask
    number: int
    step: str
    prompt: str
    shot: Shot
    image: np.ndarray
    lost: bool


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under attack; it holds the erased weights but within `originally`.

    `original` and `erased` are the changed subset's tensors. `cases` are prompts that name the concept, one picture
    each; `steps` and `guidance` draw it; all randomness comes from `seed` and the case. `memo` keeps what several
    attacks need.
    """

    model: Model
    request: Request
    cases: tuple[Ask, ...]
    original: Tensors
    erased: Tensors
    steps: int
    guidance: float
    seed: int = 0
    on_event: OnEvent = ignore
    should_stop: ShouldStop = never
    memo: dict[str, Any] = field(default_factory=dict)

    def shot(self, case: Ask, turn: int = 0) -> Shot:
        """The case's own first noise, or with `turn` another of its seeds."""
        return Shot(case.prompt, case.prompt_id, case.seed + APART * turn)

    def once(self, name: str, make: Callable[[], Found]) -> Found:
        """What `make` returns, made once."""
        if name not in self.memo:
            self.memo[name] = make()
        return self.memo[name]

    def rest(self, what: str, done: int, total: int) -> None:
        """Say how far a loop is, and stop it where that is asked for."""
        if self.should_stop():
            raise Interrupted(f"stopped during {what}, {done} of {total} done")
        self.on_event(Progress(what=what, done=done, total=total))

    def portions(self) -> list[slice]:
        """The cases in parts that the device's memory holds together."""
        size = at_once(self.model)
        return [slice(start, start + size) for start in range(0, len(self.cases), size)]

    def vocabulary(self) -> list[int]:
        """Words that may be used: none of what is erased, nor of what is to be or was before."""
        return self.once("vocabulary", lambda: vocabulary(self.model, self.names()))

    def names(self) -> list[str]:
        """Of all that is erased, is to be or was before."""
        every = {concept.name for concept in (*self.request.concepts, *self.request.earlier)}
        return sorted(every | self.request.gone)


@contextmanager
def originally(subject: Subject) -> Iterator[None]:
    """The original weights for the length of a block, with nothing between prompts and model."""
    hiding = subject.model.hiding
    put_tensors(subject.model, subject.original)
    subject.model.hiding = None
    try:
        yield
    finally:
        put_tensors(subject.model, subject.erased)
        subject.model.hiding = hiding


@contextmanager
def untouched(subject: Subject) -> Iterator[None]:
    """Put back what an attack may leave: the erased tensors, which weights train, their gradients, the mode."""
    parts = list(subject.model.weighted.values())
    trains = [(p, p.requires_grad) for part in parts for p in part.parameters()]
    modes = [part.training for part in parts]
    try:
        yield
    finally:
        for p, wanted in trains:
            p.requires_grad_(wanted)
            p.grad = None
        for part, mode in zip(parts, modes, strict=True):
            part.train(mode)
        put_tensors(subject.model, subject.erased)


def ask_again(subject: Subject, planned: list[tuple[Ask, int, str, Shot]], what: str) -> list[Try]:
    """Draw (case, number, step, shot) by the shots' prompts."""
    lost: set[int] = set()
    images = sample(
        subject.model,
        [shot for *_, shot in planned],
        steps=subject.steps,
        guidance=subject.guidance,
        broken="blank",
        lost=lost,
        on_event=subject.on_event,
        should_stop=subject.should_stop,
        what=what,
    )
    return [
        Try(case, number, step, shot.prompt, shot, image, i in lost)
        for i, ((case, number, step, shot), image) in enumerate(zip(planned, images, strict=True))
    ]


def in_words(
    subject: Subject, words: list[list[str]], steps: list[str], what: str, *, further: bool = False
) -> list[Try]:
    """Draw `words[i][j]`, a whole prompt, as try j + 1 of case i, from the case's own noise or its `further` ones."""
    planned = [
        (case, j + 1, steps[j], replace(subject.shot(case, j if further else 0), prompt=prompt))
        for case, prompts in zip(subject.cases, words, strict=True)
        for j, prompt in enumerate(prompts)
    ]
    return ask_again(subject, planned, what)


@torch.no_grad()
def in_turns(subject: Subject, count: int, what: str, make: Callable[[slice], Made]) -> list[Made]:
    """What `make` makes of each batch of `count` pictures, in order; some batches at once where that is faster."""
    side, done = hands(subject.model, count), []
    size = dealt(at_once(subject.model), count, side)
    with drawing(side) as each:
        for start in range(0, count, size * side):
            subject.rest(what, start, count)
            end = min(start + size * side, count)
            done += each(make, [slice(i, min(i + size, end)) for i in range(start, end, size)])
    subject.on_event(Progress(what=what, done=count, total=count))
    return done


@torch.no_grad()
def walk(
    subject: Subject, text: Text, latents: Tensor, first: int = 0, last: int | None = None, what: str = ""
) -> Tensor:
    """Take the solver's steps `first` to `last` with latents (N, C, h, w) under N prompts, a batch at a time.

    Guidance steers away from what a baseline says; `text` is as the model is to read it (see `Model.told`).
    """
    empty = subject.model.negative()

    def onward(part: slice) -> Tensor:
        known = subject.model, text[part], empty, latents[part], subject.steps, subject.guidance
        return denoise(*known, first=first, last=last)

    return torch.cat(in_turns(subject, len(latents), what, onward))


def developed(subject: Subject, clean: Tensor, number: int, step: str, seed: int, *, named: bool = True) -> list[Try]:
    """The pictures of clean latents (N, C, h, w), one a case, as each one's try `number`; `named`: by its prompt."""
    with torch.no_grad():
        images, lost = develop(subject.model, clean)
    return [
        Try(case, number, step, case.prompt if named else "", subject.shot(case, seed), image, gone)
        for case, image, gone in zip(subject.cases, images, lost, strict=True)
    ]


def noise_of(subject: Subject, turn: int = 0) -> Tensor:
    """The cases' first noises, (N, C, h, w)."""
    return first_noise(subject.model, [subject.shot(case, turn) for case in subject.cases])


def targets(subject: Subject) -> Tensor:
    """Latents of the pictures that the original draws of the cases, (N, C, h, w): what an attack is to bring back."""

    def make() -> Tensor:
        with originally(subject):
            text = subject.model.encode([case.prompt for case in subject.cases])
            clean = walk(subject, text, noise_of(subject), what="pictures of the original")
            return encode_pictures(subject.model, torch.from_numpy(np.stack(develop(subject.model, clean)[0])))

    return subject.once("targets", make)


@torch.no_grad()
def encode_pictures(model: Model, pictures: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to the latents that the VAE's encoder means by them, (N, C, h, w)."""
    pixels = pictures.permute(0, 3, 1, 2).float().to(model.device) / 127.5 - 1
    with torch.autocast(model.device.type, enabled=False):
        means = [model.vae.encode(part).latent_dist.mean for part in pixels.split(8)]
    return (torch.cat(means).float() - (model.vae.config.shift_factor or 0.0)) * model.vae.config.scaling_factor

"""Prompts and seeds to pictures, and to the trajectories that training draws noisy latents from.

The first noise of a picture depends on its prompt id and seed alone and is drawn on the CPU, so before and after,
any batch size and any device start from the same point.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from erase.distributed import ALONE, Group
from erase.errors import EraseError, InputError, Interrupted
from erase.events import OnEvent, Progress, ShouldStop, ignore, never
from erase.models import Model, Text, join
from erase.runtime import stable_seed

SMALL = 32  # pictures at a time: more of them only overflow a CPU's caches
MOST_HANDS = 4  # threads take turns at Python itself
LEAST_EACH = 8  # pictures: smaller batches cost more than they gain

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture to make."""

    prompt: str
    prompt_id: str
    seed: int


def first_noise(model: Model, shots: list[Shot]) -> Tensor:
    """Standard normal latents (N, C, h, w), one CPU generator a picture."""
    return torch.stack([_noise(model, shot) for shot in shots]).to(model.device)


def noise_hash(model: Model, shot: Shot) -> str:
    """SHA-256 of a picture's first noise: two pictures with the same one can be compared."""
    return hashlib.sha256(_noise(model, shot).numpy().tobytes()).hexdigest()


def _noise(model: Model, shot: Shot) -> Tensor:
    generator = torch.Generator().manual_seed(stable_seed(shot.prompt_id, shot.seed))
    return torch.randn(model.latent_shape, generator=generator)


def at_once(model: Model) -> int:
    """How many pictures to sample together where nobody says: small latents in plenty, large ones few.

    A GPU with little to do at a time waits for its orders; a CPU is busy at 32 and only loses its caches beyond. Who
    has parts of the model wait elsewhere is short of memory: an eighth.
    """
    latents, most = (2**18, 256) if model.device.type == "cuda" else (2**16, SMALL)
    latents //= 8 if model.offload else 1
    return max(1, min(most, latents // math.prod(model.latent_shape)))


def dealt(batch: int, count: int, sharers: int) -> int:
    """How many of `count` each sharer makes at a time: `batch`, or fewer if some had nothing to do then.

    Batches go round the sharers. As long as there are enough of them they are those of a single one.
    """
    return max(1, min(batch, -(-count // sharers)))


def hands(model: Model, count: int) -> int:
    """How many batches of `count` pictures are best drawn at the same time, each by a thread of its own.

    A small picture is many small operations, which two cores together finish little sooner than one; a batch for each
    core is done in three quarters of the time (docs/performance.md). Large pictures fill all cores, a GPU has one
    queue, and parts that wait elsewhere are fetched for one batch at a time.
    """
    if model.device.type != "cpu" or model.offload or at_once(model) < SMALL:
        return 1
    return max(1, min(torch.get_num_threads(), MOST_HANDS, count // LEAST_EACH))


class _Hand(threading.local):
    """What a thread of `drawing` knows: `alone` once nobody waits for its pictures."""

    alone: threading.Event | None = None


_HAND = _Hand()


@contextmanager
def drawing(count: int) -> Iterator[Callable[[Callable[[Item], Made], Iterable[Item]], Iterable[Made]]]:
    """A `map` that works in `count` threads, which divide torch's threads among them; of one, the built-in one.

    Leaving the block before all is drawn ends a thread's `denoise` at its next step.
    """
    if count == 1:
        yield map
        return
    cores, alone = torch.get_num_threads(), threading.Event()

    def begin() -> None:
        torch.set_num_threads(cores // count)
        _HAND.alone = alone

    with ThreadPoolExecutor(count, "drawing", begin) as pool:
        try:
            yield pool.map
        finally:
            alone.set()  # of an error or Ctrl-C: what is under way would hold up the end
            torch.set_num_threads(cores)  # each thread's setting is also that of all threads to come


Visit = Callable[[int, Tensor, Tensor, Tensor, Tensor], None]
Seen = Callable[[int, np.ndarray], None]


@torch.no_grad()
def denoise(
    model: Model,
    text: Text,
    empty: Text,
    noise: Tensor,
    steps: int,
    guidance: float,
    visit: Visit | None = None,
    *,
    first: int = 0,
    last: int | None = None,
) -> Tensor:
    """The model's deterministic solver with classifier-free guidance; returns the clean latents.

    eps = eps(x, "") + guidance (eps(x, c) - eps(x, "")), both branches in one call; guidance 1 needs one branch only.
    `text` are N prompts, `empty` the empty one, `noise` (N, C, h, w). `visit(i, t, x_t, eps_c, eps_empty)` sees every
    step (and asks for both branches). Of a model that predicts v the same holds for v, which is linear in eps.

    Only the steps from `first` up to `last` (None: the end) are taken, of latents that have come as far as `first`.
    """
    solver, latents = model.solver(steps), noise
    both = guidance != 1 or visit is not None
    # Empty branch first, as in diffusers' pipelines: so the pictures agree to the bit.
    context = join([empty.repeat(len(text)), text]) if both else text
    for i, t in list(enumerate(solver.timesteps))[first:last]:
        if _HAND.alone and _HAND.alone.is_set():
            raise Interrupted("stopped while drawing, since nobody waits for the pictures")
        doubled = torch.cat([latents, latents]) if both else latents
        predicted = model.predict(doubled, t, context)
        if both:
            unconditional, conditional = predicted.chunk(2)
            if visit:
                visit(i, t, latents, conditional, unconditional)
            predicted = unconditional + guidance * (conditional - unconditional)
        latents = solver.step(predicted, t, latents).prev_sample
    return latents


@torch.no_grad()
def sample(
    model: Model,
    shots: list[Shot],
    *,
    steps: int = 25,
    guidance: float = 3.0,
    batch: int | None = None,
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
    what: str = "sampling",
    broken: Literal["raise", "blank"] = "raise",
    lost: set[int] | None = None,
    seen: Seen | None = None,
    group: Group = ALONE,
) -> list[np.ndarray]:
    """Pictures of the shots, uint8 (H, W, 3), in order. Raises `Interrupted` when asked to stop between batches.

    `batch` at a time, None: as many as suit the device. Only memory, speed and last bits depend on it.

    `guidance` 1 is the prompt's own prediction, 0 the empty prompt's, and what lies between mixes the two; diffusers'
    pipelines guide above 1 only, and draw all these as 1.

    Latents with NaN or infinity are an `EraseError`, or with `broken="blank"` a black picture, whose place is added to
    `lost`: a run whose model broke is to be judged so, not to end without a report.

    `seen(place, picture)` gets each picture that this process drew as soon as its batch is done.

    The processes of a `group` draw a part each, and each returns all.
    """
    if not shots:
        return []
    if steps < 1 or (batch is not None and batch < 1):
        raise InputError(f"steps and batch must be 1 or more, got {steps} and {batch}")
    empty = model.negative()
    # Processes must agree on whose turn it is, whatever their threads; and who names a batch has memory for one.
    side = hands(model, len(shots)) if batch is None and group.size == 1 else 1
    batch = dealt(at_once(model) if batch is None else batch, len(shots), group.size * side)

    def draw(asked: tuple[list[Shot], Text]) -> tuple[list[np.ndarray], list[bool]]:
        chosen, text = asked
        return develop(model, denoise(model, text, empty, first_noise(model, chosen), steps, guidance))

    parts: list[list[tuple[np.ndarray, bool]]] = []  # pictures, and whether each is black
    with drawing(side) as each:
        for turn in range(0, len(shots), batch * side * group.size):
            if group.any(should_stop()):
                raise Interrupted(f"stopped while {what}, {turn} of {len(shots)} pictures done")
            start = turn + batch * group.rank
            chosen = [part for i in range(side) if (part := shots[start + i * batch :][:batch])]
            # Read here, since tokenizers know no threads.
            asked = [(part, model.encode(model.told([shot.prompt for shot in part]))) for part in chosen]
            parts.append([one for part in each(draw, asked) for one in zip(*part, strict=True)])
            bad = [start + i for i, (_, black) in enumerate(parts[-1]) if black]
            found = min((place for places in group.gather(bad) for place in places), default=None)
            if broken == "raise" and found is not None:
                prompt = shots[found].prompt
                raise EraseError(f"NaN or infinity in the latents of {prompt!r}; the model's weights are broken")
            for place, (picture, _) in enumerate(parts[-1], start):
                if seen is not None:
                    seen(place, picture)
            on_event(Progress(what=what, done=min(turn + batch * side * group.size, len(shots)), total=len(shots)))
    every = [one for turns in zip(*group.gather(parts), strict=True) for part in turns for one in part]
    if lost is not None:
        lost.update(place for place, (_, black) in enumerate(every) if black)
    return [picture for picture, _ in every]


def develop(model: Model, latents: Tensor) -> tuple[list[np.ndarray], list[bool]]:
    """Clean latents (N, C, h, w) to pictures, and which of them are black since they were not finite."""
    finite = torch.isfinite(latents).flatten(1).all(1)
    decoded = model.decode(torch.where(finite[:, None, None, None], latents, torch.zeros_like(latents)))
    decoded[~finite.cpu()] = 0
    return list(decoded.numpy()), (~finite).tolist()

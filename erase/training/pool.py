"""Where noisy latents come from: trajectories and pictures sampled once from the frozen model, in batches.

ESD as published denoises up to 25 times to get the x_t of a single update. Here every state of a guided
trajectory is kept, with the predictions that sampling it had to make anyway; an update draws from the pool
and costs one forward and one backward pass. What this changes is that x_t comes from the frozen model (as in the
authors' current code) on a grid of timesteps; docs/results.md has the measured effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from erase.distributed import ALONE, Group
from erase.errors import Interrupted
from erase.events import OnEvent, Progress, ShouldStop
from erase.methods import Batch, Shown
from erase.models import Model, Text, choose, join, moved
from erase.sampling import Shot, at_once, dealt, denoise, first_noise
from erase.training.prompts import Pair


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """How many prompts of each role are sampled, in how many steps, at which guidance, how many at once.

    `batch` None is as many as suit the device.
    Every `refresh` rounds both pools are sampled anew, with other prompts and noise; 0 never does.
    """

    forget: int = 32
    retain: int = 64
    steps: int = 12
    guidance: float = 3.0
    batch: int | None = None
    refresh: int = 200


@dataclass(frozen=True, slots=True)
class Trail:
    """Every state on the way to P pictures in S steps, and what the teacher predicts there.

    `times` (S,); the rest (P, S, C, h, w): under the prompt, under the empty prompt, under the anchor.
    """

    times: Tensor
    noisy: Tensor
    conditional: Tensor
    unconditional: Tensor
    anchored: Tensor


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything that one role draws from. P prompts, S steps; on the model's device, or the CPU under `offload`.

    `clean` are the pictures' latents (P, C, h, w); `text` and `anchors` their P prompts and twins. `trail` is what the
    way to them left, None where the role draws from pictures alone.
    """

    clean: Tensor
    text: Text
    anchors: Text
    trail: Trail | None

    def from_trajectories(self, size: int, generator: torch.Generator) -> Batch:
        """Random states of random trajectories. Raises `ValueError` if the pool kept none."""
        if self.trail is None:
            raise ValueError("this pool holds pictures alone; fill it with trails=True")
        trail = self.trail
        p = torch.randint(len(self.clean), (size,), generator=generator)
        s = torch.randint(len(trail.times), (size,), generator=generator)
        return Batch(
            noisy=trail.noisy[p, s],
            times=trail.times[s],
            text=self.text[p],
            anchor=self.anchors[p],
            conditional=trail.conditional[p, s],
            unconditional=trail.unconditional[p, s],
            anchored=trail.anchored[p, s],
        )

    def from_pictures(self, size: int, model: Model, generator: torch.Generator) -> Batch:
        """Clean latents noised to uniform times."""
        p = torch.randint(len(self.clean), (size,), generator=generator)
        times = model.random_times(size, generator)
        clean = self.clean[p]
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        noisy, target = model.add_noise(clean, noise, times)
        times = times.to(clean.device)
        batch = Batch(noisy=noisy, times=times, text=self.text[p], anchor=self.anchors[p], target=target)
        return batch.to(model.device)

    def to(self, device: torch.device) -> Pool:
        """The same on a device."""
        return moved(self, device)


@torch.no_grad()
def fill(
    model: Model,
    pairs: list[Pair],
    plan: PoolPlan,
    seed: int,
    *,
    shown: Shown,
    trails: bool,
    what: str,
    group: Group = ALONE,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> Pool:
    """Sample one role's pool from the model as it is now (the caller makes sure that it is the frozen one).

    Each process of a group samples a part, and all have the whole in the end: what a step draws from it depends on its
    seed alone, whoever computes it.

    `shown` is whose pictures are drawn: the prompt's, the anchored twin's, or every other one; `text` stays the
    prompt's. `trails` keeps the states on the way, for methods that draw from them; it needs both guidance branches.
    """
    parts: list[Pool] = []
    empty, batch = model.encode([""]), dealt(plan.batch or at_once(model), len(pairs), group.size)
    for turn in range(0, len(pairs), batch * group.size):
        if group.any(should_stop()):
            raise Interrupted(f"stopped while {what}; nothing was trained yet")
        start = turn + batch * group.rank
        chosen = pairs[start : start + batch]
        if not chosen:  # the others' last turn
            continue
        shots = [Shot(p.prompt, f"pool/{what}/{seed}/{start + i}", seed) for i, p in enumerate(chosen)]
        text, anchors = model.encode([p.prompt for p in chosen]), model.encode([p.anchor for p in chosen])
        of_anchor = torch.tensor([_of_anchor(shown, start + i) for i in range(len(chosen))], device=model.device)
        part = _sampled(model, shots, text, anchors, of_anchor, empty, plan, trails)
        parts.append(part.to(torch.device("cpu")) if model.offload or group.size > 1 else part)
        on_event(Progress(what=what, done=min(turn + batch * group.size, len(pairs)), total=len(pairs)))
    if group.size == 1:
        return _join(parts)
    turns = zip_longest(*group.gather(parts))  # as they were dealt
    whole = _join([part for turn in turns for part in turn if part is not None])
    return whole if model.offload else whole.to(model.device)


def _of_anchor(shown: Shown, number: int) -> bool:
    return shown == "anchor" or (shown == "both" and number % 2 == 1)


Seen = tuple[Tensor, Tensor, Tensor, Tensor]  # t, x_t, conditional, unconditional


def _sampled(
    model: Model,
    shots: list[Shot],
    text: Text,
    anchors: Text,
    of_anchor: Tensor,
    empty: Text,
    plan: PoolPlan,
    trails: bool,
) -> Pool:
    """One batch; the rows `of_anchor` (P,) follow the anchor."""
    drawn, other = choose(of_anchor, anchors, text), choose(of_anchor, text, anchors)
    seen: list[Seen] = []

    def visit(i: int, *state: Tensor) -> None:
        seen.append(state)  # pyright: ignore[reportArgumentType]

    start = first_noise(model, shots)
    clean = denoise(model, drawn, empty, start, plan.steps, plan.guidance, visit if trails else None)
    return Pool(clean, text, anchors, _trail(model, seen, drawn, other, of_anchor) if trails else None)


def _trail(model: Model, seen: list[Seen], drawn: Text, other: Text, of_anchor: Tensor) -> Trail:
    """What was seen on the way, completed: sampling predicted under the prompt it drew, not under the other one."""
    noisy, conditional, unconditional = (torch.stack([s[k] for s in seen], 1) for k in (1, 2, 3))
    missing = conditional
    if not torch.equal(drawn.states, other.states):  # retain prompts have no twin
        missing = torch.stack([model.predict(x, t, other) for t, x, _, _ in seen], 1)
    row = of_anchor[:, None, None, None, None]
    under_prompt, under_anchor = torch.where(row, missing, conditional), torch.where(row, conditional, missing)
    return Trail(torch.stack([s[0] for s in seen]), noisy, under_prompt, unconditional, under_anchor)


def _join(parts: list[Pool]) -> Pool:
    clean = torch.cat([p.clean for p in parts])
    text, anchors = join([p.text for p in parts]), join([p.anchors for p in parts])
    trails = [p.trail for p in parts if p.trail is not None]
    if not trails:
        return Pool(clean, text, anchors, None)
    kept = ("noisy", "conditional", "unconditional", "anchored")
    trail = Trail(trails[0].times, *(torch.cat([getattr(t, k) for t in trails]) for k in kept))
    return Pool(clean, text, anchors, trail)

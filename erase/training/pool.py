"""Where noisy latents come from: trajectories and pictures sampled once from the frozen model, in batches.

ESD as published denoises up to 25 times to get the x_t of a single update. Here every state of a guided
trajectory is kept, with the predictions that sampling it had to make anyway; an update draws from the pool
and costs one forward and one backward pass. What this changes is that x_t comes from the frozen model (as in the
authors' current code) on a grid of timesteps; docs/methods.md has the measured effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erase.errors import Interrupted
from erase.events import OnEvent, Progress, ShouldStop
from erase.methods import Batch, Shown
from erase.models import Model
from erase.sampling import Shot, denoise, first_noise
from erase.training.prompts import Pair


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """How many prompts of each role are sampled, in how many steps, at which guidance, how many at once.

    Every `refresh` rounds both pools are sampled anew, with other prompts and noise; 0 never does.
    """

    forget: int = 32
    retain: int = 64
    steps: int = 12
    guidance: float = 3.0
    batch: int = 32
    refresh: int = 200


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything that one role draws from. P prompts, S steps; kept on the model's device.

    `noisy` and the predictions are (P, S, C, h, w), `times` (S,), `clean` (P, C, h, w); `states`, `anchors` (P, L, D).
    `anchored` is None where the method does not ask for it.
    """

    times: Tensor
    noisy: Tensor
    conditional: Tensor
    unconditional: Tensor
    anchored: Tensor | None
    clean: Tensor
    states: Tensor
    anchors: Tensor

    def from_trajectories(self, size: int, generator: torch.Generator) -> Batch:
        """Random states of random trajectories."""
        p = torch.randint(len(self.clean), (size,), generator=generator)
        s = torch.randint(len(self.times), (size,), generator=generator)
        return Batch(
            noisy=self.noisy[p, s],
            times=self.times[s],
            states=self.states[p],
            anchor=self.anchors[p],
            conditional=self.conditional[p, s],
            unconditional=self.unconditional[p, s],
            anchored=None if self.anchored is None else self.anchored[p, s],
        )

    def from_pictures(self, size: int, model: Model, generator: torch.Generator) -> Batch:
        """Clean latents noised to uniform times."""
        p = torch.randint(len(self.clean), (size,), generator=generator)
        times = torch.randint(model.scheduler.config.num_train_timesteps, (size,), generator=generator)
        clean = self.clean[p]
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        noisy, target = model.add_noise(clean, noise, times)
        times = times.to(clean.device)
        return Batch(noisy=noisy, times=times, states=self.states[p], anchor=self.anchors[p], target=target)


@torch.no_grad()
def fill(
    model: Model,
    pairs: list[Pair],
    plan: PoolPlan,
    seed: int,
    *,
    shown: Shown,
    with_anchor: bool,
    what: str,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> Pool:
    """Sample one role's pool from the model as it is now (the caller makes sure that it is the frozen one).

    `shown` is whose pictures are drawn: the prompt's, the anchored twin's, or every other one; `states` stay the
    prompt's. `with_anchor` keeps the predictions under the anchor too; without it `conditional` is of what was drawn.
    """
    parts: list[Pool] = []
    empty = model.encode([""])
    for start in range(0, len(pairs), plan.batch):
        if should_stop():
            raise Interrupted(f"stopped while {what}; nothing was trained yet")
        chosen = pairs[start : start + plan.batch]
        shots = [Shot(p.prompt, f"pool/{what}/{seed}/{start + i}", seed) for i, p in enumerate(chosen)]
        states, anchors = model.encode([p.prompt for p in chosen]), model.encode([p.anchor for p in chosen])
        of_anchor = torch.tensor([_of_anchor(shown, start + i) for i in range(len(chosen))], device=states.device)
        parts.append(_trajectories(model, shots, states, anchors, of_anchor, empty, plan, with_anchor))
        on_event(Progress(what=what, done=min(start + plan.batch, len(pairs)), total=len(pairs)))
    return _join(parts)


def _of_anchor(shown: Shown, number: int) -> bool:
    return shown == "anchor" or (shown == "both" and number % 2 == 1)


def _trajectories(
    model: Model,
    shots: list[Shot],
    states: Tensor,
    anchors: Tensor,
    of_anchor: Tensor,
    empty: Tensor,
    plan: PoolPlan,
    with_anchor: bool,
) -> Pool:
    """Trajectories of which the rows `of_anchor` (P,) follow the anchor, with the predictions under both prompts."""
    seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def visit(i: int, t: Tensor, noisy: Tensor, conditional: Tensor, unconditional: Tensor) -> None:
        seen.append((t, noisy, conditional, unconditional))

    row = of_anchor[:, None, None]
    drawn, other = torch.where(row, anchors, states), torch.where(row, states, anchors)
    clean = denoise(model, drawn, empty, first_noise(model, shots), plan.steps, plan.guidance, visit)
    noisy, conditional, unconditional = (torch.stack([s[k] for s in seen], 1) for k in (1, 2, 3))
    anchored = None
    if with_anchor:
        # Sampling predicted under the prompt that it drew; this is the other one.
        missing = torch.stack([model.unet(x, t, other).sample.float() for t, x, _, _ in seen], 1)
        row = of_anchor[:, None, None, None, None]
        conditional, anchored = torch.where(row, missing, conditional), torch.where(row, conditional, missing)
    times = torch.stack([s[0] for s in seen])
    return Pool(times, noisy, conditional, unconditional, anchored, clean, states, anchors)


def _join(parts: list[Pool]) -> Pool:
    def cat(name: str) -> Tensor:
        return torch.cat([getattr(p, name) for p in parts])

    anchored = None if parts[0].anchored is None else cat("anchored")
    return Pool(
        parts[0].times,
        cat("noisy"),
        cat("conditional"),
        cat("unconditional"),
        anchored,
        cat("clean"),
        cat("states"),
        cat("anchors"),
    )

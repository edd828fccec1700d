"""The turn-taking loop: forget, then retain at the moved weights, round after round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from erase.errors import EraseError
from erase.events import OnEvent, ShouldStop, Step, Warned
from erase.optim.turn import Role
from erase.training.session import Session
from erase.training.shares import share


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """How long to train, how often to look and save, how many saved states to keep.

    One round is one forget and one retain step.
    """

    rounds: int = 200
    accumulate: int = 1
    preview_every: int = 50
    checkpoint_every: int = 50
    keep_checkpoints: int = 2


def train(
    session: Session,
    plan: TrainPlan,
    *,
    first: int = 0,
    on_event: OnEvent,
    should_stop: ShouldStop,
    save: Callable[[int], None],
    preview: Callable[[int], None],
) -> int:
    """Run rounds `first` to `plan.rounds`; return how many are done.

    `save(round)` is called every `checkpoint_every` rounds, at the end and on a stop, which ends after the round under
    way; `preview(round)` every `preview_every` rounds and at the end, unless that is 0.

    Raises `EraseError` on a NaN or infinite loss or gradient, before the weights change.
    """
    roles: tuple[Role, ...] = ("joint",) if session.kind == "joint" else ("forget", "retain")
    if session.options.retain_weight == 0 and session.kind != "joint":
        roles = ("forget",)  # a step on nothing would still move by the momentum of the last
    for round in range(first, plan.rounds):
        if session.group.any(should_stop()):
            save(round)
            return round
        if plan.preview_every and round % plan.preview_every == 0:
            preview(round)
        for role in roles:
            started = time.perf_counter()
            loss, norm = take_turn(session, role, round, plan.accumulate)
            if math.isinf(norm):
                scale = f"the loss scale is {session.scale.value:g} now"
                on_event(Warned(text=f"round {round}: fp16 {role} gradients overflowed; step left out, {scale}"))
            on_event(
                Step(
                    step=round,
                    role=role,
                    loss=loss,
                    grad_norm=norm,
                    lr=session.optimizer.lr(role),
                    seconds=time.perf_counter() - started,
                )
            )
        if plan.checkpoint_every and (round + 1) % plan.checkpoint_every == 0 and round + 1 < plan.rounds:
            save(round + 1)
    save(plan.rounds)
    if plan.preview_every:
        preview(plan.rounds)
    return plan.rounds


def take_turn(session: Session, role: Role, round: int, accumulate: int) -> tuple[float, float]:
    """One optimizer step. Micro-batches are counted here; accelerate's one counter for both roles starves one."""
    session.optimizer.zero_grad()
    total, group = 0.0, session.group
    own = share(session.batch, accumulate, group, in_order=session.attack is not None)
    parts: tuple[Role, ...] = ("forget", "retain") if role == "joint" else (role,)
    for part in parts:
        for micro in own.micros:
            loss = session.loss(part, round, micro, own.rows) / len(own.micros)
            value = group.mean(float(loss.detach()))  # a loss that is not finite is so in all processes
            if not math.isfinite(value):
                raise EraseError(
                    f"{part} loss is {value} in round {round}; lower the rate. No weight was changed by it"
                )
            session.accelerator.backward(loss)
            total += value
        if role == "joint" and part == "forget":
            session.mask_gradients("forget")
    # By hand, and before fp16's scale and the clipping see them: one gradient, of the batch of all processes.
    group.average([p.grad for p in session.trained.parameters.values() if p.grad is not None])
    if not session.scale.unscale(session.trained.parameters.values()):
        session.optimizer.zero_grad()
        return total, math.inf
    norm = float(session.optimizer.step(role))
    session.optimizer.zero_grad()
    return total, norm

"""Everything that one training run holds: networks, pools, method, mask, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from erase.concept import Request
from erase.distributed import ALONE, Group
from erase.errors import AFRESH, InputError, Unresumable
from erase.events import OnEvent, ShouldStop, never
from erase.methods import METHODS, Batch, Method, Nets, Options
from erase.methods.masks import fisher_mask, gradient_mask
from erase.methods.parts import Shown, present
from erase.methods.spm import unlike
from erase.models import DOWN, ENCODER, Adapter, LoraPlan, Model, Outcome, Text, Trained, select
from erase.optim import SharedOptim, Turns
from erase.optim.turn import Role
from erase.runtime import stable_seed
from erase.training.attack import Attack
from erase.training.memory import MemoryPlan, Thrift
from erase.training.optimizers import Kind, RolePlan, build
from erase.training.pool import Pool, PoolPlan, fill
from erase.training.prompts import Pair, forget_pairs, retain_prompts
from erase.training.scale import LossScale

PRECISIONS = {"fp32": "no", "bf16-mixed": "bf16", "fp16-mixed": "fp16"}
MASK_BATCHES, MASK_PICTURES = 16, 64


@dataclass(frozen=True, slots=True)
class MethodPlan:
    """Which method, on which tensors or a LoRA on them, with which options."""

    name: str
    parameters: str
    options: Options
    lora: LoraPlan | None = None


class Session:
    """A model made ready to train. Building one samples the pools and the mask from the original weights."""

    def __init__(
        self,
        model: Model,
        request: Request,
        method: MethodPlan,
        optimizer: Kind,
        roles: tuple[RolePlan, RolePlan],
        pool: PoolPlan,
        *,
        precision: str,
        rounds: int,
        batch: int,
        seed: int,
        memory: MemoryPlan = MemoryPlan(),  # noqa: B008 -- frozen
        group: Group = ALONE,
        on_event: OnEvent,
        should_stop: ShouldStop,
    ) -> None:
        self.model, self.request, self.seed, self.batch, self.group = model, request, seed, batch, group
        self.method: Method = METHODS[method.name]
        self.options = method.options
        self.shown: Shown = method.options.pictures or self.method.shown
        self.kind = optimizer
        self.accelerator = accelerator_for(precision, model.device)
        self.scale = LossScale(self.accelerator.scaler)
        self.pool_plan, self.pool_age, self.on_event = pool, 0, on_event
        self.pools = self._pools(should_stop)
        seed_of_lora = stable_seed(seed, "lora")
        self.adapter = Adapter(model, method.parameters, method.lora, seed_of_lora) if method.lora else None
        self.trained = self.adapter.trained if self.adapter else Trained(select(model, method.parameters))
        self.reads = any(name.startswith(ENCODER) for name in self.trained.parameters)  # a text encoder trains
        self.thrift = Thrift(model, memory, self.trained.parameters.values(), PRECISIONS[precision])
        self.nets = Nets(self._student, self._teacher)
        self.attack = Attack(model, self.options, rounds, seed) if self.method.adversary else None
        self.mask = self._mask(should_stop)
        self.optimizer: Turns = build(
            optimizer, self.trained.parameters, *roles, self.mask, self.method.mask_roles, rounds
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the round: batches and pools depend on (seed, round) alone."""
        return {
            "trained": {name: value.clone() for name, value in self.trained.tensors().items()},
            "optimizer": self.optimizer.state_dict(),
            "scale": self.scale.state_dict(),
            "attack": [] if self.attack is None else self.attack.state(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from `state_dict`; raises `InputError` for that of another run, and changes nothing then."""
        before = {name: value.clone() for name, value in self.trained.tensors().items()}
        try:
            self.trained.load(saved["trained"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scale.load_state_dict(saved["scale"])
            if self.attack is not None:
                self.attack.load(saved["attack"])
        except (KeyError, TypeError, AttributeError) as error:
            self.trained.load(before)
            raise Unresumable(f"the checkpoint is of another version or damaged ({error!r}); {AFRESH}") from None
        except Unresumable:
            self.trained.load(before)
            raise
        except InputError as error:  # of the optimizer, which cannot know where its state is from
            self.trained.load(before)
            raise Unresumable(f"{error}, or {AFRESH}") from None

    def loss(self, role: str, round: int, micro: int = 0, rows: slice | None = None) -> Tensor:
        """The loss of a role on its own batch of this round; which one depends on (seed, role, round, micro) alone.

        `rows` of that batch are this process's share.
        """
        self._refresh(round)
        generator = torch.Generator().manual_seed(stable_seed(self.seed, role, round, micro))
        batch = self.draw(role, self.batch, generator)
        batch = batch if rows is None else batch.rows(rows)
        if role == "forget" and self.attack is not None:
            batch = self.attack.harder(self.nets.student, batch, round, self.group)
        if role == "forget":
            return self.method.forget(self.nets, batch, self.options)
        return self.options.retain_weight * self.method.retain(self.nets, batch, self.options)

    def mask_gradients(self, role: Role) -> None:
        """Under `joint`, keep what the mask binds out of a role's gradients before the other role's are added."""
        if isinstance(self.optimizer, SharedOptim):
            self.optimizer.mask_gradients(role)

    def outcome(self) -> Outcome:
        """What training made. The session is at its end: the model is as it was, but for what was trained."""
        self.pools, self.mask = {}, None
        del self.optimizer
        self.thrift.undo()
        return self.adapter.outcome() if self.adapter else self.trained.outcome()

    def draw(self, role: str, size: int, generator: torch.Generator) -> Batch:
        """A random batch of a role from its pool."""
        source = self.method.forget_source if role == "forget" else self.method.retain_source
        if role == "retain" and self.method.anchoring:
            batch = self.pools["forget"].from_trajectories(size, generator).to(self.model.device)
            return replace(batch, text=unlike(batch.text, generator), conditional=None)
        pool = self.pools[role]
        if source == "trajectories":
            return pool.from_trajectories(size, generator).to(self.model.device)
        return pool.from_pictures(size, self.model, generator)

    def _student(self, noisy: Tensor, times: Tensor, text: Text) -> Tensor:
        # A context for each call: autocast caches the cast weights until it ends, and the teacher's must not be reused.
        with self.accelerator.autocast():
            if self.reads or text.prefix:
                text = self.model.read(text.ids, text.prefix)
            return self.model.predict(noisy, times, text)

    def _teacher(self, noisy: Tensor, times: Tensor, text: Text) -> Tensor:
        with self.trained.teacher():
            return self._student(noisy, times, text)

    def _refresh(self, round: int) -> None:
        """Sample the pools that belong to this round, from the original weights, if others are held."""
        age = round // self.pool_plan.refresh if self.pool_plan.refresh else 0
        if age != self.pool_age:
            self.pool_age = age
            with self.trained.teacher():
                self.pools = self._pools(never)  # a stop waits for it, as for every turn: the state is saved after

    def _pools(self, should_stop: ShouldStop) -> dict[str, Pool]:
        method, request, plan = self.method, self.request, self.pool_plan
        seed = stable_seed(self.seed, "pool", self.pool_age)
        generator = torch.Generator().manual_seed(seed)
        pairs = forget_pairs(self.model, request, plan.forget, method.relabel, generator)
        kept = [Pair(p, p) for p in retain_prompts(self.model, request, plan.retain, generator)]
        with self.accelerator.autocast():
            trails = method.forget_source == "trajectories", method.retain_source == "trajectories"
            pools = {"forget": self._fill(pairs, seed, self.shown, trails[0], "sampling forget latents", should_stop)}
            if not method.anchoring:
                pools["retain"] = self._fill(kept, seed, "concept", trails[1], "sampling retain latents", should_stop)
            return pools

    def _fill(
        self, pairs: list[Pair], seed: int, shown: Shown, trails: bool, what: str, should_stop: ShouldStop
    ) -> Pool:
        return fill(
            self.model,
            pairs,
            self.pool_plan,
            seed,
            shown=shown,
            trails=trails,
            what=what,
            group=self.group,
            on_event=self.on_event,
            should_stop=should_stop,
        )

    def _mask(self, should_stop: ShouldStop) -> dict[str, Tensor] | None:
        if self.method.mask is None:
            return None
        every, pool = self.trained.parameters, self._concept_pictures(should_stop)
        mask = {name: torch.ones_like(p, dtype=torch.bool) for name, p in every.items()}
        if self.group.main:  # measured once: gradients of two GPUs differ in their last bits
            mask.update(self._measured(pool))
        self.group.spread(bits.view(torch.uint8) for bits in mask.values())
        return mask

    def _measured(self, pool: Pool) -> dict[str, Tensor]:
        """The mask of all weights that the method's losses reach."""
        every = self.trained.parameters
        # While a LoRA's B is zero no loss reaches its A, which moves nothing without B either.
        parameters = {name: p for name, p in every.items() if not name.endswith(DOWN)}
        if self.method.mask == "gradient":
            losses = [self._mask_loss(pool, "forget", i, self.batch) for i in range(MASK_BATCHES)]
            return gradient_mask(parameters, losses, self.options.mask_share)
        forget = [self._mask_loss(pool, "forget", i, 1) for i in range(MASK_PICTURES)]
        retain = [self._mask_loss(self.pools["retain"], "retain", i, 1) for i in range(MASK_PICTURES)]
        return fisher_mask(parameters, forget, retain, self.options.ratio)

    def _concept_pictures(self, should_stop: ShouldStop) -> Pool:
        """The concept's own pictures, as many as the mask needs: the forget pool, where that has no others."""
        if self.shown == "concept":
            return self.pools["forget"]
        seed = stable_seed(self.seed, "mask pool")
        generator = torch.Generator().manual_seed(seed)
        count = max(MASK_PICTURES, len(self.request.concepts))
        pairs = forget_pairs(self.model, self.request, count, self.method.relabel, generator)
        with self.accelerator.autocast():
            return self._fill(pairs, seed, "concept", False, "sampling mask latents", should_stop)

    def _mask_loss(self, pool: Pool, role: str, index: int, size: int) -> Callable[[], Tensor]:
        """The denoising loss of a role's pictures under its own prompt; what both masks are measured on."""

        def compute() -> Tensor:
            generator = torch.Generator().manual_seed(stable_seed(self.seed, "mask", role, index))
            batch = pool.from_pictures(size, self.model, generator)
            predicted = self._student(batch.noisy, batch.times, batch.text)
            return (predicted - present(batch.target, "a picture's target")).square().mean()

        return compute


def accelerator_for(precision: str, device: torch.device) -> Accelerator:
    """An Accelerator for the precision; fp16 needs a GPU, since its loss scale is for one."""
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")
    if precision == "fp16-mixed" and device.type == "cpu":
        raise InputError("precision fp16-mixed needs a GPU; use bf16-mixed or fp32 on the CPU")
    # accelerate keeps one precision for the whole process; a UI or a test runs several one after another.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=PRECISIONS[precision], cpu=device.type == "cpu")

"""Build the optimizer of a run from plain settings."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from erase.errors import InputError
from erase.optim import AdamW, DualOptim, DualOptimPlus, SharedOptim, Turns, cosine, warmup
from erase.optim.moments import States

Kind = Literal["dual", "dual_plus", "dual_first", "dual_second", "dual_rates", "shared", "joint"]

# DualOptim by which of Adam's moments each role has of its own: first, second. Each role has its rate in all of them.
DECOUPLED: dict[str, tuple[bool, bool]] = {
    "dual": (True, True),
    "dual_first": (True, False),
    "dual_second": (False, True),
    "dual_rates": (False, False),
}

CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


BITSANDBYTES = "adamw8bit-bnb"


@dataclass(frozen=True, slots=True)
class RolePlan:
    """One role's optimizer: class, rate, linear warm-up in steps, clipping norm (None is off), weight decay.

    `schedule` is what the rate does after the warm-up: stay, or fall to zero at the last round by half a cosine.
    `states` is how adamw keeps its moments.
    """

    optimizer: str = "adamw"
    lr: float = 1e-4
    warmup: int = 0
    clip: float | None = None
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    states: States = "fp32"


def build(
    kind: Kind,
    parameters: dict[str, nn.Parameter],
    forget: RolePlan,
    retain: RolePlan,
    mask: dict[str, Tensor] | None,
    mask_roles: tuple[str, ...],
    rounds: int,
) -> Turns:
    """The optimizer `kind` over the parameters for a run of `rounds`; the mask binds the steps of `mask_roles`.

    `shared` and `joint` have one optimizer, so they take the forget role's plan; the retain plan's rate is unused.
    """
    clip = {"forget": forget.clip, "retain": retain.clip}
    schedule = {"forget": _schedule(forget, rounds), "retain": _schedule(retain, rounds)}
    if kind in DECOUPLED:
        first, second = DECOUPLED[kind]
        return DualOptim(
            parameters,
            forget=_factory(forget),
            retain=_factory(retain),
            decouple_first=first,
            decouple_second=second,
            clip=clip,
            schedule=schedule,
            mask=mask,
            mask_roles=mask_roles,
        )
    if kind == "dual_plus":
        return DualOptimPlus(
            parameters,
            lr={"forget": forget.lr, "retain": retain.lr},
            weight_decay={"forget": forget.weight_decay, "retain": retain.weight_decay},
            states=forget.states,
            clip=clip,
            schedule=schedule,
            mask=mask,
            mask_roles=mask_roles,
        )
    return SharedOptim(parameters, _factory(forget), clip=clip, schedule=schedule, mask=mask, mask_roles=mask_roles)


def _schedule(plan: RolePlan, rounds: int) -> Callable[[int], float]:
    # A run shorter than its warm-up is a trial; its rate then only rises.
    return cosine(rounds, warm=min(plan.warmup, rounds - 1)) if plan.schedule == "cosine" else warmup(plan.warmup)


def _factory(plan: RolePlan) -> Callable[[Any], torch.optim.Optimizer]:
    options: dict[str, Any] = {"lr": plan.lr, "weight_decay": plan.weight_decay}
    if plan.optimizer == BITSANDBYTES:
        return lambda weights: _bitsandbytes().optim.AdamW8bit(weights, **options)
    if plan.optimizer not in CLASSES:
        raise InputError(f"optimizer {plan.optimizer!r} is unknown; use one of {', '.join((*CLASSES, BITSANDBYTES))}")
    if plan.states != "fp32":
        if plan.optimizer != "adamw":
            raise InputError(f"{plan.states} states are for adamw, not for {plan.optimizer}; use fp32, or adamw")
        return lambda weights: AdamW(weights, states=plan.states, **options)
    if plan.optimizer == "sgd":
        options["momentum"] = 0.9

    def build_rule(weights: Any) -> torch.optim.Optimizer:
        return CLASSES[plan.optimizer](weights, **{**options, "fused": fuses(weights)})

    return build_rule


def fuses(weights: list[Any]) -> bool | None:
    """Whether torch's rules are to update in one kernel: on a GPU, where a step waits for memory alone.

    None leaves the choice to torch, whose several kernels read and write every state more than once.
    """
    return True if all(weight.is_cuda for weight in weights) else None


def _bitsandbytes() -> Any:
    """The library, which is an extra and says at its import what else it does without. Raises `InputError`."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise InputError(
            f"optimizer {BITSANDBYTES} needs bitsandbytes ({error}): pip install 'erase[lowmem]', or use adamw with "
            "train.states 8bit"
        ) from None

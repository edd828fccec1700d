"""Learning-rate multipliers. A schedule maps a role's own step number (0 first) to a factor of its base rate."""

from __future__ import annotations

import math
from collections.abc import Callable

from erase.errors import InputError


def constant(factor: float = 1.0) -> Callable[[int], float]:
    """The base rate times `factor`, always."""
    return lambda step: factor


def warmup(steps: int) -> Callable[[int], float]:
    r"""Linear warm-up to the base rate, which the last of `steps` steps has: :math:`\min(1, (t + 1) / steps)`.

    Adam's first step has the size of the rate on every weight, because its states are empty; this tames it.

    Raises:
        InputError: `steps` is negative.
    """
    if steps < 0:
        raise InputError(f"warm-up steps must be 0 or more, got {steps}; 0 turns warm-up off")
    return lambda step: min(1.0, (step + 1) / steps) if steps else 1.0


def cosine(steps: int, *, warm: int = 0, floor: float = 0.0) -> Callable[[int], float]:
    r"""Warm-up over `warm` steps, then half a cosine from 1 to `floor` at step `steps`, then `floor`.

    .. math::
        floor + (1 - floor) \, (1 + \cos(\pi \, (t - warm) / (steps - warm))) / 2

    Raises:
        InputError: not 0 <= `warm` < `steps`, or `floor` outside [0, 1].
    """
    if not 0 <= warm < steps:
        raise InputError(f"cosine schedule needs 0 <= warm < steps, got warm={warm}, steps={steps}; lower `warm`")
    if not 0.0 <= floor <= 1.0:
        raise InputError(f"cosine floor must lie in [0, 1], got {floor}; it is a fraction of the base rate")

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        progress = min(1.0, (step - warm) / (steps - warm))
        return floor + (1.0 - floor) * (1.0 + math.cos(math.pi * progress)) / 2.0

    return factor

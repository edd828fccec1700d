"""How much GPU memory a run will take: arithmetic on counts of weights, and activations as counted once.

Estimates, not measurements. docs/memory.md has the table that they give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

GIB = 2**30
RESERVE = 0.8
"""GiB taken for what nobody counts: CUDA's context, kernels' workspaces, fragments. An assumption."""


@dataclass(frozen=True, slots=True)
class Counted:
    """GiB that a family needs at a time for one latent of its usual `side`, by `benchmark/activations.py`.

    A training pass in float32 and in a mixed precision, each also with checkpointing; one guided step of sampling and
    decoding its picture, in float32.
    """

    side: int
    fp32: float
    mixed: float
    fp32_checkpointing: float
    mixed_checkpointing: float
    step: float
    decoding: float


COUNTED: dict[str, Counted] = {
    "sd1": Counted(64, 1.75, 1.15, 0.45, 0.30, 0.25, 0.75),
    "sd2": Counted(96, 3.95, 2.6, 0.80, 0.47, 0.60, 1.70),
    "sdxl": Counted(128, 12.9, 7.5, 1.05, 0.85, 0.65, 3.00),
}


@dataclass(frozen=True, slots=True)
class Weights:
    """How many weights there are: in the UNet, of those `frozen`; `trained` ones, which may be a LoRA's factors.

    `changed` are the model's own that differ in the end; `others` those of text encoders and VAE that are on the GPU
    while it trains, and are not trained.
    """

    unet: int
    frozen: int
    trained: int
    changed: int
    others: int


@dataclass(frozen=True, slots=True)
class Need:
    """GiB while it trains, part by part; `pictures` is all that is needed when pictures are drawn afterwards."""

    frozen: float
    trained: float
    originals: float
    gradients: float
    states: float
    others: float
    passing: float  # activations, a preview, or what an optimizer's step needs for a moment
    reserve: float
    pictures: float

    @property
    def total(self) -> float:
        """The most at any time."""
        return max(self.pictures, sum(getattr(self, f.name) for f in fields(self) if f.name != "pictures"))


# Bytes of optimizer states for a weight and a role; 8 bits have a float32 scale for each block of 256.
EIGHT_BIT = 2 * (1 + 4 / 256)
STATES = {"adamw": 8.0, "adam": 8.0, "sgd": 4.0, "adamw8bit-bnb": EIGHT_BIT}
SHARES = {"dual_first": 0.5, "dual_second": 0.5, "dual_rates": 1.0}
"""What part of AdamW's two moments the roles have in common."""


def bytes_of_states(optimizer: str, rules: tuple[str, str], states: str) -> float:
    """Bytes of all optimizer states for one trained weight; `rules` are those of forget and retain."""
    if optimizer == "dual_plus":
        return 3 * (EIGHT_BIT if states == "8bit" else STATES["adamw"])
    each = [EIGHT_BIT if states == "8bit" else STATES[rule] for rule in rules]
    if optimizer in SHARES:
        return each[0] * (2 - SHARES[optimizer])
    return sum(each) if optimizer == "dual" else each[0]


def estimate(
    weights: Weights,
    family: str,
    side: float,
    *,
    states: float,
    batch: int,
    mixed: bool,
    half: bool,
    checkpointing: bool,
    offload: bool,
    masked: bool,
) -> Need:
    """What a run needs on latents of `side` x `side`; `states` are bytes a trained weight, `half` that of the frozen.

    A micro-batch of `batch` latents is taken to need its activations beside all gradients, as it does when several are
    summed.
    """
    counted = COUNTED[family]
    area = (side / counted.side) ** 2
    fp32, autocast = counted.fp32, counted.mixed
    if checkpointing:
        fp32, autocast = counted.fp32_checkpointing, counted.mixed_checkpointing
    one = 4 * weights.trained / GIB
    # Autocast keeps its casts of trained weights for the backward pass, unless that computes them again.
    casts = 2 * weights.trained / GIB if mixed and not checkpointing else 0.0
    activations = area * batch * (autocast if mixed else fp32) + casts
    # torch's AdamW takes square roots of all weights at once, ours of a few; a mask keeps a copy beside its bits.
    step = (0.0 if states < STATES["adamw"] else one) + (1.25 * one if masked else 0.0)
    # As sampling.at_once and Model.decode have it.
    drawn = max(1, 2 ** (15 if offload else 18) // (4 * round(side) ** 2))
    decoded = 1 if offload else min(drawn, max(1, 2**20 // round(8 * side) ** 2))
    drawing = area * max(drawn * counted.step, decoded * counted.decoding)
    others = 4 * weights.others / GIB
    whole = 4 * (weights.unet + 2 * weights.changed) / GIB
    return Need(
        frozen=(2 if half else 4) * weights.frozen / GIB,
        trained=one,
        originals=one,
        gradients=one,
        states=states * weights.trained / GIB,
        others=others,
        passing=max(activations, step, drawing),  # pictures are drawn for previews
        reserve=RESERVE,
        pictures=whole + others + drawing + RESERVE,
    )


def rounded(gib: float) -> float:
    """Up to a tenth, as an estimate is shown."""
    return math.ceil(gib * 10) / 10

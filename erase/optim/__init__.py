"""Optimizers with a forget role and a retain role over one set of weights."""

from erase.optim.adamw import AdamW
from erase.optim.dual import DualOptim, SharedOptim
from erase.optim.dual_plus import DualOptimPlus
from erase.optim.moments import Moment, state_bytes
from erase.optim.schedules import constant, cosine, warmup
from erase.optim.turn import Factory, Role, Schedule, Turns

__all__ = [
    "AdamW",
    "DualOptim",
    "DualOptimPlus",
    "Factory",
    "Moment",
    "Role",
    "Schedule",
    "SharedOptim",
    "Turns",
    "constant",
    "cosine",
    "state_bytes",
    "warmup",
]

"""The turn-taking loop, its checkpoints, and where its noisy latents come from; edits in closed form."""

from erase.training.baseline import check_gold, put_baseline
from erase.training.edits import EditPlan, edit, projections
from erase.training.loop import TrainPlan, train
from erase.training.memory import MemoryPlan
from erase.training.optimizers import RolePlan
from erase.training.pool import Pool, PoolPlan
from erase.training.prompts import neighbours
from erase.training.session import Session

__all__ = [
    "EditPlan",
    "MemoryPlan",
    "Pool",
    "PoolPlan",
    "RolePlan",
    "Session",
    "TrainPlan",
    "check_gold",
    "edit",
    "neighbours",
    "projections",
    "put_baseline",
    "train",
]

"""The turn-taking loop, its checkpoints, and where its noisy latents come from."""

from erase.training.loop import TrainPlan, train
from erase.training.optimizers import RolePlan
from erase.training.pool import Pool, PoolPlan
from erase.training.prompts import neighbours
from erase.training.session import Session

__all__ = ["Pool", "PoolPlan", "RolePlan", "Session", "TrainPlan", "neighbours", "train"]

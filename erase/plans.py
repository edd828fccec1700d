"""What a configuration says of training, as the plans that the layers below take; nothing is loaded for it."""

from __future__ import annotations

from typing import Any, Literal

from erase.config import UNTRAINED, Config
from erase.config.schema import TrainSection
from erase.methods.editing import EditOptions
from erase.models import LoraPlan
from erase.training import EditPlan, RolePlan, TrainPlan


def edits(config: Config) -> bool:
    """Whether the method trains nothing: it solves for its weights, or is a baseline."""
    return config.method.name in UNTRAINED


def lora_plan(config: Config) -> LoraPlan | None:
    """The LoRA that the run trains in the weights' place, if it does."""
    method = config.method
    return None if method.rank is None else LoraPlan(method.rank, method.alpha or float(method.rank))


def edit_plan(config: Config) -> EditPlan:
    """What is edited, and how."""
    method = config.method
    return EditPlan(method.name, method.parameters, EditOptions(**method_options(config)), config.seed)


def train_plan(config: Config) -> TrainPlan:
    """How long the run trains, and how often it looks and saves."""
    training = config.turns
    return TrainPlan(
        training.rounds,
        training.accumulate,
        training.preview_every,
        training.checkpoint_every,
        training.keep_checkpoints,
    )


def role_plan(training: TrainSection, role: Literal["forget", "retain"]) -> RolePlan:
    """One role's rate and schedule."""
    return RolePlan(**getattr(training, role).model_dump(), states=training.states)


def method_options(config: Config) -> dict[str, Any]:
    """The options of the method's own, by name."""
    return config.method.model_dump(exclude={"name", "parameters", "rank", "alpha", "source"})

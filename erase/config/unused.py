"""Which settings a run leaves unused although they were set to something of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from erase.config.defaults import BASELINES, METHOD_DEFAULTS, UNTRAINED
from erase.config.presets import in_memory
from erase.config.schema import Config, TrainSection

# What the one optimizer of `shared` and `joint` takes from train.forget; `shared` keeps the rest of a role's settings.
ONE = ("lr", "optimizer", "weight_decay")
JOINT = (*ONE, "warmup", "clip", "schedule")


def unused_settings(config: Config) -> list[str]:
    """A line for each setting that the method or the optimizer does not read and that differs from what is read."""
    train = config.train
    if config.method.name in UNTRAINED:
        given = [("memory", config.memory)] if config.memory else []
        if train is not None:
            filled = in_memory(METHOD_DEFAULTS["esd"], config.memory, {})  # where nothing was given
            unread = TrainSection.model_validate(filled["train"])
            given += _differing("train", train.model_dump(), unread.model_dump())
        does = "is a baseline" if config.method.name in BASELINES else "solves for its weights"
        return [f"{key} {value} is unused: {config.method.name} {does} and has no training" for key, value in given]
    if train is None:
        return []
    if train.optimizer == "dual_plus":
        rules = {role: getattr(train, role).optimizer for role in ("forget", "retain")}
        return [
            f"train.{role}.optimizer {rule} is unused: dual_plus has a rule of its own, after adamw"
            for role, rule in rules.items()
            if rule != "adamw"
        ]
    keys = {"shared": ONE, "joint": JOINT}.get(train.optimizer, ())
    return [
        f"train.retain.{key} {getattr(train.retain, key)} is unused: {train.optimizer} has one optimizer, forget's"
        for key in keys
        if getattr(train.retain, key) != getattr(train.forget, key)
    ]


def _differing(path: str, given: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every setting that is not the other's."""
    for key, value in given.items():
        if isinstance(value, dict):
            yield from _differing(f"{path}.{key}", value, other[key])
        elif value != other[key]:
            yield f"{path}.{key}", value

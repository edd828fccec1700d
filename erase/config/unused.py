"""Which settings a run leaves unused although they were set to something of their own."""

from __future__ import annotations

from erase.config.schema import Config

# What the one optimizer of `shared` and `joint` takes from train.forget; `shared` keeps the rest of a role's settings.
ONE = ("lr", "optimizer", "weight_decay")
JOINT = (*ONE, "warmup", "clip", "schedule")


def unused_settings(config: Config) -> list[str]:
    """A line for each setting that the chosen optimizer does not read and that differs from what it reads instead."""
    train = config.train
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

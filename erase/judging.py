"""From a configuration to how a run is judged: prompts, prompt files, roles, judges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erase.attacking import AttackPlan, check_plan
from erase.check import named_request
from erase.concept import Request
from erase.config import Config, first_model, is_world
from erase.errors import InputError
from erase.evaluation.fidelity import inception_file
from erase.evaluation.file_prompts import split_files
from erase.evaluation.judge import parse_judges
from erase.evaluation.panel import WORLD_JUDGES
from erase.evaluation.prompt_files import read_prompt_files
from erase.evaluation.roles import choose_roles
from erase.methods import BASELINES
from erase.models import Hiding, Model
from erase.runtime import command
from erase.scoring import JudgePlan, asks_of, content_hash, open_panel
from erase.world.vocabulary import vocabulary_of

# Settings of training that change no weight, or only its rounding.
FREE = ("keep_checkpoints", "checkpointing", "offload", "channels_last", "frozen")


def judge_plan(config: Config, run_id: str, cache: Path | None = None) -> JudgePlan:
    """How the run's pictures are drawn and judged; runs of one method and settings have one `hp_id`."""
    asked, alike = config.evaluate, content_hash(deciding(config, {"method", "train"}))
    counts = asked.prompts, asked.seeds, asked.steps, asked.guidance
    world, request = vocabulary_of(first_model(config.model)), named_request(config)
    roles = tuple(asked.roles or ())  # on other models the tokenizer and the judge decide too: `asks_of`
    if world:
        roles = choose_roles(roles, request, world)[0]
    files, _ = split_files(read_prompt_files(asked.files or ()), request, world)
    judges = parse_judges(asked.judges or (), WORLD_JUDGES if world else ())
    inception = None if asked.inception is None or asked.skip else inception_file(asked.inception)
    chosen = roles, tuple(files), judges, inception, hiding_of(config)
    return JudgePlan(run_id, config.method.name, config.seed, *counts, cache, alike, *chosen)


def attack_plan(config: Config, run_id: str, level: str, names: Sequence[str]) -> AttackPlan:
    """How a run is attacked: with pictures that are drawn and judged as its own."""
    return AttackPlan(level, tuple(names), judge_plan(config, run_id))


def check_attacks(config: Config, level: str, names: Sequence[str] = (), folder: Path | None = None) -> None:
    """Refuse, before anything is trained, attacks that a run with this configuration cannot have (`InputError`).

    `folder` is that of a run that there is.
    """
    first = first_model(config.model)
    check_plan(attack_plan(config, "", level, names), is_world(first))
    if not is_world(first) and not config.evaluate.judges:
        remedy = f"first {command('eval', folder, '--judge', 'clip')}" if folder else "add --judge clip, say"
        raise InputError(f"attacks on {first!r} need a judge, as it has none of its own; {remedy}")


def is_judged(config: Config, model: Model) -> bool:
    """Whether a run on this model has judges, and is not to do without."""
    return (model.world or bool(config.evaluate.judges)) and not config.evaluate.skip


def check_judges(config: Config, model: Model, request: Request) -> None:
    """Load the judges that were named, and count the prompts, before hours of training: weights may be missing."""
    plan = judge_plan(config, "")
    if is_judged(config, model) and (plan.judges or plan.files):
        asks_of(plan, model, request, open_panel(plan, model, request).known if plan.judges else None)


def deciding(config: Config, sections: set[str]) -> dict[str, Any]:
    """The settings of some sections that decide what the weights become, up to rounding.

    What only decides when to look and to save, how memory is spent, or what is judged, may change between two sittings.
    """
    settings = config.model_dump(include=sections)
    named = settings.get("concept", [])
    for section in named if isinstance(named, list) else [named]:
        section.pop("synonyms", None)
    train = settings["train"] or {}
    settings["train"] = {k: v for k, v in train.items() if not k.endswith("_every") and k not in FREE}
    return settings


def hiding_of(config: Config) -> Hiding | None:
    """What stands between prompts and the model after a run that changed no weights, if that is its method."""
    baseline = BASELINES.get(config.method.name)
    if baseline is None or not baseline.hides:
        return None
    if baseline.hides == "negative":
        return Hiding(negative=", ".join(section.name for section in config.concepts))
    return Hiding(tuple((section.name, section.anchor) for section in config.concepts))

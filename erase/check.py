"""What can be said of a configuration before a model is loaded; what `erase check` says."""

from __future__ import annotations

from importlib.util import find_spec

from erase.concept import Concept
from erase.config import WORLD, Config, unused_settings
from erase.errors import InputError
from erase.evaluation.prompts import resolve, world_asks, world_concept
from erase.runtime import user_path

# The preset to take when one did not suffice.
SMALLER = {None: "24gb", "24gb": "12gb", "12gb": "8gb", "8gb": None}


def check_config(config: Config) -> list[str]:
    """Warnings, one line each. Raises `InputError` for what no run could use."""
    for path in filter(None, (config.model, config.output)):
        user_path(path)
    rules = {config.train.forget.optimizer, config.train.retain.optimizer} if config.train else set()
    if "adamw8bit-bnb" in rules and find_spec("bitsandbytes") is None:
        raise InputError("optimizer adamw8bit-bnb needs bitsandbytes: pip install 'erase[lowmem]'")
    warnings = []
    if config.model == WORLD:
        if config.variant is not None:
            raise InputError(f"variant: the bundled world has none, got {config.variant!r}; leave it out")
        concept = named_concept(config)
        if not config.evaluate.skip:
            world_asks(concept, config.evaluate.prompts, config.evaluate.seeds)
        for word in filter(None, (config.concept.name, config.concept.anchor, *_kept(config))):
            if resolve(word)[1] != " ".join(word.casefold().split()):
                warnings.append(f"{word!r} is trained and judged as {resolve(word)[1]!r}, its name in the world")
    return warnings + unused_settings(config)


def named_concept(config: Config) -> Concept:
    """The concept as far as the user named it, without neighbours where they are to be chosen.

    In the world every name is canonical; raises `InputError` for one that it lacks or that does not fit.
    """
    given = config.concept
    if config.model == WORLD:
        return world_concept(given.name, given.kind, given.anchor, _kept(config))
    return Concept(given.name, "object" if given.kind == "auto" else given.kind, given.anchor, _kept(config))


def less_memory(config: Config) -> str:
    """What to do when a GPU's memory did not suffice for this run."""
    method = config.method
    if config.train is None:
        return f"{method.name} also runs on the CPU: --device cpu"
    smaller = SMALLER[config.memory]
    if smaller is not None:
        return f"take the settings for less: --memory {smaller}"
    steps = []
    if config.train.batch > 1:
        total = config.train.batch * config.train.accumulate
        steps.append(f"smaller micro-batches: --set train.batch=1 --set train.accumulate={total}")
    if method.rank is None:
        fewer = "" if method.parameters == "xattn-kv" else "fewer weights: --set method.parameters=xattn-kv, or "
        steps.append(f"{fewer}a LoRA: --set method.rank=4")
    return f"take {'; or '.join(steps)}" if steps else "this model needs a larger GPU; --device cpu takes long"


def _kept(config: Config) -> tuple[str, ...]:
    return () if config.concept.keep == "auto" else tuple(config.concept.keep)

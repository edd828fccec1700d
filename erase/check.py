"""What can be said of a configuration before a model is loaded; what `erase check` says."""

from __future__ import annotations

from erase.concept import Concept
from erase.config import WORLD, Config, unused_settings
from erase.evaluation.prompts import resolve, world_asks, world_concept
from erase.runtime import user_path


def check_config(config: Config) -> list[str]:
    """Warnings, one line each. Raises `InputError` for what no run could use."""
    for path in filter(None, (config.model, config.output)):
        user_path(path)
    warnings = []
    if config.model == WORLD:
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


def _kept(config: Config) -> tuple[str, ...]:
    return () if config.concept.keep == "auto" else tuple(config.concept.keep)

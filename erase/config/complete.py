"""What a configuration leaves out, filled in: by the method, the kind of concept, the model, the memory there is."""

from __future__ import annotations

from typing import Any

from erase.config.defaults import METHOD_DEFAULTS, UNTRAINED, WORLD_DEFAULTS
from erase.config.method import OPTIONS
from erase.config.presets import KIND_DEFAULTS, in_memory
from erase.errors import InputError
from erase.runtime import WORLD, WORLD_FILE, user_path


def complete(given: dict[str, Any], first: str | None = None) -> dict[str, Any]:
    """Fill in what the method sets by default; wrong values pass through, for validation to report.

    `first` is the model that the model given was made from by earlier runs, if it was.
    """
    given = dict(given)
    for section in ("concept", "method"):
        if section in given:
            given[section] = as_section(given[section])
    if isinstance(given.get("concept"), list):
        entries = [as_section(entry) for entry in given["concept"]]
        alone = len(entries) == 1 and not isinstance(entries[0], list)  # a list in a list is no concept
        given["concept"] = entries[0] if alone else entries  # one in a list is the same run as one alone
    method = given.setdefault("method", {"name": "esd"})
    if isinstance(method, dict):  # null is the same as not given, also after the run's own file was read again
        given["method"] = method = {k: v for k, v in method.items() if v is not None or k not in OPTIONS}
    name = method.get("name", "esd") if isinstance(method, dict) else "esd"
    name = name if isinstance(name, str) and name in METHOD_DEFAULTS else "esd"
    defaults: dict[str, Any] = {"method": {"name": name}}
    defaults = _laid_over(defaults, METHOD_DEFAULTS[name])
    on_world = is_world(first or given.get("model", WORLD))
    defaults = _laid_over(defaults, WORLD_DEFAULTS[name] if on_world else _of_kind(given.get("concept"), name))
    if given.get("train") is None:
        given.pop("train", None)
    elif name in UNTRAINED:  # completed to be checked, and named in a warning (unused.py)
        defaults["train"] = METHOD_DEFAULTS["esd"]["train"]
    train = given.get("train")
    return _laid_over(in_memory(defaults, given.get("memory"), train if isinstance(train, dict) else {}), given)


def is_world(model: Any) -> bool:
    """Whether a model is the bundled world or the folder of another one, which the world's judges can judge."""
    try:
        return model == WORLD or (isinstance(model, str) and (user_path(model) / WORLD_FILE).is_file())
    except (InputError, OSError):  # what cannot be a path is refused where it is to be loaded
        return False


def _of_kind(concept: Any, method: str) -> dict[str, Any]:
    """What the concept's kind sets for the method; a kind that is not known counts as an object, as it does later."""
    kinds = [one.get("kind") if isinstance(one, dict) else None for one in _listed(concept)]
    kind = kinds[0] if kinds and all(other == kinds[0] for other in kinds) else None  # of several kinds: as objects
    return KIND_DEFAULTS.get(kind if isinstance(kind, str) else "auto", KIND_DEFAULTS["object"]).get(method, {})


def _listed(concept: Any) -> list[Any]:
    return concept if isinstance(concept, list) else [concept]


def as_section(value: Any) -> Any:
    """A bare name as the section that it stands for."""
    return {"name": value} if isinstance(value, str) else value


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """A copy of `below` with the values of `above` in it, section by section."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in below.items()}
    for key, value in above.items():
        mine = result.get(key)
        result[key] = _laid_over(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return result

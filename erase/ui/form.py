"""The Erase form: its fields as a configuration, as a command, as a file; presets, and neighbours to suggest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from threading import Lock
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from erase.arguments import SHORT
from erase.check import check_config, named_request
from erase.concept import Request
from erase.config import WORLD, Config, first_model, load_config, parse_value
from erase.config.method import MethodSection
from erase.config.schema import TrainSection
from erase.errors import InputError
from erase.runtime import command
from erase.ui.roots import Roots

KINDS = ("auto", "object", "style", "person", "nudity")
METHODS: tuple[str, ...] = get_args(MethodSection.model_fields["name"].annotation)
OPTIMIZERS: tuple[str, ...] = get_args(TrainSection.model_fields["optimizer"].annotation)
MEMORIES = ("8gb", "12gb", "24gb")
# Of method.parameters: an expression of a visitor's own could keep a process busy for years.
PARAMETERS = ("xattn-kv", "xattn", "noxattn", "attentions", "full", "text-encoder")
MOST = 2000  # letters of a field
MOST_LINES = 50


@dataclass(frozen=True, slots=True)
class Form:
    """What a visitor filled in. None or "" leaves a setting to its default, which depends on method and model.

    `concept`: one, or several separated by ";". `keep`: neighbours separated by commas; empty: the nearest.
    `more`: further settings, a `KEY=VALUE` per line, as `erase run --set` takes them; none that names a file.
    `sensitive` marks the run's pictures to be blurred until revealed.
    """

    model: str = "world"
    concept: str = "cat"
    kind: str = "auto"
    anchor: str = ""
    keep: str = ""
    method: str = ""
    optimizer: str = ""
    parameters: str = ""
    rounds: Any = None
    forget_lr: Any = None
    retain_lr: Any = None
    prompts: Any = None
    seeds: Any = None
    steps: Any = None
    seed: Any = None
    memory: str = ""
    skip_judging: bool = False
    more: str = ""
    sensitive: bool = False


# Where a field's value goes in the configuration.
PATHS = {
    "kind": "concept.kind",
    "anchor": "concept.anchor",
    "keep": "concept.keep",
    "method": "method",
    "optimizer": "train.optimizer",
    "parameters": "method.parameters",
    "rounds": "train.rounds",
    "forget_lr": "train.forget.lr",
    "retain_lr": "train.retain.lr",
    "prompts": "evaluate.prompts",
    "seeds": "evaluate.seeds",
    "steps": "evaluate.steps",
    "seed": "seed",
    "memory": "memory",
}

PRESETS: dict[str, dict[str, Any]] = {
    "An object of the world": {"concept": "cat", "kind": "object"},
    "A style of the world": {"concept": "pixel art", "kind": "style"},
    "A first look (a minute)": {"concept": "cat", "kind": "object", "rounds": 20, "prompts": 24, "steps": 12},
    "Several objects in closed form": {"concept": "cat; dog; fox", "kind": "object", "method": "uce"},
}
"""Fields that a preset fills in; all others go back to their defaults."""


def read_form(given: Mapping[str, Any]) -> Form:
    """A form from fields by name. Raises `InputError` for fields that it does not have, and values of another type."""
    known = {field.name: field for field in fields(Form)}
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise InputError(f"the form has no field {unknown[0][:80]!r}; it has {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, value in given.items():
        default = known[name].default
        if isinstance(default, bool):
            fits = isinstance(value, bool)
        elif isinstance(default, str):
            value = "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else value
            fits = isinstance(value, str) and len(value) <= MOST
        else:
            fits = value is None or isinstance(value, int | float | str) and len(str(value)) <= 40
        if not fits:
            kind = (
                "true or false" if isinstance(default, bool) else "a text" if isinstance(default, str) else "a number"
            )
            raise InputError(f"{name}: must be {kind} of at most {MOST} letters, got {str(value)[:80]!r}")
        values[name] = value
    return Form(**values)


def to_config(form: Form, roots: Roots) -> Config:
    """The configuration of the run that the form asks for.

    Raises `InputError` with a line for each problem, in the words of the command line.
    """
    overrides, problems = _overrides(form, roots)
    try:
        config = load_config(None, overrides)
    except InputError as error:
        head, *lines = str(error).split("\n  ")
        problems += lines or [head]
    else:
        if not problems:
            return config
    raise InputError(problems[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems", *problems]))


def warnings(config: Config) -> list[str]:
    """What `erase check` would warn of; raises `InputError` for what no run could use (a concept the world lacks)."""
    return check_config(config)


def to_command(form: Form, roots: Roots) -> str:
    """The command line that makes the same run. Raises `InputError` for a model that the server lacks."""
    flags = {path: f"--{flag}" for flag, (path, _) in SHORT.items()}
    words: list[str] = []
    for path, value in _valid_overrides(form, roots).items():
        for one in value if isinstance(value, list) and path == "concept" else [value]:
            text = ",".join(one) if isinstance(one, list) else "null" if one is None else str(one)
            if path not in flags:
                words += ["--set", f"{path}={text}"]
            elif text.startswith("-"):
                words.append(f"{flags[path]}={text}")
            else:
                words += [flags[path], text]
    return command("run", *words)


def to_yaml(form: Form, roots: Roots) -> str:
    """The configuration file that makes the same run, with what was filled in and nothing else; raises as before."""
    given: dict[str, Any] = {}
    for path, value in _valid_overrides(form, roots).items():
        if path == "concept":
            names = [{"name": name} for name in (value if isinstance(value, list) else [value])]
            given["concept"] = names if isinstance(value, list) else names[0]
            continue
        *sections, key = ("method.name" if path == "method" else path).split(".")
        places = [given]
        for section in sections:
            places = [one for here in places for one in _listed(here.setdefault(section, {}))]
        for here in places:
            here[key] = list(value) if isinstance(value, list) else value  # a list twice would be an alias
    return yaml.safe_dump(given, sort_keys=False, allow_unicode=True)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _valid_overrides(form: Form, roots: Roots) -> dict[str, Any]:
    overrides, problems = _overrides(form, roots)
    if problems:
        raise InputError(problems[0])
    return overrides


def _overrides(form: Form, roots: Roots) -> tuple[dict[str, Any], list[str]]:
    """What was filled in, by dotted path, and what of it may not be given here; each only once."""
    problems: list[str] = []
    found: dict[str, Any] = {"model": WORLD}
    try:
        found["model"] = roots.model(form.model or WORLD)
    except InputError as error:
        problems.append(str(error))
    names = [name.strip() for name in form.concept.split(";") if name.strip()]
    found["concept"] = names if len(names) > 1 else "".join(names)
    for name, path in PATHS.items():
        value = getattr(form, name)
        value = value.strip() if isinstance(value, str) else value
        if value in (None, "") or (name == "kind" and value == "auto"):
            continue
        if name == "keep":
            value = [word.strip() for word in value.split(",") if word.strip()]
        elif isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)  # a number from a form has no type
        if name == "parameters" and value not in PARAMETERS:
            problems.append(f"method.parameters: {value!r} is not one of {', '.join(PARAMETERS)}")
        else:
            found[path] = value
    if form.skip_judging:
        found["evaluate.skip"] = True
    lines = [line.strip() for line in form.more.splitlines() if line.strip()]
    if len(lines) > MOST_LINES:
        problems.append(f"more: at most {MOST_LINES} further settings are taken, got {len(lines)}; use a file")
    for line in lines[:MOST_LINES]:
        _take(line, found, problems)
    return found, problems


def _take(line: str, found: dict[str, Any], problems: list[str]) -> None:
    """One further setting. A text could name a file of the server, so only numbers, switches and choices are taken."""
    key, equals, text = (part.strip() for part in line.partition("="))
    parts = key.split(".")
    if not equals or not all(parts):
        problems.append(f"each further setting is a KEY=VALUE such as train.forget.lr=1e-4, got {line[:80]!r}")
        return
    annotation = _annotation(Config, parts)
    if annotation is not None and not _is_harmless(annotation):
        problems.append(f"{key}: cannot be given here; use the form's fields, or the command line")
        return
    found[key] = parse_value(text)


def _annotation(section: type[BaseModel], parts: list[str]) -> Any:
    """The type of a setting; None for one that there is not, which the configuration's own check reports."""
    field = section.model_fields.get(parts[0])
    if field is None or len(parts) == 1:
        return field and field.annotation
    return next((found for inner in _sections(field.annotation) if (found := _annotation(inner, parts[1:]))), None)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _is_harmless(annotation: Any) -> bool:
    """Whether a value of this type is a number, a switch or one of some words."""
    if get_origin(annotation) is Literal or annotation in (int, float, bool, type(None)):
        return True
    if get_origin(annotation) is Annotated:
        return _is_harmless(get_args(annotation)[0])
    inner = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return bool(inner) and all(map(_is_harmless, inner))


def suggest_keep(model: str, concept: str, roots: Roots) -> list[str]:
    """Neighbours of a concept, the nearest first: those that a run keeps where none are named.

    [] for other models than the world, where only the run, with the model at hand, can tell, for several concepts,
    each of which has its own, and where nothing is known of the concept.
    """
    if ";" in concept:
        return []
    try:
        config = load_config(None, {"model": roots.model(model or WORLD), "concept": concept.strip()})
        if first_model(config.model) != WORLD:
            return []
        return list(_near(named_request(config)))
    except InputError:
        return []


@lru_cache(maxsize=256)
def _near(request: Request) -> tuple[str, ...]:
    from erase.training import neighbours

    with _ONE_AT_A_TIME:
        return neighbours(_world(), request)[0]


@lru_cache(maxsize=1)
def _world() -> Any:
    from erase.models import load_model

    return load_model(WORLD)


_ONE_AT_A_TIME = Lock()

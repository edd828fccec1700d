"""Read a configuration from YAML and overrides, and report every problem with it at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from erase.config.complete import WORLD, as_section
from erase.config.method import MethodSection
from erase.config.presets import without_memory
from erase.config.schema import Config
from erase.errors import InputError, first_line, printable
from erase.resources import bundled_config
from erase.runtime import CONFIG, user_path

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
# What PyYAML's constructors raise on a value that does not suit its tag, say `!!bool maybe` or `!!int ""`.
TAG_ERRORS = (ValueError, KeyError, AttributeError, IndexError, TypeError)


class _Loader(yaml.SafeLoader):
    """YAML's safe subset without what a configuration never needs: repeated keys, aliases, deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not supported", problem_mark=self.peek_event().start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # a list or mapping as key, which the parent's method reports
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_config(path: Path | str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The complete configuration of a run.

    Args:
        path: a YAML file; without one, and with neither `concept` nor `model` among the overrides, the bundled demo.
        overrides: dotted path to value, say `{"train.forget.lr": 1e-4}`. A new name for `concept` or `method`
            replaces that whole section, as the rest of it belonged to the old name; `memory` beats what the file says
            of the settings that it stands for.

    Raises:
        InputError: with one line for each problem; also for a file that is missing, too large or not YAML.
    """
    overrides = dict(overrides or {})
    given: dict[str, Any] = {}
    source = ""
    if path is not None:
        given, source = read_settings(Path(path)), f"{path}: "
    elif not {"concept", "concept.name", "model"} & set(overrides):
        given = read_settings(bundled_config("demo.yaml"))
    if path is not None:
        given = without_memory(given, overrides.get("memory"))
    return make_config(given, overrides, source)


def make_config(given: Mapping[str, Any], overrides: Mapping[str, Any], source: str = "") -> Config:
    """The complete configuration from settings as YAML holds them, left as they are; see `load_config`.

    `source` comes before the problems in what is raised.
    """
    given = dict(given)
    # Whole sections first, so that `method=ga` does not undo `method.parameters=full`.
    for key in sorted(overrides, key=lambda k: k.count(".")):
        _put(given, key, overrides[key])
    model = given.get("model", WORLD)
    try:
        return Config.model_validate(given, context={"first": first_model(model)} if isinstance(model, str) else None)
    except ValidationError as error:
        details = [d for d in error.errors(include_url=False) if d["loc"][-1:] != ("literal['auto']",)]
    lines = list(dict.fromkeys(_problem(detail) for detail in details))
    if len(lines) == 1:
        raise InputError(f"{source}{lines[0]}")
    raise InputError("\n  ".join([f"{source}{len(lines)} problems", *lines]))


def run_folders(model: str) -> list[Path]:
    """The folders of the runs that a model was made by, the last first; none for one that is no run's folder.

    Raises `InputError` where runs began from one another in a circle.
    """
    found: list[Path] = []
    while isinstance(model, str) and model != WORLD and (user_path(model) / CONFIG).is_file():
        folder = user_path(model).resolve()
        if folder in found:
            raise InputError(f"{found[-1] / CONFIG} names {folder} as its model, which began from it; correct one")
        found.append(folder)
        model = read_settings(folder / CONFIG).get("model", WORLD)
    return found


def first_model(model: str) -> str:
    """The model that the first of `run_folders` began from; the model itself, where it is no run's folder."""
    folders = run_folders(model)
    return str(read_settings(folders[-1] / CONFIG).get("model", WORLD)) if folders else model


def to_yaml(config: Config) -> str:
    """The configuration as YAML which, loaded again, gives an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_value(text: str) -> Any:
    """The value of `--set key=text`, read as YAML would; what is no YAML is the text itself."""
    try:
        return yaml.load(text, Loader=_Loader) if text else ""  # a subclass of SafeLoader
    except (yaml.YAMLError, *TAG_ERRORS):
        return text


def read_settings(path: Path) -> dict[str, Any]:
    """A YAML file's settings, not looked at yet. Raises `InputError` where it is missing, too large or not YAML."""
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes, a configuration at most {MAX_BYTES:,}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = "; each KEY=VALUE needs its own --set" if "=" in path.name else _nearby(path)
        raise InputError(f"no configuration at {path}{hint}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a YAML text in UTF-8") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        given = yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path} is not valid YAML: {error.problem}{where}") from None
    except (yaml.YAMLError, *TAG_ERRORS) as error:
        why = first_line(error)
        raise InputError(f"{path} is not valid YAML: {why}") from None
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{path} holds a {type(given).__name__}, not settings such as 'concept: cat'")
    return {str(key): value for key, value in given.items()}


def _nearby(path: Path) -> str:
    found = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, found, n=1, cutoff=0.5)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _put(given: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one value in nested settings, making sections on the way."""
    *sections, key = dotted.split(".")
    here = given
    if sections == ["concept"] and isinstance(given.get("concept"), list) and len(given["concept"]) != 1:
        given["concept"] = _put_in_each(given["concept"], key, value)
        return
    for name in sections:
        inner = here.get(name)
        if name == "concept" and isinstance(inner, list) and len(inner) == 1:
            inner = inner[0]
        # `concept: cat` is short for `concept: {name: cat}`, also when an override adds to it.
        inner = {"name": inner} if isinstance(inner, str) else inner if isinstance(inner, dict) else {}
        here[name] = dict(inner)
        here = here[name]
    old = here.get(key)
    if not sections and key in ("concept", "method") and isinstance(old, dict) and old.get("name") == value:
        return
    here[key] = value


def _put_in_each(concepts: list[Any], key: str, value: Any) -> list[Any]:
    """Set what several concepts can have in common. Raises `InputError` for what is one concept's own."""
    if key not in ("kind", "keep"):
        raise InputError(
            f"concept.{key}: there are {len(concepts)} concepts, so whose is it? give each its own in a file: "
            "concept: [{name: cat, anchor: dog}, {name: owl}]"
        )
    return [{**as_section(entry), key: value} if isinstance(entry, str | dict) else entry for entry in concepts]


def _problem(detail: Any) -> str:
    """One line for one pydantic error: path, what is wrong, the value, what to do."""
    parts = [str(part) for part in detail["loc"] if not _is_branch(str(part))]
    path, kind, value, context = _shown(".".join(parts)), detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{path}: unknown key{_suggest_key(parts)}"
    if kind == "missing":
        return f"{path}: required"
    if kind == "literal_error":
        return f"{path}: {value!r} is not one of {context['expected']}{_suggest(value, _choices(parts))}"
    if kind == "value_error":
        text = str(context["error"])
        shown = "" if isinstance(value, Mapping | BaseModel) else f", got {value!r}"
        return f"{path}: {text}{shown}"
    if kind == "string_pattern_mismatch" and path == "device":
        return f"{path}: {value!r} is not auto, cpu, cuda, cuda:N or mps"
    if kind == "string_pattern_mismatch" and path == "variant":
        return f"{path}: {value!r} is no variant; give the short name in the files' names, say fp16"
    if kind in ("model_type", "model_attributes_type"):
        name = "a name, or " if re.fullmatch(r"(concept|method)(\.\d+)?", path) else ""
        return f"{path}: must be {name}settings of its own ({', '.join(_known(parts))}), got {value!r}"
    text = detail["msg"].removeprefix("Input ").removeprefix("String ").replace("should", "must")
    text = text.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    shown = repr(value) if len(repr(value)) < 80 else repr(value)[:76] + " ..."
    return f"{path}: {text}, got {shown}"


def _shown(key: str) -> str:
    shown = printable(key)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _is_branch(part: str) -> bool:
    # The names of a union's members are no part of a user's path.
    return part.startswith(("literal[", "list[", "section["))


def _suggest(value: Any, options: list[str]) -> str:
    close = difflib.get_close_matches(str(value).lower(), options, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _suggest_key(parts: list[str]) -> str:
    """The key meant: one like it in its own section, else the same key in another."""
    siblings = _known(parts[:-1])
    close = _suggest(parts[-1], siblings)
    if close:
        return close
    elsewhere = [path for path in _paths(Config) if path.split(".")[-1] == parts[-1]]
    if elsewhere:
        return f"; did you mean {' or '.join(repr(path) for path in elsewhere)}?"
    return f"; known here: {', '.join(siblings)}" if siblings else ""


def _known(parts: list[str]) -> list[str]:
    section = _section(parts)
    return list(section.model_fields) if section else []


def _section(parts: list[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = Config
    for part in parts:
        if part.isdigit():  # a place in a list
            continue
        field = section.model_fields.get(part)
        inner = _inner(field.annotation) if field else None
        if inner is None:
            return None
        section = inner
    return section


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, or may hold, if any."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner, get_args(annotation))), None)


def _choices(parts: list[str]) -> list[str]:
    section = _section(parts[:-1]) or MethodSection
    field = section.model_fields.get(parts[-1])
    return [str(choice) for choice in get_args(field.annotation)] if field else []


def _paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        inner = _inner(field.annotation)
        if inner is not None:
            yield from _paths(inner, f"{prefix}{name}.")

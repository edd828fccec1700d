"""A matrix file: what it may hold, and the jobs that it stands for, with all its problems at once."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase.check import anywhere, check_config
from erase.concept import title
from erase.config import UNTRAINED, WORLD, Config, make_config, read_settings
from erase.errors import InputError, printable
from erase.runtime import user_path

AXES = ("concepts", "methods", "optimizers", "seeds", "settings")
KEYS = ("base", "output", *AXES)
MOST = 100_000  # jobs
SHOWN = 20  # problems
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a batch. `name` is that of its folder; `setting` the name of its entry in `settings`, or ""."""

    name: str
    config: Config
    setting: str = ""

    @property
    def optimizer(self) -> str:
        """Its optimizer, or "" for a method that does not train."""
        trains = self.config.train is not None and self.config.method.name not in UNTRAINED
        return self.config.turns.optimizer if trains else ""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A batch as its file tells it. `output` is the folder of all runs; `warnings` are lines for the user."""

    output: Path
    jobs: tuple[Job, ...]
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Problems:
    """Each problem with the jobs that have it, in the order they were found."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, problem: str, job: str = "") -> None:
        self.found.setdefault(problem, []).append(job)

    def lines(self) -> Iterator[str]:
        for problem, jobs in self.found.items():
            named = [job for job in jobs if job]
            more = f" and {len(named) - 1} more" if len(named) > 1 else ""
            yield f"{named[0]}{more}: {problem}" if named else problem

    def check(self, source: Path) -> None:
        lines = list(self.lines())
        if len(lines) == 1:
            raise InputError(f"{source}: {lines[0]}")
        if lines:
            more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            raise InputError("\n  ".join([f"{source}: {len(lines)} problems", *lines[:SHOWN], *more]))


def read_matrix(path: Path, output: Path | None = None) -> Matrix:
    """The jobs of a matrix file, those of the first seed first; `output` beats what the file says.

    Nothing is written. Raises `InputError` with every problem of the file and of every job's settings.
    """
    given, problems = read_settings(path), _Problems()
    base = _base(given.get("base"), path, problems)
    axes = _axes(given, problems)
    named = given.get("output", f"runs/{path.stem}")
    if not isinstance(named, str) or not named:
        problems.add(f"output: must be the name of a folder, got {named!r}")
        named = "runs"
    problems.check(path)
    place = user_path(named) if output is None else output
    jobs, warnings = _jobs(base, axes, problems)
    problems.check(path)
    return Matrix(place, jobs, warnings)


def _base(given: Any, path: Path, problems: _Problems) -> dict[str, Any]:
    """The settings that all jobs share."""
    if isinstance(given, str):
        try:
            given = read_settings(path.parent / user_path(given))
        except InputError as error:
            problems.add(f"base: {error}")
            return {}
    if given is not None and not isinstance(given, dict):
        problems.add(f"base: must be settings, or the name of a file with settings, got {given!r}")
        return {}
    base = {str(key): value for key, value in (given or {}).items()}
    if base.pop("output", None) is not None:
        problems.add("base.output: every run of a batch has a folder of its own; give `output` beside `base`")
    return base


def _axes(given: Mapping[str, Any], problems: _Problems) -> dict[str, list[Any]]:
    """Each axis that the file has, as a list; of settings, as (name, dotted settings)."""
    for key in given:
        if key not in KEYS:
            hint = "; settings of all runs belong into base" if key in Config.model_fields else ""
            problems.add(f"{printable(key)}: unknown key; known here: {', '.join(KEYS)}{hint}")
    found: dict[str, list[Any]] = {}
    for axis in AXES[:-1]:
        if axis not in given:
            continue
        values = given[axis]
        if not isinstance(values, list) or not values:
            problems.add(f"{axis}: must be a list such as {_example(axis)}, got {values!r}")
            continue
        for value in (v for i, v in enumerate(values) if v in values[:i]):
            problems.add(f"{axis}: {value!r} is given twice; take one out")
        found[axis] = values
    if "settings" in given:
        found["settings"] = _settings(given["settings"], problems)
    if not found and not problems.found:
        problems.add(f"has nothing to go through; give one of {', '.join(AXES)}")
    return found


def _example(axis: str) -> str:
    return {"concepts": "[cat, dog]", "methods": "[esd, uce]", "optimizers": "[dual, shared]", "seeds": "[0, 1]"}[axis]


def _settings(given: Any, problems: _Problems) -> list[Any]:
    if not isinstance(given, dict) or not given:
        problems.add(f"settings: must be names with settings such as {{slow: {{train.rounds: 400}}}}, got {given!r}")
        return []
    found = []
    for name, values in given.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            problems.add(f"settings: {name!r} is no name; take small letters, digits, - and _, 40 at most")
        elif values is not None and not isinstance(values, dict):
            problems.add(f"settings.{name}: must be settings such as {{train.rounds: 400}}, got {values!r}")
        else:
            flat = dict(_flat(values or {}))
            for key in (k for k in flat if not all(k.split(".")) or k.split(".")[0] == "output"):
                problems.add(f"settings.{name}: {printable(key)!r} cannot be set here; take paths like train.rounds")
            found.append((name, flat))
    return found


def _flat(given: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by dotted path."""
    for key, value in given.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _jobs(
    base: dict[str, Any], axes: dict[str, list[Any]], problems: _Problems
) -> tuple[tuple[Job, ...], tuple[str, ...]]:
    """Seeds are the outermost: what is done when a batch is stopped is a whole table of the first seeds.

    Concepts are the innermost: neighbours in time then do not draw the same base model's pictures at once.
    """
    values = [axes.get(axis, [None]) for axis in ("seeds", "settings", "methods", "optimizers", "concepts")]
    count = 1
    for one in values:
        count *= len(one)
    if count > MOST:
        problems.add(f"stands for {count:,} jobs, a batch has at most {MOST:,}; cut it")
        return (), ()
    jobs: dict[str, Job] = {}
    warnings, checked = _Problems(), dict[str, list[str]]()
    for combined in itertools.product(*values):
        job = _job(base, combined, problems, warnings, checked)
        same = jobs.get(job.name) if job else None
        if job is None or (same and same.config == job.config):
            continue  # what does not train has no optimizer, so all of them are one job
        if same:
            problems.add("two jobs have this name; tell them apart as entries of `settings`", job.name)
        jobs[job.name] = job
    return tuple(jobs.values()), tuple(f"warning: {line}" for line in warnings.lines())


def _job(
    base: dict[str, Any],
    combined: tuple[Any, ...],
    problems: _Problems,
    warnings: _Problems,
    checked: dict[str, list[str]],
) -> Job | None:
    """One job, or None where there is a problem; `checked` holds what was said of the same settings and other seeds."""
    seed, setting, method, optimizer, concept = combined
    label, more = setting or ("", {})
    overrides = {"concept": concept, "method": method, "seed": seed, **more}
    overrides = {key: value for key, value in overrides.items() if value is not None}
    if optimizer is not None and _method({**base, **overrides}) not in UNTRAINED:
        overrides = {"train.optimizer": optimizer, **overrides}
    known_as = " ".join(_short(value) for value in (concept, method, optimizer, seed, label) if value not in (None, ""))
    try:
        config = make_config(base, overrides)
        config = _placed(config)
        job = Job(_name(config, label), config, label)
        alike = config.model_dump_json(exclude={"seed"})
        if alike not in checked:
            checked[alike] = check_config(config)
        for text in checked[alike]:
            warnings.add(text, job.name)
    except InputError as error:
        first, *rest = str(error).split("\n  ")
        for line in rest or [first]:
            problems.add(line, known_as)
        return None
    return job


def _placed(config: Config) -> Config:
    """The settings with whole paths, since a worker may begin in another folder."""
    update: dict[str, Any] = {"model": _found(config.model), "evaluate": anywhere(config)}
    if config.method.source:
        source = str(user_path(config.method.source).resolve())
        update["method"] = config.method.model_copy(update={"source": source})
    return config.model_copy(update=update)


def _found(model: str) -> str:
    """A model's folder or file by its whole path; other names as they are.

    Raises `InputError` for a path that leads nowhere.
    """
    if model == WORLD:
        return model
    path = user_path(model)
    if path.exists():
        return str(path.resolve())
    if model.startswith(("/", ".", "~")) or path.suffix in (".safetensors", ".ckpt"):
        raise InputError(f"model: no such folder or file: {model}")
    return model


def _method(given: Mapping[str, Any]) -> Any:
    """The method's name, as far as settings and overrides tell it."""
    method = given.get("method.name") or given.get("method")
    name = method.get("name") if isinstance(method, dict) else method
    return name if isinstance(name, str) else None


def _name(config: Config, setting: str) -> str:
    """The folder's name: all that tells the jobs of a batch apart, the same whatever else the file has."""
    optimizer = Job("", config).optimizer
    words = title([section.name for section in config.concepts])
    parts = [slug(words), config.method.name, *filter(None, [optimizer]), f"s{config.seed}", *filter(None, [setting])]
    return "-".join(parts)


def slug(text: str) -> str:
    """Words as a part of a file's name; what is lost by that is told apart by a few letters of their hash."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(plain) <= 80 and plain and re.fullmatch(r"[a-z0-9]+([ -]+[a-z0-9]+)*", text.lower()):
        return plain
    return f"{plain[:80].strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}".strip("-")


def difference(was: Config, now: Config) -> str:
    """The first setting in which two configurations differ, in words; "" where they are the same but for `output`."""
    dumps = [config.model_dump(mode="json", exclude={"output"}) for config in (was, now)]
    old, new = (dict(_flat(dump)) for dump in dumps)
    for key in dict.fromkeys([*new, *old]):
        if old.get(key) != new.get(key):
            return f"{key} was {_short(old.get(key))}, now {_short(new.get(key))}"
    return ""


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def estimate(jobs: list[Job], seconds: Mapping[str, list[float]]) -> tuple[float, int]:
    """Seconds of work that the jobs will take, by what finished jobs of their method took, and of how many jobs.

    `seconds` is the time of finished jobs by method.
    """
    known = [sorted(seconds[job.config.method.name]) for job in jobs if seconds.get(job.config.method.name)]
    return sum(times[len(times) // 2] for times in known), len(known)

"""How a run was judged last, which may be otherwise than by the settings that it began with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from erase import runs
from erase.config import Config, first_model, is_world
from erase.config.schema import EvaluateSection
from erase.errors import InputError
from erase.evaluation.prompt_files import read_prompt_files
from erase.prepare import stored_config
from erase.report.schema import read_report
from erase.runtime import command


def judged_before(folder: Path) -> bool:
    """Whether the folder has a report with scores."""
    return (folder / runs.REPORT).is_file() and bool(read_report(folder / runs.REPORT).scores)


def as_judged(folder: Path, only: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of a run's last judging, by dotted path: all, or `only` these of `evaluate`; {} of a run without scores.

    Raises `InputError` for a report whose settings are none, or of another version.
    """
    if not judged_before(folder):
        return {}
    config = read_report(folder / runs.REPORT).config
    try:
        told = EvaluateSection.model_validate(config.get("evaluate", {})).model_dump()
    except ValidationError:
        remedy = f"judge the run again: {command('eval', folder)}"
        raise InputError(f"{folder / runs.REPORT}: evaluate is nothing that this version reads; {remedy}") from None
    found = {f"evaluate.{key}": value for key, value in told.items() if key in only or not only}
    concept = config.get("concept")
    one = concept[0] if isinstance(concept, list) and len(concept) == 1 else concept
    if isinstance(one, dict) and not only:
        found["concept.synonyms"] = one.get("synonyms")
    return {key: value for key, value in found.items() if value is not None}


def judged_config(folder: Path) -> tuple[Config, dict[str, Any]]:
    """A finished run's configuration with the settings of its last judging, and these by themselves (`as_judged`)."""
    asked = as_judged(runs.require_run(folder, finished=True))
    return _with_files(folder, stored_config(folder, finished=True, asked=asked)), asked


def attacked_config(folder: Path) -> Config:
    """A finished run's configuration with what attacks share with its last judging: who looks, and how it is drawn.

    But on the world, whose judges know its names, prompt files are shared too: a judge chooses from what they name.
    """
    runs.require_run(folder, finished=True)
    asked = as_judged(folder, ("judges", "files", "steps", "guidance"))
    config = stored_config(folder, finished=True, asked=asked)
    if not is_world(first_model(config.model)):
        return _with_files(folder, config)
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"files": None})})


def _with_files(folder: Path, config: Config) -> Config:
    try:
        read_prompt_files(config.evaluate.files or ())
    except InputError as error:
        raise InputError(f"{error}; or judge the run without it: {command('eval', folder)}") from None
    return config

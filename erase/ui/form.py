"""The Erase form: its fields as a configuration, as a command, as a file; presets, and neighbours to suggest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from erase.config import Config
from erase.ui.roots import Roots

KINDS = ("auto", "object", "style", "person", "nudity")
METHODS = ("esd", "spm", "advunlearn", "ablation", "salun", "sfron", "ga", "npo", "uce", "rece", "speed")
OPTIMIZERS = ("dual", "dual_plus", "shared", "joint")
MEMORIES = ("8gb", "12gb", "24gb")
PARAMETERS = ("xattn-kv", "xattn", "noxattn", "attentions", "full", "text-encoder")


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


def to_config(form: Form, roots: Roots) -> Config:
    """The configuration of the run that the form asks for.

    Raises `InputError` with a line for each problem, in the words of the command line.
    """
    raise NotImplementedError


def warnings(config: Config) -> list[str]:
    """What `erase check` would warn of; raises `InputError` for what no run could use (a concept the world lacks)."""
    raise NotImplementedError


def to_command(form: Form, roots: Roots) -> str:
    """The command line that makes the same run."""
    raise NotImplementedError


def to_yaml(form: Form, roots: Roots) -> str:
    """The configuration file that makes the same run, with what was filled in and nothing else."""
    raise NotImplementedError


def suggest_keep(model: str, concept: str, roots: Roots) -> list[str]:
    """Neighbours of a concept, the nearest first; [] where only the model itself could tell, or nothing is known."""
    raise NotImplementedError


PRESETS: dict[str, dict[str, Any]] = {
    "An object of the world": {"concept": "cat", "kind": "object"},
    "A style of the world": {"concept": "pixel art", "kind": "style"},
}
"""Fields that a preset fills in; all others go back to their defaults."""

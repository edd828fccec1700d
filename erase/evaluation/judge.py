"""Who looks at pictures of models other than the bundled world: what a user names, and what a judge must answer.

Nothing here loads a library, so that `erase check` can read the names.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from erase.errors import InputError, printable
from erase.runtime import user_path

if TYPE_CHECKING:
    import numpy as np

NONE = "none"
AUTO = "auto"  # the weights of FID, where torch keeps what it downloads
# The options of each judge; the first is meant by a word without "=".
OPTIONS: dict[str, tuple[str, ...]] = {
    "clip": ("model", "pretrained", "weights"),
    "imagenet": ("model", "weights"),
    "nudenet": ("threshold", "labels", "weights"),
}
PATHS = ("weights",)
# Kinds of concept that each can name.
KINDS: dict[str, tuple[str, ...]] = {
    "clip": ("object", "style", "person", "nudity"),
    "imagenet": ("object",),
    "nudenet": ("nudity",),
}


# Those that cannot say that a picture shows nothing at all.
NEVER_ABSTAIN = ("imagenet", "nudenet")


@dataclass(frozen=True, slots=True)
class JudgeSpec:
    """A judge as the user named it. `name` is what rows call it: its kind, numbered where one kind is named twice."""

    kind: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    def path(self, option: str) -> Path | None:
        """An option that is a path, `~` expanded."""
        value = self.options.get(option)
        return None if value is None else user_path(value)

    def text(self) -> str:
        """The judge as `parse_judges` reads it, its paths absolute, so that it means the same from anywhere."""
        parts = {
            key: str(user_path(value).absolute()) if key in PATHS else value for key, value in self.options.items()
        }
        return f"{self.kind}:{','.join(f'{key}={value}' for key, value in parts.items())}" if parts else self.kind


@dataclass(frozen=True, slots=True)
class Sight:
    """What a judge makes of one picture.

    `answer` holds for each kind that the judge can name a name or "none", its probability (`_prob`), and of a judge
    that can abstain `abstain`: it sees no picture of anything. `clip_score` is the cosine of picture and prompt,
    `embedding` of length 1.
    """

    answer: dict[str, Any]
    clip_score: float | None = None
    embedding: np.ndarray | None = None


def abstaining(name: str) -> bool:
    """Whether the judge that rows call so can say that it sees no picture of anything."""
    return name.partition("-")[0] not in NEVER_ABSTAIN


class Judge(Protocol):
    """A loaded judge. `facts` are what it says of itself in the report."""

    @property
    def name(self) -> str: ...

    @property
    def facts(self) -> dict[str, Any]: ...

    def look(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Sight]:
        """What it sees in each picture, uint8 (H, W, 3)."""
        ...


@runtime_checkable
class Embeds(Judge, Protocol):
    """A judge whose embeddings of pictures can be compared: a CLIP."""

    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Of length 1 each, (N, D)."""
        ...


def parse_judges(given: Sequence[str], taken: Sequence[str] = ()) -> tuple[JudgeSpec, ...]:
    """`NAME[:options]` of each, with names of their own that are not among `taken`.

    Options are `key=value` separated by commas; one without a key is the judge's first. Raises `InputError`.
    """
    found: list[JudgeSpec] = []
    for text in given:
        kind, _, rest = text.strip().partition(":")
        if kind not in OPTIONS:
            close = difflib.get_close_matches(kind, OPTIONS, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(OPTIONS)}"
            raise InputError(f"judge {printable(kind)[:80]!r} is not known; {hint}")
        number = sum(spec.kind == kind for spec in found) + (kind in taken) + 1
        found.append(JudgeSpec(kind, kind if number == 1 else f"{kind}-{number}", _options(kind, rest)))
    return tuple(found)


def _options(kind: str, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = OPTIONS[kind][0], part
        key, value = key.strip(), value.strip()
        if key not in OPTIONS[kind]:
            close = difflib.get_close_matches(key, OPTIONS[kind], n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(OPTIONS[kind])}"
            raise InputError(f"judge {kind}: no option {printable(key)[:80]!r}; {hint}")
        if not value or key in found:
            raise InputError(f"judge {kind}: option {key} is {'given twice' if value else 'empty'}; write {key}=VALUE")
        found[key] = value
    return found


def check_kind(specs: Sequence[JudgeSpec], kind: str, words: str) -> None:
    """Raises `InputError` where none of the judges can name a concept of this kind."""
    if specs and not any(kind in KINDS[spec.kind] for spec in specs):
        able = [name for name, kinds in KINDS.items() if kind in kinds]
        names = ", ".join(spec.name for spec in specs)
        raise InputError(f"judge {names} cannot tell the {kind} {words!r}; name one that can: {', '.join(able)}")

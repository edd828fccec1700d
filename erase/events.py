"""What a run tells its front end. One seam: `on_event(Event)` out, `should_stop() -> bool` in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run begins or resumes at round `first`; `total` counts the coming `Step`s: two a round, one if joint.

    `model` says what the base model was taken for, and why.
    """

    folder: Path
    total: int
    first: int = 0
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimizer step of one role in round `step`.

    `loss` is the mean over its micro-batches (joint: the sum of both roles' means), `grad_norm` the norm of their mean
    gradient before clipping, without what a mask holds back, `lr` the rate that the schedule gave.
    """

    step: int
    role: Literal["forget", "retain", "joint"]
    loss: float
    grad_norm: float
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A grid of sample pictures was written, before round `step` or at the end."""

    step: int
    images: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Something countable that is not training: sampling, judging, pooling."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """How many seconds something long will take, by a short measurement on this machine, in all and by part."""

    what: str
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint, model or report reached the disk."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Scores are known; the entries of report.json."""

    scores: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something the user should know, in one line."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The verb ended; `complete` is False after a stop on request."""

    folder: Path
    complete: bool = True


Event = Started | Step | Preview | Progress | Expected | Saved | Scored | Warned | Finished
OnEvent = Callable[[Event], None]
ShouldStop = Callable[[], bool]


def ignore(event: Event) -> None:
    """The default listener."""


def never() -> bool:
    """The default answer to "stop?"."""
    return False


def to_json(event: Event) -> dict[str, Any]:
    """The event as one line of events.jsonl: its fields, its kind, paths as text, NaN and infinity as null."""
    return {"event": type(event).__name__.lower(), **{k: _plain(v) for k, v in asdict(event).items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value

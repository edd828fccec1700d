"""The queue: every run is a process of its own, one at a time; its state is on the disk and outlives the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from erase.batch.worker import Ended
from erase.config import Config
from erase.ui.roots import Roots

State = Literal["queued", "running", "stopping", "stopped", "done", "failed"]


class Process(Protocol):
    """One `erase` command in a process of its own, as `Worker` is."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> Ended | None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


Start = Callable[[list[str], Path, Sequence[int]], Process]
"""Arguments of `erase`, the log's path, and locks that the process is to hold -> the process."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a run is doing. `step` of `total` and `speed` (a second) belong to the `phase`; `place` is 1 for the next.

    `losses` holds (round, loss) by role, at most 300 of each; `preview` is the newest grid of samples.
    """

    name: str
    state: State
    place: int = 0
    phase: str = ""
    step: int = 0
    total: int = 0
    speed: float = 0.0
    seconds_left: float | None = None
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    preview: Path | None = None
    scores: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    sensitive: bool = False
    finished: bool = False


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run in the list. `finished`: it has a trained model, to compare, evaluate and export; `judged`: scores.

    `scores` maps a score's name to {"before": [value, low, high], "after": ...}; `created` is ISO 8601.
    """

    name: str
    state: State
    place: int = 0
    concept: str = ""
    method: str = ""
    optimizer: str = ""
    model: str = ""
    created: str = ""
    finished: bool = False
    judged: bool = False
    sensitive: bool = False
    lora: bool = False
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    error: str = ""


class Jobs:
    """The queue of one server. Every method may be called from any thread."""

    def __init__(self, roots: Roots, *, concurrency: int = 1, most: int = 200, start: Start | None = None) -> None:
        """Take up what an earlier server left. Raises `InputError` if another one works in the same runs' folder."""
        raise NotImplementedError

    def submit(self, config: Config, sensitive: bool = False, key: str | None = None) -> str:
        """Queue a run; return its name. The same `key` again within a moment gives the same run."""
        raise NotImplementedError

    def resume(self, name: str) -> str:
        """Queue a run that was stopped or failed, to go on from its last checkpoint."""
        raise NotImplementedError

    def evaluate(self, name: str) -> str:
        """Queue the judging of a finished run."""
        raise NotImplementedError

    def stop(self, name: str) -> None:
        """Take a run out of the queue, or let it end after its round; what there is stays, to be resumed."""
        raise NotImplementedError

    def delete(self, name: str) -> None:
        """Remove a run that is not under way, with all of it. Raises `InputError` if others began from it."""
        raise NotImplementedError

    def status(self, name: str) -> Status:
        """How a run is doing; also of one that the command line made."""
        raise NotImplementedError

    def listing(self) -> list[RunInfo]:
        """All runs, the newest first."""
        raise NotImplementedError

    @contextmanager
    def turn(self, on_place: Callable[[int], None] = lambda place: None) -> Iterator[None]:
        """The device for a moment, for work in this process: waits until no run has it. Goes before queued runs."""
        raise NotImplementedError
        yield

    def close(self, timeout: float = 30.0) -> None:
        """Stop what runs and wait for it; what is queued stays so for the next server."""
        raise NotImplementedError

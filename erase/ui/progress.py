"""What a run's events say of how it is doing. It remembers little, however long the run is."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase.batch.worker import tail

MOST = 300  # points of a loss curve
RECENT = 40  # events over which the speed is measured
KEPT = 64  # runs whose events are remembered
WARNINGS = 20


@dataclass(slots=True)
class Curve:
    """A loss over rounds, thinned: past `MOST` points every second one goes, and from then on half as many come."""

    points: list[tuple[int, float]] = field(default_factory=list)
    last: tuple[int, float] | None = None
    stride: int = 1
    seen: int = 0

    def add(self, round: int, loss: float) -> None:
        """The next point; of a run that was resumed it may lie before the last."""
        if self.last is not None and round <= self.last[0]:
            self.points = [point for point in self.points if point[0] < round]
        if self.seen % self.stride == 0:
            self.points.append((round, loss))
        self.seen, self.last = self.seen + 1, (round, loss)
        if len(self.points) >= MOST:
            self.points, self.stride = self.points[::2], 2 * self.stride

    def shown(self) -> list[tuple[int, float]]:
        """At most `MOST` points, the newest among them."""
        newest = [self.last] if self.last is not None and self.points[-1:] != [self.last] else []
        return [*self.points, *newest]


@dataclass(slots=True)
class Progress:
    """A run's events so far, in few numbers. `speed` is `step`s a second in this phase."""

    folder: Path
    phase: str = ""
    step: int = 0
    total: int = 0
    complete: bool = False
    curves: dict[str, Curve] = field(default_factory=dict)
    preview: Path | None = None
    scores: list[dict[str, Any]] = field(default_factory=list)
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=WARNINGS))
    _times: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RECENT))
    _training: tuple[int, int] = (0, 0)
    _offset: int = 0
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def update(self) -> Progress:
        """Read what is new in events.jsonl."""
        with self._reading:
            while True:
                events, offset = tail(self.folder, self._offset, most=2**20)
                for event in events:
                    self._take(event)
                if offset == self._offset:
                    return self
                self._offset = offset

    @property
    def speed(self) -> float:
        """Steps a second over the last events of this phase; 0 where it cannot be told yet."""
        times = list(self._times)
        seconds = times[-1][0] - times[0][0] if len(times) > 1 else 0.0
        return (times[-1][1] - times[0][1]) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until the end of this phase, at this speed."""
        speed = self.speed
        return max(0, self.total - self.step) / speed if speed > 0 else None

    def _take(self, event: dict[str, Any]) -> None:
        time = _number(event.get("time"))
        match event:
            case {"event": "started", "total": int(total)}:
                self.complete, self._training = False, (0, total)
                self._enter("preparing", time, 0, 0)
            case {"event": "step", "step": int(round), "role": str(role)}:
                if (loss := _number(event.get("loss"))) is not None and (role in self.curves or len(self.curves) < 4):
                    self.curves.setdefault(role, Curve()).add(round, loss)
                done, total = self._training
                self._training = done + 1, total
                self._enter("training", time, done + 1, total)
            case {"event": "progress", "what": str(what), "done": int(done), "total": int(total)}:
                self._enter(what[:200], time, done, total)
            case {"event": "preview", "images": str(images)}:
                self.preview = Path(images)
            case {"event": "scored", "scores": list(scores)}:
                self.scores = [score for score in scores if isinstance(score, dict)]
            case {"event": "warned", "text": str(text)}:
                if text not in self.warnings:
                    self.warnings.append(text[:500])
            case {"event": "finished", "complete": True}:
                self.complete = True
                self._enter("done", time, self.total, self.total)
            case _:
                pass

    def _enter(self, phase: str, time: float | None, step: int, total: int) -> None:
        if phase != self.phase or step < self.step:
            self._times.clear()
        self.phase, self.step, self.total = phase, step, total
        if time is not None:
            self._times.append((time, step))


class Watch:
    """The progress of the runs asked about lately."""

    def __init__(self) -> None:
        self._held: OrderedDict[Path, Progress] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, folder: Path) -> Progress:
        """A run's progress up to now."""
        with self._lock:
            found = self._held.setdefault(folder, Progress(folder))
            self._held.move_to_end(folder)
            while len(self._held) > KEPT:
                self._held.popitem(last=False)
        return found.update()

    def forget(self, folder: Path) -> None:
        """Read a run's events anew the next time: its folder may be another's by then."""
        with self._lock:
            self._held.pop(folder, None)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

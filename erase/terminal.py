"""What the command line shows of a run's events, and how Ctrl-C reaches the run."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from erase.events import Event, Expected, Finished, Preview, Progress, Saved, Scored, Started, Step, Warned
from erase.interrupts import check


class Listener:
    """Shows events on stderr: a bar with both losses, speed and time left while training, one bar per other task.

    `quiet` leaves warnings only. Use it as `on_event`, within a `with` block. `folder` and `complete` tell how the run
    ended. A terminal that went away silences it; the run goes on.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.folder: Path | None = None
        self.complete = True
        self.scores: list[dict[str, Any]] = []
        self._quiet, self._gone = quiet, False
        self._training: Any = None
        self._task: Any = None
        self._losses: dict[str, float] = {}

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._guarded(self._close)

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self.folder = event.folder
            case Scored():
                self.scores = event.scores
            case Finished():
                self.folder, self.complete = event.folder, event.complete
            case _:
                pass
        if not self._quiet or isinstance(event, Warned):  # a warning is no progress: --quiet does not silence it
            self._guarded(lambda: self._show(event))

    def _guarded(self, show: Callable[[], None]) -> None:
        if self._gone:
            return
        try:
            show()
        except OSError:
            self._gone = True

    def _show(self, event: Event) -> None:
        match event:
            case Started():
                if event.model:
                    self._say(f"model: {event.model}")
                self._say(f"run folder: {event.folder}" + (f" (from round {event.first} on)" if event.first else ""))
                self._close()
                self._training = _bar("training", event.total, unit="step") if event.total else None
            case Step():
                self._step(event)
            case Progress():
                self._progress(event)
            case Expected():
                self._say(f"{event.what}: about {duration(event.seconds)}")
            case Warned():
                self._say(f"warning: {event.text}")
            case Preview():
                self._say(f"preview: {event.images}")
            case Saved() if event.path.suffix in (".html", ".json"):
                self._say(f"saved {event.path}")
            case Finished():
                self._close()
            case _:
                pass

    def _step(self, event: Step) -> None:
        self._losses[event.role] = event.loss
        if self._training is not None:
            losses = ", ".join(f"{role} {loss:.4f}" for role, loss in self._losses.items())
            self._training.set_postfix_str(losses, refresh=False)
            self._training.update(1)

    def _progress(self, event: Progress) -> None:
        if self._training is not None and self._training.n >= self._training.total:
            self._close()
        if self._task is None or self._task.desc.removesuffix(": ") != event.what:
            if self._task is not None:
                self._task.close()
            # Below a training bar a task leaves no line behind; alone it stays, as a record of what was done.
            self._task = _bar(event.what, event.total, leave=self._training is None)
        self._task.update(event.done - self._task.n)
        if event.done >= event.total:
            self._task.close()
            self._task = None

    def _close(self) -> None:
        for bar in (self._task, self._training):
            if bar is not None:
                bar.close()
        self._task = self._training = None

    def _say(self, text: str) -> None:
        bar = self._task or self._training
        if bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            bar.write(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """A length of time in the two units that matter."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _bar(task: str, total: int, *, unit: str = "it", leave: bool = True) -> Any:
    from tqdm import tqdm

    # A log file gets a line every ten seconds, a terminal a smooth bar.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, desc=task, unit=unit, leave=leave, mininterval=interval, dynamic_ncols=True)


class Stop:
    """Answers `should_stop`; becomes True on the first signal."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked


@contextmanager
def stopping_on_signals(patience: float = 0.0) -> Iterator[Stop]:
    """Ctrl-C or a request to terminate, once: finish the round, save and stop. Twice: quit at once.

    For `patience` seconds after the first all count as one: a launcher passes on what the terminal sent already.
    """
    check()  # one that came while packages were imported
    stop, since = Stop(), 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if stop.asked:
            if time.monotonic() - since < patience:
                return
            raise KeyboardInterrupt
        stop.asked, since = True, time.monotonic()
        text = "\nstopping after the round or batch under way; once more quits at once without saving"
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def score_table(scores: Sequence[dict[str, Any]]) -> str:
    """Scores as text: a line per name and the interval of each arm, and an excess's p, adjusted by Holm.

    A score without an interval is left out.
    """
    rows: dict[str, dict[str, str]] = {}
    better: dict[str, str] = {}
    for score in scores:
        low, high = score.get("low"), score.get("high")
        if low is None or high is None:
            continue
        cell = f"{score['value']:.3f} [{low:.3f}, {high:.3f}] n={score['n']}"
        rows.setdefault(score["name"], {})[score["arm"]] = cell
        better[score["name"]] = "higher is better" if score["higher_is_better"] else "lower is better"
        if score.get("p_holm") is not None:
            from erase.report.words import p_text  # its plots take a second to import

            better[score["name"]] += f", p {p_text(score['p_holm'])} (Holm)"
    lines = [("score", "before", "after", "")]
    lines += [(name, cells.get("before", ""), cells.get("after", ""), better[name]) for name, cells in rows.items()]
    return columns(lines)


def standings(judged: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> str:
    """The verdict on each of several runs as text, those that lost other concepts or destroyed pictures last."""
    from erase.evaluation.standing import place, standing_of

    words = [(folder, standing_of(scores) or "not judged") for folder, scores in judged]
    return columns([("run", "verdict"), *sorted(words, key=lambda line: place(line[1]))])


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, each column as wide as its widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)

"""The live table of all jobs on a terminal; in a log, a line for each change."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from erase.batch.scheduler import Status
from erase.batch.worker import tail

INTERVAL = 0.5  # seconds between two drawings
MARKS = {"waiting": "·", "running": "▸", "done": "✓", "failed": "✕", "stopped": "■"}
ORDER = ("running", "failed", "stopped", "done", "waiting")  # of what fits on the screen


class Progress:
    """How far a running job is, from what its events.jsonl got since the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._offset = folder, tail(folder)[1]
        self._total = self._steps = 0
        self._text = ""

    def look(self) -> str:
        """A few words, "" where nothing is known yet."""
        events, self._offset = tail(self._folder, self._offset)
        for event in events:
            with suppress(KeyError, TypeError, ValueError):  # a line that something else wrote
                self._take(event)
        return self._text

    def _take(self, event: Mapping[str, object]) -> None:
        match event["event"]:
            case "started":
                self._total, self._steps, self._text = int(str(event["total"])), 0, "started"
            case "step":
                self._steps += 1
                self._text = f"training {100 * self._steps // max(1, self._total)} %"
            case "progress":
                done, total = int(str(event["done"])), int(str(event["total"]))
                self._text = f"{event['what']} {100 * done // max(1, total)} %"
            case _:
                pass


class Table:
    """Shows how the jobs stand. `folder` gives a job's run folder; a screen that went away is no error."""

    def __init__(self, names: list[str], folder: Callable[[str], Path], out: TextIO) -> None:
        self._names, self._folder, self._out = names, folder, out
        self._live = out.isatty()
        self._status = {name: Status() for name in names}
        self._progress: dict[str, Progress] = {}
        self._began = self._drawn = time.monotonic()
        self._lines = 0

    def changed(self, name: str, status: Status) -> None:
        """A job begins, or has ended."""
        self._status[name] = status
        if status.state == "running":
            self._progress[name] = Progress(self._folder(name))
        else:
            self._progress.pop(name, None)
        if not self._live:
            self._say(self._line(name) + (" (to be tried again)" if status.state == "waiting" else ""))

    def tick(self) -> None:
        """Draw again, if it is time."""
        if self._live and time.monotonic() - self._drawn >= INTERVAL:
            self.draw()

    def draw(self) -> None:
        """Draw the table over the one before."""
        if not self._live:
            return
        size = shutil.get_terminal_size()
        lines = [line[: size.columns - 1] for line in self.lines(max(3, size.lines - 2))]
        up = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        self._say(up + "\n".join(lines))
        self._lines, self._drawn = len(lines), time.monotonic()

    def lines(self, room: int) -> list[str]:
        """The table: a line of totals, and of the jobs as many as there is room for, those at work first."""
        groups = {state: [n for n in self._names if self._status[n].state == state] for state in ORDER}
        shown = [name for state in ORDER for name in groups[state]][: room - 1]
        counts = ", ".join(f"{len(groups[state])} {state}" for state in ORDER if groups[state])
        left = len(self._names) - len(shown)
        more = f"; {left} not shown" if left > 0 else ""
        total = f"{len(self._names)} jobs: {counts}; {clock(time.monotonic() - self._began)}{self._rest(groups)}{more}"
        return [total, *map(self._line, shown)]

    def _rest(self, groups: Mapping[str, list[str]]) -> str:
        """How long it may take still, by the time that this batch took for those that ended."""
        ended = sum(bool(s.seconds) for s in self._status.values() if s.state in ("done", "failed"))
        left = len(groups["waiting"]) + len(groups["running"])
        return f", about {clock((time.monotonic() - self._began) * left / ended)} left" if ended and left else ""

    def _line(self, name: str) -> str:
        status = self._status[name]
        words = [MARKS[status.state], name.ljust(max(map(len, self._names))), status.state.ljust(7)]
        if status.state == "running":
            progress = self._progress.get(name)
            words += [clock(time.monotonic() - status.began), progress.look() if progress else ""]
        elif status.seconds:
            words.append(clock(status.seconds))
        if status.attempts > 1:
            words.append(f"attempt {status.attempts}")
        return " ".join(filter(None, [*words, status.error])).rstrip()

    def _say(self, text: str) -> None:
        with suppress(OSError, ValueError):
            print(text, file=self._out, flush=True)


def clock(seconds: float) -> str:
    """A duration as people read it: 42 s, 3 min 5 s, 2 h 4 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

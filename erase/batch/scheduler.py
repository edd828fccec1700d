"""The loop that gives tasks to an engine, tries broken ones again, and tells what becomes of each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from erase.batch.engines import Engine
from erase.batch.task import Task
from erase.batch.worker import Ended
from erase.errors import AFRESH, InputError
from erase.events import ShouldStop

PAUSE = 0.02  # seconds between looks, when nothing has ended


@dataclass(slots=True)
class Status:
    """How a job stands: waiting, running, done, failed or stopped; `seconds` is the time of its last attempt."""

    state: str = "waiting"
    attempts: int = 0
    error: str = ""
    began: float = 0.0
    seconds: float = 0.0


class Watcher:
    """What the loop tells: `begins` before each attempt, `changed` when a job begins or has ended, `ended` after each
    attempt, `tick` at every look."""

    def begins(self, task: Task) -> None:
        """An attempt is about to begin. An `InputError` raised here fails it."""

    def changed(self, name: str, status: Status) -> None:
        """A job's state is another one."""

    def ended(self, task: Task, ended: Ended, status: Status) -> None:
        """An attempt is over."""

    def tick(self) -> None:
        """Time has passed."""


def carry_out_all(
    tasks: Sequence[Task], engine: Engine, retries: int, should_stop: ShouldStop, watcher: Watcher
) -> dict[str, Status]:
    """Carry out every task, each until it is done, failed 1 + `retries` times, or all are stopped.

    One that was refused for its input (code 2) is not tried again, unless it went on with a run: what was good enough
    to begin may fail for a while, and a run that says itself that it is broken begins anew. Whatever happens, no
    process is left when this returns or raises.
    """
    found = {task.name: Status() for task in tasks}
    queue, active = deque(tasks), dict[str, Task]()
    stopping = False
    try:
        while queue or active:
            if should_stop() and not stopping:
                stopping = True
                queue.clear()
                engine.stop()
            while queue and engine.free > 0:
                _start(queue.popleft(), engine, found, active, watcher)
            refused = _refused(found, active)
            ends = [*refused, *engine.poll()]
            for name, ended in ends:
                task = active.pop(name)
                if _settle(task, ended, found[name], retries, stopping, watcher):
                    # One that could not be begun is as it was: what was to be put aside may lie there still.
                    queue.append(task if name in dict(refused) else replace(task, aside=_broken(ended)))
            watcher.tick()
            if not ends:
                time.sleep(PAUSE)
    finally:
        engine.close()
    for status in found.values():
        if status.state in ("waiting", "running"):
            status.state = "stopped"
    return found


def _start(task: Task, engine: Engine, found: dict[str, Status], active: dict[str, Task], watcher: Watcher) -> None:
    status = found[task.name]
    status.state, status.began, status.error = "running", time.monotonic(), ""
    status.attempts += 1
    active[task.name] = task
    try:
        watcher.begins(task)
        engine.start(task)
    except InputError as error:
        status.error = str(error)
        return
    watcher.changed(task.name, status)


def _refused(found: dict[str, Status], active: dict[str, Task]) -> list[tuple[str, Ended]]:
    """Tasks that could not be begun."""
    return [(name, Ended(1, found[name].error)) for name in active if found[name].error]


def _settle(task: Task, ended: Ended, status: Status, retries: int, stopping: bool, watcher: Watcher) -> bool:
    """Note how an attempt ended; whether the task is to be tried again."""
    status.seconds = time.monotonic() - status.began if ended.seconds is None else ended.seconds
    status.error = ended.error
    refused = ended.code == InputError.exit_code
    again = not stopping and not ended.stopped and status.attempts <= retries and (not refused or ended.resumed)
    if ended.code == 0:
        status.state, status.error = "done", ""
    elif ended.stopped:
        status.state = "stopped"
    else:
        status.state = "waiting" if again else "failed"
    watcher.ended(task, ended, status)
    watcher.changed(task.name, status)
    return status.state == "waiting"


def _broken(ended: Ended) -> bool:
    """Whether a run said that it cannot be gone on with, and not that a disk is full or a model out of reach."""
    return ended.resumed and ended.code == InputError.exit_code and AFRESH in ended.error

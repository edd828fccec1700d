"""`erase batch`: from a matrix file to finished runs and their summary."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from erase.batch import place as places
from erase.batch.engines import ENGINES, Resources
from erase.batch.matrix import Job, Matrix, estimate, read_matrix
from erase.batch.place import Attempt, Place
from erase.batch.scheduler import Status, Watcher, carry_out_all
from erase.batch.table import Table, clock
from erase.batch.task import Task
from erase.batch.worker import Ended
from erase.errors import EraseError, InputError, Interrupted
from erase.events import ShouldStop
from erase.runtime import write_text

SHARE = 0.05  # of the time may go into writing the summary, which grows with every job


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the flags ask for; `again` are the flags, to be shown where a batch is to be gone on with."""

    output: Path | None = None
    engine: str = "local"
    resources: Resources = Resources()
    retries: int = 2
    redo: bool = False
    again: tuple[str, ...] = ()


def wishes(options: argparse.Namespace) -> Wishes:
    """What the flags say. Raises `InputError` for a list of GPUs that is none."""
    gpus = tuple(text.strip() for text in (options.gpus or "").split(",")) if options.gpus is not None else ()
    wrong = next((text for text in gpus if not re.fullmatch(r"[A-Za-z0-9:/._-]+", text)), None)
    if wrong is not None:
        raise InputError(f"--gpus {options.gpus!r} is no list of GPUs; take numbers such as 0,1")
    again: list[str] = []
    for flag in ("output", "engine", "workers", "cpus_per_job", "gpus", "gpus_per_job", "address", "artefacts"):
        value = getattr(options, flag)
        if value and (flag, value) != ("engine", "local"):
            again += [f"--{flag.replace('_', '-')}", str(value)]
    return Wishes(
        options.output,
        options.engine,
        Resources(
            options.workers, options.cpus_per_job, gpus, options.gpus_per_job, options.address, options.artefacts
        ),
        options.retries,
        options.redo,
        tuple(again),
    )


def plan(path: Path, wishes: Wishes) -> tuple[Matrix, dict[str, str]]:
    """The jobs and what there is of each; every problem at once. Writes nothing."""
    matrix = read_matrix(path, wishes.output)
    pinned = [job.name for job in matrix.jobs if job.config.device.startswith("cuda:")]
    if pinned and wishes.resources.gpus:
        raise InputError(
            f"{pinned[0]}: device {next(j.config.device for j in matrix.jobs if j.name == pinned[0])} and --gpus both "
            "choose a GPU; leave device at auto"
        )
    return matrix, places.states(matrix, redo=wishes.redo)


def preview(path: Path, wishes: Wishes) -> str:
    """What `--dry-run` prints: each job with what there is of it, and the time that the rest may take."""
    matrix, states = plan(path, wishes)
    past = places.seconds_by_method(places.history(Place(matrix.output)))
    to_do = [job for job in matrix.jobs if states[job.name] != "done"]
    words = {"new": "to do", "begun": "to go on with", "done": "done", "other": "to do again"}
    lines = [f"{job.name}  {words[states[job.name]]}{_expected(job, past, states[job.name])}" for job in matrix.jobs]
    seconds, known = estimate(to_do, past)
    workers = wishes.resources.workers or len(wishes.resources.gpus) or 1
    lines.append(f"{len(matrix.jobs)} jobs in {matrix.output}, {len(matrix.jobs) - len(to_do)} of them done")
    if known:
        rest = f"; of {len(to_do) - known} jobs nothing is known yet" if known < len(to_do) else ""
        at_once = f", {clock(seconds / workers)} with {workers} workers" if workers > 1 else ""
        lines.append(f"about {clock(seconds)} of work{at_once}, by the jobs that are done{rest}")
    elif to_do:
        lines.append("no job of these methods has been done here yet, so their time is not known")
    return "\n".join(lines)


def _expected(job: Job, past: dict[str, list[float]], state: str) -> str:
    seconds, known = estimate([job], past)
    return f", about {clock(seconds)}" if known and state != "done" else ""


def carry_out(path: Path, wishes: Wishes, should_stop: ShouldStop) -> Path:
    """Do all that is left of a batch; return the page that sums it up.

    Raises `InputError` before anything starts, `Interrupted` after a stop and `EraseError` where jobs failed, each
    saying what to type next.
    """
    matrix, _ = plan(path, wishes)
    for text in matrix.warnings:
        print(text, file=sys.stderr)
    place = Place(matrix.output)
    with places.claimed(matrix.output) as lock:
        states = places.states(matrix, redo=wishes.redo)  # again: another batch may have been at work until now
        place.stop.unlink(missing_ok=True)
        tasks = [_task(place, job, states[job.name]) for job in matrix.jobs if states[job.name] != "done"]
        engine = ENGINES[wishes.engine](matrix.output, wishes.resources, lock, os.cpu_count() or 1)
        board = Board(place, matrix.jobs, [name for name, state in states.items() if state == "done"])
        try:
            found = carry_out_all(tasks, engine, wishes.retries, should_stop, board)
        except KeyboardInterrupt:
            raise _stopped(path, wishes, board) from None
        finally:
            try:
                engine.close()
            finally:
                board.finish()
                place.stop.unlink(missing_ok=True)
    return _outcome(path, wishes, place, board, found)


def _task(place: Place, job: Job, state: str) -> Task:
    where = place.folder(job.name), place.settings(job.name), place.log(job.name), place.cache
    return Task(job.name, *where, aside=state == "other")


def _stopped(path: Path, wishes: Wishes, board: Board) -> Interrupted:
    done = board.counts["done"]
    return Interrupted(f"stopped; {done} of {board.total} jobs are done; go on with: {_again(path, wishes)}")


def _again(path: Path, wishes: Wishes) -> str:
    return places.go_on(path, wishes.again)


def _outcome(path: Path, wishes: Wishes, place: Place, board: Board, found: dict[str, Status]) -> Path:
    if any(status.state == "stopped" for status in found.values()):
        raise _stopped(path, wishes, board)
    failed = [name for name, status in found.items() if status.state == "failed"]
    if failed:
        first = f"{failed[0]}: {found[failed[0]].error}"
        raise EraseError(
            f"{len(failed)} of {board.total} jobs failed ({first}); {place.page} has them all; try again with: "
            f"{_again(path, wishes)}"
        )
    return place.page


class Board(Watcher):
    """Keeps the table, the history and the summary as jobs come to their end."""

    def __init__(self, place: Place, jobs: Sequence[Job], done: Sequence[str]) -> None:
        self._place, self._jobs, finished = place, {job.name: job for job in jobs}, set(done)
        self._status = {name: Status("done") if name in finished else Status() for name in self._jobs}
        self._table = Table(list(self._jobs), place.folder, sys.stderr)
        for name in done:
            self._table.changed(name, self._status[name])
        self._summary = Summary(place, jobs)
        self._table.draw()

    @property
    def total(self) -> int:
        """The jobs of the batch."""
        return len(self._jobs)

    @property
    def counts(self) -> Counter[str]:
        """The jobs by state."""
        return Counter(status.state for status in self._status.values())

    def begins(self, task: Task) -> None:
        """Make its place ready: a run that cannot be gone on with keeps what it has under another name."""
        if task.aside:
            places.put_aside(task.folder)
        places.write_settings(self._place, self._jobs[task.name])

    def changed(self, name: str, status: Status) -> None:
        """Show it, and sum up what has ended."""
        self._status[name] = status
        self._table.changed(name, status)
        if status.state in ("done", "failed"):
            self._summary.write(self._status)

    def ended(self, task: Task, ended: Ended, status: Status) -> None:
        """Add the attempt to the history."""
        job = self._jobs[task.name]
        attempt = Attempt(task.name, ended.code, ended.error, status.seconds, job.config.method.name)
        try:
            places.remember(self._place, attempt, places.fingerprint(job.config))
        except InputError as error:  # the runs have all that counts
            print(f"warning: {error}", file=sys.stderr)

    def tick(self) -> None:
        """Draw the table, if it is time."""
        self._table.tick()

    def finish(self) -> None:
        """Draw and sum up what there is in the end."""
        self._table.draw()
        self._summary.write(self._status, now=True)


class Summary:
    """Writes report.html of the batch anew, as often as a twentieth of the time allows."""

    def __init__(self, place: Place, jobs: Sequence[Job]) -> None:
        self._place, self._jobs, self._next, self._reports = place, jobs, 0.0, {}

    def write(self, status: dict[str, Status], *, now: bool = False) -> None:
        """Write it, if it is time; a page that cannot be written is a warning."""
        began = time.monotonic()
        if began < self._next and not now:
            return
        from erase.report.summary import Entry, render

        entries = [
            Entry(
                name=job.name,
                folder=self._place.folder(job.name),
                concept=", ".join(section.name for section in job.config.concepts),
                method=job.config.method.name,
                optimizer=job.optimizer,
                seed=job.config.seed,
                setting=job.setting,
                state=status[job.name].state,
                error=status[job.name].error,
            )
            for job in self._jobs
        ]
        try:
            write_text(self._place.page, render(f"Batch {self._place.output.name}", entries, self._reports))
        except (EraseError, OSError, ValueError) as error:  # a run's folder may hold anything
            print(f"warning: {error}", file=sys.stderr)
        self._next = time.monotonic() + (time.monotonic() - began) / SHARE

"""What the batch's own bookkeeping costs per job: many jobs that do nothing, through the local scheduler.

    python benchmark/scheduler.py                       # 10,000 jobs, 16 workers at once
    python benchmark/scheduler.py --processes 200       # and as many that are processes, of Python doing nothing

Prints milliseconds a job for each stage: reading and checking the matrix, looking at the folders, and the loop with all
that it keeps (settings, history, table, summary; the stand-ins take no lock). A job leaves a run folder with its
report, so that the summary has all of them to show.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from erase.batch import place as places
from erase.batch.command import Board
from erase.batch.engines import Local, Resources, environments
from erase.batch.matrix import read_matrix
from erase.batch.place import Place
from erase.batch.scheduler import carry_out_all
from erase.batch.task import Run, Task
from erase.batch.worker import Ended, Worker
from erase.events import never
from erase.runtime import CONFIG, DONE

SCORES = ("forget_accuracy", "neighbour_accuracy", "retain_accuracy", "cross_accuracy", "validity")


@dataclass(slots=True)
class NoOp:
    """A job that is done when it is begun; it leaves what a run leaves."""

    report: str

    def __call__(self, task: Task, environment: Mapping[str, str]) -> NoOp:
        task.folder.mkdir(parents=True)
        (task.folder / CONFIG).touch()
        (task.folder / "report.json").write_text(self.report)
        (task.folder / DONE).touch()
        return self

    def poll(self) -> Ended:
        return Ended(0)

    def stop(self) -> None: ...

    def kill(self) -> None: ...


def report() -> str:
    """A report with the scores of a run on the world."""
    scores = [
        {"name": name, "arm": arm, "value": 0.5, "low": 0.4, "high": 0.6, "n": 200, "higher_is_better": True}
        for name in SCORES
        for arm in ("before", "after")
    ]
    facts = {"run_id": "no-op", "environment": {}, "config": {}, "guards": {}}
    return json.dumps({"schema": 1, **facts, "scores": scores})


def process(task: Task, environment: Mapping[str, str]) -> Run:
    """A worker that ends as soon as it has begun: `erase --version`, without a run."""
    task.folder.mkdir(parents=True)
    (task.folder / CONFIG).touch()
    (task.folder / DONE).touch()
    return Run(task, Worker(["--version"], task.log, environment, leashed=True), False)


def measure(jobs: int, begin: object, workers: int, folder: Path) -> dict[str, float]:
    """Seconds of each stage, for so many jobs."""
    path = folder / "matrix.yaml"
    seeds = ", ".join(str(seed) for seed in range(jobs))
    path.write_text(f"base: {{model: org/name, concept: cat}}\nmethods: [uce]\nseeds: [{seeds}]\n")
    found, clock = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        found[name] = time.perf_counter() - clock
        clock = time.perf_counter()

    matrix = read_matrix(path, folder / "out")
    lap("read and check the matrix")
    places.states(matrix)
    lap("look at the folders")
    place = Place(matrix.output)
    tasks = [
        Task(job.name, place.folder(job.name), place.settings(job.name), place.log(job.name), place.cache)
        for job in matrix.jobs
    ]
    with places.claimed(matrix.output), redirect_stderr(io.StringIO()):
        board = Board(place, matrix.jobs, [])
        engine = Local(environments(Resources(workers=workers), 1), begin)  # type: ignore[arg-type]
        ended = carry_out_all(tasks, engine, 0, never, board)
        lap("the loop")
        board.finish()
        lap("the last summary")
    wrong = [name for name, status in ended.items() if status.state != "done"]
    if wrong or len(ended) != jobs:
        raise SystemExit(f"{len(wrong)} of {len(ended)} jobs are not done: {wrong[:3]}")
    places.states(matrix)
    lap("look again, all done")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--processes", type=int, default=0)
    options = parser.parse_args()
    kinds = [("no-op jobs", options.jobs, NoOp(report()))]
    if options.processes:
        kinds.append(("processes", options.processes, process))
    for name, count, begin in kinds:
        with tempfile.TemporaryDirectory() as folder:
            import erase.report.summary  # noqa: F401  # torch and matplotlib: the same seconds for one job

            busy = time.process_time()
            found = measure(count, begin, options.workers, Path(folder))
            busy = time.process_time() - busy
        print(f"{count:,} {name}, {options.workers} at once")
        for stage, seconds in found.items():
            print(f"  {stage}: {seconds:.1f} s, {1000 * seconds / count:.2f} ms a job")
        whole = sum(found.values())
        print(f"  all: {whole:.1f} s, {1000 * whole / count:.2f} ms a job, {1000 * busy / count:.2f} ms of CPU time")


if __name__ == "__main__":
    sys.exit(main())

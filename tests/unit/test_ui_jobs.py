"""The queue: one at a time, in order, each once; it outlives its server, and any number of visitors at once."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from erase.batch import worker
from erase.batch.worker import Ended, Worker
from erase.config import load_config
from erase.errors import InputError
from erase.runs import EventLog
from erase.ui.jobs import Jobs, Process
from erase.ui.roots import Roots

# A run's process without the run: it claims its folder, writes events, obeys SIGINT, and ends when told or by itself.
STUB = """
import json, os, signal, sys, time
from pathlib import Path
command, *words = sys.argv[1:]
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
if command == "eval":
    raise SystemExit(0)
folder = Path(words[1]) if words[0] == "--resume" else None
if folder is None:
    settings, folder = Path(words[0]).read_text(), Path(words[2])
    assert not list(folder.iterdir())
    (folder / "config.yaml").write_text(settings)
def say(**event):
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), **event}) + chr(10))
say(event="started", folder=str(folder), total=6, first=0, model="stub")
say(event="step", step=0, role="forget", loss=1.5, grad_norm=1.0, lr=1.0, seconds=0.1)
wait = Path(os.environ["STUB_GATE"])
while wait.exists() and not stopped:
    time.sleep(0.01)
if stopped:
    print("erase: error: stopped after round 1 of 3; go on with: erase run --resume X", file=sys.stderr)
    raise SystemExit(130)
if (wait.parent / "fail").exists():
    print("erase: error: the weights are broken", file=sys.stderr)
    raise SystemExit(1)
say(event="scored", scores=[{"name": "forget_accuracy", "arm": "after", "value": 0.1, "low": 0, "high": 0.2, "n": 9}])
say(event="finished", folder=str(folder), complete=True)
(folder / "DONE").write_text("now")
"""


class Stub(Worker):
    """A worker whose program is the stub."""


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    (tmp_path / "models").mkdir()
    return Roots.made(tmp_path / "models", tmp_path / "runs")


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Processes wait as long as this file is there."""
    path = tmp_path / "gate"
    path.write_text("")
    program = tmp_path / "stub.py"
    program.write_text(STUB)
    monkeypatch.setenv("STUB_GATE", str(path))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {program} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(worker.sys, "executable", str(python))
    return path


@pytest.fixture
def jobs(roots: Roots, gate: Path) -> Iterator[Jobs]:
    made = Jobs(roots)
    yield made
    made.close(timeout=5)


CONFIG = load_config(None, {"concept": "cat", "train.rounds": 3, "evaluate.skip": True})


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def running(jobs: Jobs, name: str) -> bool:
    return jobs.status(name).state == "running" and jobs.status(name).step == 1


def test_one_runs_and_the_others_wait_in_order(jobs: Jobs, gate: Path, roots: Roots):
    first, second, third = (jobs.submit(CONFIG) for _ in range(3))
    assert len({first, second, third}) == 3
    until(lambda: running(jobs, first))
    assert [jobs.status(n).place for n in (first, second, third)] == [0, 1, 2]
    status = jobs.status(first)
    assert (status.phase, status.step, status.total, status.losses) == ("training", 1, 6, {"forget": [(0, 1.5)]})
    assert [(info.name, info.state) for info in jobs.listing()][:2] == [(third, "queued"), (second, "queued")]
    jobs.stop(second)
    assert jobs.status(second).state == "stopped" and jobs.status(third).place == 1
    gate.unlink()
    until(lambda: jobs.status(third).state == "done")
    assert jobs.status(first).state == "done" and jobs.status(first).scores[0]["value"] == 0.1
    started = [path.stat().st_mtime_ns for path in (roots.runs / first / "DONE", roots.runs / third / "config.yaml")]
    assert started == sorted(started), "the third began before the first had ended"
    assert not (roots.runs / second / "config.yaml").exists(), "one that was taken out of the queue ran"


def test_a_form_sent_twice_is_one_run(jobs: Jobs, gate: Path):
    names = {jobs.submit(CONFIG, key="visitor 1, form 7") for _ in range(5)}
    assert len(names) == 1
    assert jobs.submit(CONFIG, key="visitor 2, form 7") not in names


def test_a_form_sent_again_after_stop_is_a_new_run(jobs: Jobs, gate: Path):
    first = jobs.submit(CONFIG, key="visitor 1, form 7")
    second = jobs.submit(CONFIG, key="visitor 2, form 7")
    jobs.stop(second)  # it waits, so it is stopped at once
    again = jobs.submit(CONFIG, key="visitor 2, form 7")
    assert again not in (first, second) and jobs.status(again).state == "queued"


def test_a_sensitive_run_is_marked_as_soon_as_it_has_its_folder(jobs: Jobs, gate: Path, roots: Roots):
    name, calm = jobs.submit(CONFIG, sensitive=True), jobs.submit(CONFIG)
    until(lambda: running(jobs, name))
    until(lambda: (roots.runs / name / "SENSITIVE").is_file(), 5)
    assert jobs.status(name).state == "running"
    gate.unlink()
    until(lambda: jobs.status(calm).state == "done")
    assert not (roots.runs / calm / "SENSITIVE").exists()


def test_a_stopped_run_goes_on_and_a_failed_one_says_why(jobs: Jobs, gate: Path):
    name = jobs.submit(CONFIG, sensitive=True)
    until(lambda: running(jobs, name))
    jobs.stop(name)
    jobs.stop(name)  # at once again: nothing new
    assert jobs.status(name).state in ("stopping", "stopped")
    until(lambda: jobs.status(name).state == "stopped")
    assert jobs.status(name).error == ""
    (gate.parent / "fail").write_text("")
    gate.unlink()
    assert jobs.resume(name) == name
    until(lambda: jobs.status(name).state == "failed")
    assert jobs.status(name).error == "the weights are broken" and jobs.status(name).sensitive
    (gate.parent / "fail").unlink()
    other = EventLog(jobs.roots.runs / name, None)  # as a command does that goes on with it
    for verb in (jobs.resume, jobs.delete):
        with pytest.raises(InputError, match="at work outside this server"):
            verb(name)
    del other
    jobs.resume(name)
    until(lambda: jobs.status(name).state == "done")
    with pytest.raises(InputError, match="finished"):
        jobs.resume(name)


def test_queue_and_runs_outlive_the_server(roots: Roots, gate: Path):
    dead = Jobs(roots)
    first, second = dead.submit(CONFIG), dead.submit(CONFIG)
    until(lambda: running(dead, first))
    with pytest.raises(InputError, match="another server"):
        Jobs(roots)
    kill_server(dead)
    heir = Jobs(roots)
    try:
        assert running(heir, first) and heir.status(second).place == 1, "the process goes on, the queue too"
        heir.stop(first)
        until(lambda: heir.status(first).state == "stopped")
        gate.unlink()
        until(lambda: heir.status(second).state == "done")
        heir.resume(first)
        until(lambda: heir.status(first).state == "done")
    finally:
        heir.close()


def test_a_run_whose_process_died_with_the_server_is_stopped(roots: Roots, gate: Path):
    dead = Jobs(roots)
    name = dead.submit(CONFIG)
    until(lambda: running(dead, name))
    process = dead._processes[name]
    kill_server(dead)
    process.kill()
    until(lambda: process.poll() is not None)
    heir = Jobs(roots)
    try:
        until(lambda: heir.status(name).state == "stopped")
        (roots.jobs / name / "job.json").write_text("{damaged")
    finally:
        heir.close()
    again = Jobs(roots)
    try:
        assert again.status(name).state == "stopped", "a damaged record hides no run"
        gate.unlink()
    finally:
        again.close()


def kill_server(jobs: Jobs) -> None:
    """As SIGKILL would: no goodbye to its processes; its lock is free, its threads are gone."""

    with jobs._change:
        jobs._closing = True
        jobs._change.notify_all()
    jobs._thread.join()
    os.close(jobs._held)


def test_closing_stops_what_runs_and_keeps_the_queue(roots: Roots, gate: Path):
    jobs = Jobs(roots)
    first, second = jobs.submit(CONFIG), jobs.submit(CONFIG)
    until(lambda: running(jobs, first))
    process = jobs._processes[first]
    jobs.close(timeout=10)
    assert process.poll() is not None, "a process was left behind"
    states = {p.parent.name: json.loads(p.read_text())["state"] for p in roots.jobs.glob("*/job.json")}
    assert states == {first: "stopped", second: "queued"}
    with pytest.raises(InputError, match="stopped"):
        jobs.submit(CONFIG)


def test_closing_lets_a_stopping_run_save_what_it_has(roots: Roots):
    """Told to stop, it is not told again: a second time would end it without saving."""
    process = Slow()
    jobs = Jobs(roots, start=lambda arguments, log, held: process)
    name = jobs.submit(CONFIG)
    until(lambda: jobs.status(name).state == "running")
    jobs.stop(name)
    with jobs._change:  # as if it was long ago
        jobs._records[name] = replace(jobs._records[name], asked=0.0)
    threading.Timer(0.3, process.over.set).start()
    jobs.close(timeout=10)
    assert process.stops == 1 and process.kills == 0


def test_a_third_stop_kills(roots: Roots):
    process = Slow()
    jobs = Jobs(roots, start=lambda arguments, log, held: process)
    name = jobs.submit(CONFIG)
    until(lambda: jobs.status(name).state == "running")
    seen = []
    for _ in range(3):
        jobs.stop(name)
        jobs.stop(name)  # at once again: nothing new
        seen.append((process.stops, process.kills))
        with jobs._change:  # as if it was long ago
            jobs._records[name] = replace(jobs._records[name], asked=0.0)
    assert seen == [(1, 0), (2, 0), (2, 1)]
    process.over.set()
    jobs.close()


def test_a_process_that_cannot_be_looked_at_does_not_end_the_queue(roots: Roots, capsys: pytest.CaptureFixture[str]):
    """It keeps its place, is looked at again, and the log has why, once."""
    process = Slow()
    process.trouble = InputError("cannot write the lock")
    jobs = Jobs(roots, start=lambda arguments, log, held: process)
    try:
        name = jobs.submit(CONFIG)
        until(lambda: process.looks > 3)
        assert jobs.status(name).state == "running" and jobs._thread.is_alive()
        process.trouble = None
        process.over.set()
        until(lambda: jobs.status(name).state == "stopped")
        assert capsys.readouterr().err.count("InputError: cannot write the lock") == 1
    finally:
        jobs.close()


def test_comparing_waits_for_the_run_and_goes_before_queued_ones(jobs: Jobs, gate: Path):
    first, second = jobs.submit(CONFIG), jobs.submit(CONFIG)
    until(lambda: running(jobs, first))
    places, seen = [], []

    def compare() -> None:
        with jobs.turn(places.append):
            seen.append((jobs.status(first).state, jobs.status(second).state))

    thread = threading.Thread(target=compare)
    thread.start()
    until(lambda: places)
    assert places == [1] and not seen
    gate.unlink()
    thread.join(20)
    assert seen == [("done", "queued")] and places == [1, 0]
    until(lambda: jobs.status(second).state == "done")


def test_only_what_rests_is_deleted(jobs: Jobs, gate: Path, roots: Roots):
    first, second = jobs.submit(CONFIG), jobs.submit(CONFIG)
    until(lambda: running(jobs, first))
    with pytest.raises(InputError, match="stop it first"):
        jobs.delete(first)
    jobs.delete(second)
    gate.unlink()
    until(lambda: jobs.status(first).state == "done")
    later = roots.runs / "later"
    later.mkdir()
    (later / "config.yaml").write_text(f"model: {roots.runs / first}\nconcept: dog\n")
    with pytest.raises(InputError, match="later"):
        jobs.delete(first)
    jobs.delete("later")
    jobs.delete(first)
    assert jobs.listing() == [] and [p.name for p in roots.runs.iterdir()] == [".ui"]
    assert [path.name for path in roots.jobs.iterdir()] == [".lock"]
    for name in (first, "../models", ".ui", "a/b", ""):
        with pytest.raises(InputError):
            jobs.delete(name)


def test_a_run_whose_folder_was_removed_is_forgotten(roots: Roots):
    jobs = Jobs(roots, start=Nothing)
    try:
        names = [jobs.submit(CONFIG) for _ in range(3)]
        until(lambda: all(info.state == "done" for info in jobs.listing()))
        for name in names[:2]:
            shutil.rmtree(roots.runs / name)
        jobs.delete(names[0])
        assert {info.name for info in jobs.listing()} == set(names[1:])
        with pytest.raises(InputError, match="does not exist"):
            jobs.delete(names[0])
    finally:
        jobs.close()
    aside = roots.runs / f".gone-{names[1]}-1"  # a server that died while it deleted
    aside.mkdir()
    heir = Jobs(roots, start=Nothing)
    try:
        assert [info.name for info in heir.listing()] == [names[2]]
        assert not (roots.jobs / names[1]).exists() and not aside.exists()
    finally:
        heir.close()


def test_a_run_of_the_command_line_is_taken_up_if_nobody_else_has_it(jobs: Jobs, gate: Path, roots: Roots):
    gate.unlink()
    for name, model in (("busy", "world"), ("foreign", "/etc"), ("begun", "world")):
        (roots.runs / name).mkdir()
        (roots.runs / name / "config.yaml").write_text(f"model: {model}\nconcept: cat\n")
    assert {info.name: (info.state, info.concept) for info in jobs.listing()}["begun"] == ("stopped", "cat")
    (roots.runs / "busy" / "events.jsonl").write_text("")
    for name, words in (("busy", "outside this server"), ("foreign", "outside this server's models")):
        with pytest.raises(InputError, match=words):
            jobs.resume(name)
    with pytest.raises(InputError, match="outside this server"):
        jobs.delete("busy")
    jobs.resume("begun")
    until(lambda: jobs.status("begun").state == "done")


class Slow:
    """A process that ends, stopped, when it is let; it counts what it is told."""

    pid, stops, kills, looks = 0, 0, 0, 0
    trouble: Exception | None = None

    def __init__(self) -> None:
        self.over = threading.Event()

    def poll(self) -> Ended | None:
        self.looks += 1
        if self.trouble:
            raise self.trouble
        return Ended(130) if self.over.is_set() else None

    def stop(self) -> None:
        self.stops += 1

    def kill(self) -> None:
        self.kills += 1
        self.over.set()


def test_a_full_queue_says_so(roots: Roots, gate: Path):
    jobs = Jobs(roots, most=2)
    try:
        running_now = jobs.submit(CONFIG)
        until(lambda: running(jobs, running_now))
        jobs.submit(CONFIG), jobs.submit(CONFIG)
        with pytest.raises(InputError, match="2 runs are queued"):
            jobs.submit(CONFIG)
        assert len(jobs.listing()) == 3, "the refused run left a folder"
    finally:
        jobs.close()


class Nothing:
    """A process that ends as soon as it is looked at."""

    pid = 0

    def __init__(self, arguments: list[str], log: Path, held: Sequence[int]) -> None:
        folder = Path(arguments[3])
        (folder / "config.yaml").write_text(Path(arguments[1]).read_text())
        (folder / "DONE").write_text("now")

    def poll(self) -> Ended:
        return Ended(0)

    def stop(self) -> None: ...
    def kill(self) -> None: ...


def test_fifty_visitors_at_once_lose_no_run(roots: Roots):
    """Each submits, looks, stops and lists; afterwards every run ended once, and memory did not grow meanwhile."""
    started: list[str] = []

    def start(arguments: list[str], log: Path, held: Sequence[int]) -> Process:
        started.append(arguments[1])
        return Nothing(arguments, log, held)

    jobs = Jobs(roots, most=10_000, concurrency=20, start=start)
    names: list[str] = []
    errors: list[BaseException] = []
    submitted, over = threading.Barrier(51), threading.Event()

    def visit(number: int) -> None:
        try:
            own: list[str] = []
            for form in range(2):
                own.append(jobs.submit(CONFIG, key=f"{number} {form}"))
                assert jobs.submit(CONFIG, key=f"{number} {form}") == own[-1]
                look(own, number)
            names.extend(own)
            submitted.wait(60)
            while not over.is_set():
                look(own, number)
        except BaseException as error:
            errors.append(error)
            submitted.abort()

    def look(own: list[str], number: int) -> None:
        for name in own:
            assert jobs.status(name).state in ("queued", "running", "stopping", "done", "stopped")
        if number % 10 == 0:
            jobs.stop(own[-1])
            assert {info.name for info in jobs.listing()} >= set(own)
        time.sleep(0.05)

    threads = [threading.Thread(target=visit, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    submitted.wait(60)
    until(lambda: all(jobs.status(name).state in ("done", "stopped") for name in names), 60)
    jobs.listing()
    tracemalloc.start()
    try:
        time.sleep(1.5)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    over.set()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert len(names) == len(set(names)) == 100
    assert len(started) == len(set(started)), "a run was started twice"
    states = [info.state for info in jobs.listing()]
    assert states.count("done") == len(started) and len(states) == 100
    assert grown < 3e6
    jobs.close()

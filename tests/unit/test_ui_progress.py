"""What a run's events say, of long runs too, of resumed ones, and of damaged lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erase.ui.progress import KEPT, MOST, Progress, Watch


def say(folder: Path, *events: dict) -> None:
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def step(round: int, role: str = "forget", time: float = 0.0) -> dict:
    return {"event": "step", "step": round, "role": role, "loss": float(round), "time": time}


def test_a_long_curve_stays_short_and_keeps_its_ends(tmp_path: Path):
    say(tmp_path, {"event": "started", "total": 10_000, "time": 0}, *(step(n, time=n / 4) for n in range(5000)))
    found = Progress(tmp_path).update()
    points = found.curves["forget"].shown()
    assert MOST / 2 <= len(points) <= MOST and points[0] == (0, 0.0) and points[-1] == (4999, 4999.0)
    rounds = [round for round, _ in points]
    assert rounds == sorted(set(rounds))
    assert (found.phase, found.step, found.total) == ("training", 5000, 10_000)
    assert found.speed == pytest.approx(4.0) and found.seconds_left == pytest.approx(1250.0)


def test_a_resumed_run_draws_no_round_twice(tmp_path: Path):
    say(tmp_path, {"event": "started", "total": 8}, *(step(n) for n in range(6)))
    progress = Progress(tmp_path).update()
    say(tmp_path, {"event": "started", "total": 4, "first": 4}, step(4), step(5), step(6))
    progress.update()
    assert [round for round, _ in progress.curves["forget"].shown()] == [0, 1, 2, 3, 4, 5, 6]
    assert (progress.step, progress.total) == (3, 4)


def test_a_stopped_run_shows_how_far_it_came(tmp_path: Path):
    say(tmp_path, {"event": "started", "total": 8}, step(0), step(1), {"event": "finished", "complete": False})
    stopped = Progress(tmp_path).update()
    assert (stopped.phase, stopped.step, stopped.total, stopped.complete) == ("training", 2, 8, False)
    say(tmp_path, {"event": "finished", "complete": True})
    done = stopped.update()
    assert (done.phase, done.step, done.total, done.complete) == ("done", 8, 8, True)


def test_other_phases_count_for_themselves(tmp_path: Path):
    events = [{"event": "progress", "what": "sampling before", "done": n, "total": 40, "time": n} for n in (10, 20)]
    say(tmp_path, {"event": "started", "total": 2}, step(0), *events)
    found = Progress(tmp_path).update()
    assert (found.phase, found.step, found.total, found.speed, found.seconds_left) == ("sampling before", 20, 40, 1, 20)


def test_lines_that_make_no_sense_are_passed_over(tmp_path: Path):
    say(tmp_path, {"event": "started", "total": "many"}, {"event": "step", "step": 1}, {"event": "scored", "scores": 3})
    say(tmp_path, {"event": "step", "step": 1, "role": "forget", "loss": None, "time": "late"}, {"event": "warned"})
    (tmp_path / "events.jsonl").open("a").write('[1]\n{"event": 3}\n\x00\n{"event": "warned", "text": "half a li')
    found = Progress(tmp_path).update()
    assert found.curves == {} and found.scores == [] and list(found.warnings) == []


def test_few_runs_are_remembered(tmp_path: Path):
    watch = Watch()
    for number in range(KEPT + 10):
        watch(tmp_path / str(number))
    assert len(watch._held) == KEPT

"""A command in a process of its own: how it ends, what it says of it, and what its events add."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from erase.batch.worker import Ended, Worker, last_error, tail
from erase.errors import InputError


def test_a_worker_ends_with_its_code_and_last_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the package is found from anywhere
    good = Worker(["check", "--concept", "dog"], tmp_path / "logs" / "good.log")
    bad = Worker(["check", "--method", "esdd"], tmp_path / "bad.log")
    assert good.wait(60) == Ended(0, "")
    assert "name: dog" in good.log.read_text()
    found = bad.wait(60)
    assert found and found.code == 2 and found.error.startswith("method.name: 'esdd' is not one of"), found
    assert not found.stopped
    # Another command with the same log: the error of the one before is not its own.
    assert Worker(["check"], tmp_path / "bad.log").wait(60) == Ended(0, "")


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Ctrl-C is not ignored, as it would be by what a shell started in the background: workers inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def begun(log: Path, **more: object) -> Worker:
    """A worker that is at work: a run, importing what it needs."""
    worker = Worker(["run", "--output", str(log.parent / "run"), "--device", "cpu"], log, **more)  # type: ignore[arg-type]
    time.sleep(0.3)
    assert worker.poll() is None and worker.wait(0.01) is None
    return worker


def test_a_worker_is_killed_or_stopped_and_has_its_own_session(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    worker = begun(tmp_path / "a.log", held=[lock])
    assert os.getsid(worker.pid) == worker.pid
    os.close(lock)
    other = os.open(tmp_path / "lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):  # it holds the lock although this process let go of it
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    worker.kill()
    assert worker.wait(10) == Ended(-signal.SIGKILL, "ended by SIGKILL (memory ran out?)")
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    worker.kill()  # one that has ended is left alone
    stopped = begun(tmp_path / "b.log")
    stopped.stop()
    ended = stopped.wait(30)
    assert ended and ended.stopped, ended


def test_the_environment_is_laid_over_ours(tmp_path: Path) -> None:
    worker = Worker(["check"], tmp_path / "log", {"PYTHONVERBOSE": "1"})
    assert worker.wait(60) == Ended(0)
    assert "# cleanup" in worker.log.read_text()


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot start a worker with the log"):
        Worker(["check"], tmp_path / "file" / "log")


@pytest.mark.parametrize(
    ("said", "code", "error"),
    [
        ("training: 1%\rtraining: 2%\nerase: error: disk full\n", 1, "disk full"),
        ("erase: error: 2 problems\n  a: bad\n  b: bad\n", 2, "2 problems a: bad b: bad"),
        ("Traceback\nMemoryError: \x1b[31mx\n", 1, "MemoryError: \\x1b[31mx"),
        ("", 3, "ended with code 3"),
        ("a" * 5000 + "z" * 4999, 1, "a" * 247 + " ... " + "z" * 247),  # the end says what to do next
        ("half a line", -11, "ended by SIGSEGV"),
        ("half a line", -35, "ended by signal 35"),  # the system gives it no name
        ("erase: error: of no matter\n", 0, ""),
    ],
)
def test_the_last_error_of_a_log(said: str, code: int, error: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n" * 100_000 + said)
    assert last_error(tmp_path / "log", code) == error
    if not said:
        assert last_error(tmp_path / "none", code) == error


def test_a_tail_takes_whole_lines_and_goes_on_behind_them(tmp_path: Path) -> None:
    assert tail(tmp_path, 0) == ([], 0)
    path = tmp_path / "events.jsonl"
    one, two = ({"event": "step", "step": n} for n in (1, 2))
    path.write_text(json.dumps(one) + "\nbroken\n[1]\n" + json.dumps(two)[:8])
    found, offset = tail(tmp_path)
    assert found == [one] and tail(tmp_path, offset) == ([], offset)
    with path.open("a") as file:
        file.write(json.dumps(two)[8:] + "\n")
    assert tail(tmp_path, offset) == ([two], path.stat().st_size)
    path.write_text(json.dumps(two) + "\n")
    assert tail(tmp_path, offset)[0] == [two]
    assert tail(tmp_path, -1)[0] == [two]

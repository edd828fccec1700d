"""A batch with real workers: stopped and gone on with, killed, and two at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from erase.batch.place import Place, claimed, history
from erase.cli import main
from tests.integration.conftest import begin_batch, until

JOBS = ["cat-esd-dual-s0", "dog-esd-dual-s0", "fox-esd-dual-s0"]
Stopped = tuple[Path, "subprocess.CompletedProcess[str]"]


def test_a_stopped_batch_goes_on_and_is_done_once(
    matrix: Path, stopped_batch: Stopped, capsys: pytest.CaptureFixture[str]
) -> None:
    output, said = stopped_batch
    assert said.returncode == 130, said.stderr
    assert (
        f"erase: error: stopped; 0 of 3 jobs are done; go on with: erase batch {matrix} --output {output}"
        in said.stderr
    )
    begun = [path.parent.name for path in output.glob("*/config.yaml")]
    assert begun and "fox-esd-dual-s0" not in begun and not list(output.glob("*/DONE"))
    kept = sorted(output.glob("*/checkpoint/state-*.pt"), key=lambda path: path.name)
    first = kept[-1].parent.parent.name  # furthest; another may have been stopped before round 1
    assert main(["batch", str(matrix), "--output", str(output), "--cpus-per-job", "1", "--workers", "2"]) == 0
    assert [name for name in JOBS if not (output / name / "DONE").is_file()] == []
    assert not list(output.glob("*/checkpoint"))  # of no use any more, and the largest part of a run
    starts = [line for line in (output / first / "events.jsonl").read_text().splitlines() if '"started"' in line]
    assert len(starts) == 2 and json.loads(starts[1])["first"] >= 1  # it went on, and did not begin anew
    assert sorted(attempt.job for attempt in history(Place(output)) if attempt.code == 0) == JOBS
    page = (output / "report.html").read_text()
    assert "3 runs: 3 done." in page and page.count("data:image/png;base64,") >= 6
    before = {path: path.stat().st_mtime_ns for path in output.glob("*-s0/*")}
    assert main(["batch", str(matrix), "--output", str(output)]) == 0
    assert {path: path.stat().st_mtime_ns for path in output.glob("*-s0/*")} == before
    assert "about" not in capsys.readouterr().err
    (output / JOBS[0] / "DONE").unlink()
    assert main(["batch", str(matrix), "--output", str(output), "--dry-run"]) == 0
    assert f"{JOBS[0]}  to go on with, about " in capsys.readouterr().out


def test_the_workers_of_a_killed_batch_end_with_it(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    begun = begin_batch(matrix, output)
    until(lambda: begun.poll() is not None or (output / ".batch" / "logs" / f"{JOBS[0]}.log").exists())
    assert main(["batch", str(matrix), "--output", str(output)]) == 2
    said = capsys.readouterr().err
    assert f"{output} is being worked on by another erase batch (process {begun.pid} of {os.uname().nodename})" in said
    begun.send_signal(signal.SIGKILL)
    begun.communicate()

    def free() -> bool:
        try:
            with claimed(output):  # the worker holds the lock as long as it lives
                return True
        except Exception:
            return False

    until(free, 20)

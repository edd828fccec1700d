"""Runs that are killed at random moments and resumed end as the run that was left alone, to the bit.

Run: pytest tests/integration/test_kill.py --kills 50
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from erase import runs
from erase.runtime import file_hash
from tests.integration.conftest import build_tiny

SETTINGS = (
    "train.rounds=40", "train.batch=2", "train.pool.forget=4", "train.pool.retain=4", "train.pool.steps=3",
    "train.checkpoint_every=1", "train.preview_every=4", "evaluate.steps=2",
)  # fmt: skip


def begin(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "erase", "run", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny().pipeline().save_pretrained(folder)
    flags = ["--model", str(folder), "--concept", "cat", "--keep", "dog,fox"]
    return flags + [part for text in SETTINGS for part in ("--set", text)]


def test_a_run_killed_at_any_moment_ends_as_one_left_alone(
    given: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    started = time.monotonic()
    straight = begin(*given, "--output", str(tmp_path / "straight"))
    while not (tmp_path / "straight" / runs.CONFIG).exists() and straight.poll() is None:
        time.sleep(0.01)
    imports = time.monotonic() - started
    assert straight.wait(120) == 0, straight.stderr and straight.stderr.read().decode()
    work = time.monotonic() - started - imports
    wanted = file_hash(tmp_path / "straight" / runs.MODEL)
    rng, stages = random.Random(0), set()
    for number in range(request.config.getoption("--kills")):
        folder = tmp_path / f"run{number}"
        first = begin(*given, "--output", str(folder))
        # One of eight dies before it has a folder, the others while they sample, train, save or report.
        time.sleep(rng.uniform(0, imports) if number % 8 == 7 else imports + rng.uniform(0, work))
        first.kill()
        first.wait()
        stages.add(stage(folder))
        # Killed before its configuration was written there is no run yet: the same command begins it.
        again = ["--resume", str(folder)] if (folder / runs.CONFIG).exists() else [*given, "--output", str(folder)]
        second = begin(*again)
        assert second.wait(120) == 0, (number, stage(folder), second.stderr and second.stderr.read().decode())
        assert file_hash(folder / runs.MODEL) == wanted, number
        assert (folder / runs.DONE).exists() and json.loads((folder / runs.REPORT).read_text())["guards"]
        left = [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
        assert left == [], number
    print(f"killed {sorted(stages)}")


def stage(folder: Path) -> str:
    """How far a run had come."""
    for name in (runs.DONE, runs.REPORT, runs.MODEL, runs.CHECKPOINTS, runs.CONFIG):
        if (folder / name).exists():
            return f"with {name}"
    return "before its folder" if not folder.exists() else "in an empty folder"

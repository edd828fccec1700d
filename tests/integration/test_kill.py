"""Runs that are killed at random moments and resumed end as the run that was left alone, to the bit.

Run: pytest tests/integration/test_kill.py --kills 50
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from erase import runs
from erase.runtime import file_hash
from tests.integration.conftest import build_tiny

# Between them: weights and a LoRA, UNet and text encoder, an adversary's state, masks, each optimizer, 8-bit states,
# pools that are sampled anew, and an edit that trains nothing.
KINDS = {
    "esd": ("train.pool.refresh=15", "train.forget.schedule=cosine"),
    "advunlearn": ("method=advunlearn", "method.rank=2", "train.states=8bit", "method.attack_from=0.0"),
    "salun": ("method=salun", "method.parameters=xattn", "train.optimizer=joint"),
    "sfron": ("method=sfron", "method.parameters=xattn", "train.optimizer=dual_plus", "train.pool.refresh=15"),
    "uce": ("method=uce",),
}
SETTINGS = (
    "train.rounds=40", "train.batch=2", "train.pool.forget=4", "train.pool.retain=4", "train.pool.steps=3",
    "train.checkpoint_every=1", "train.preview_every=4", "evaluate.steps=2",
)  # fmt: skip


def begin(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "erase", "run", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny().pipeline().save_pretrained(folder)
    return folder


@dataclass
class Straight:
    """A run that was left alone: its flags, its tensors' hash, and the seconds until it had a folder and in all."""

    flags: list[str]
    wanted: str
    imports: float
    whole: float


def straight(model: Path, kind: str, folder: Path) -> Straight:
    settings = [text for text in (*SETTINGS, *KINDS[kind]) if kind != "uce" or not text.startswith("train.")]
    flags = ["--model", str(model), "--concept", "cat", "--keep", "dog,fox"]
    flags += [part for text in settings for part in ("--set", text)]
    started = time.monotonic()
    run = begin(*flags, "--output", str(folder))
    while not (folder / runs.CONFIG).exists() and run.poll() is None:
        time.sleep(0.01)
    imports = time.monotonic() - started
    assert run.wait(120) == 0, run.stderr and run.stderr.read().decode()
    return Straight(flags, file_hash(folder / runs.MODEL), imports, time.monotonic() - started)


def test_a_run_killed_at_any_moment_ends_as_one_left_alone(
    model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rng, stages, alone = random.Random(0), set(), dict[str, Straight]()
    for number in range(request.config.getoption("--kills")):
        kind = list(KINDS)[number % len(KINDS)]
        if kind not in alone:
            alone[kind] = straight(model, kind, tmp_path / kind)
        one, folder = alone[kind], tmp_path / f"run{number}"
        first = begin(*one.flags, "--output", str(folder))
        # One of eight dies before it has a folder, the others while they sample, train, save or report.
        time.sleep(rng.uniform(0, one.imports) if number % 8 == 7 else rng.uniform(one.imports, one.whole))
        first.kill()
        first.wait()
        stages.add(stage(folder))
        # Killed before its configuration was written there is no run yet: the same command begins it.
        again = ["--resume", str(folder)] if (folder / runs.CONFIG).exists() else [*one.flags, "--output", str(folder)]
        second = begin(*again)
        assert second.wait(120) == 0, (number, stage(folder), second.stderr and second.stderr.read().decode())
        assert file_hash(folder / runs.MODEL) == one.wanted, (number, kind)
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

"""Two processes at one run, on the CPU over 127.0.0.1: they agree with each other, and with one process.

All that they do is done once, by two_processes.py; the command line under a launcher is tried apart.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from erase import runs, workflow
from erase.config import load_config
from erase.distributed import ALONE, Group
from erase.evaluation.rows import read_rows
from erase.methods import Options
from erase.prepare import load_run, stored_config
from erase.sampling import Shot, sample
from erase.training import PoolPlan, RolePlan, TrainPlan, train
from tests.integration.conftest import build_tiny
from tests.integration.test_methods import make

ROOT = Path(__file__).parents[2]
POOL = PoolPlan(forget=6, retain=4, steps=2, batch=2, refresh=1)
SGD = (RolePlan("sgd", lr=0.05, clip=0.01), RolePlan("sgd", lr=0.05))
# Method, parameters, micro-batch, micro-batches a step, other settings of a session.
CASES: dict[str, tuple[str, str, int, int, dict[str, Any]]] = {
    "rows": ("esd", "xattn", 4, 1, {"roles": SGD}),
    "micro-batches": ("npo", "xattn", 3, 2, {"roles": SGD}),
    "adam": ("esd", "xattn", 2, 1, {}),
    "mask": ("salun", "xattn", 2, 1, {"optimizer": "joint", "options": Options(mask_share=0.5)}),
    "adversary": ("advunlearn", "text-encoder", 2, 2, {"options": Options(attack_from=0.0)}),
}
PICTURES = [Shot(f"a {name}", name, 0) for name in ("cat", "dog", "fox", "pig", "owl")]
PROMPTS = ["a cat", "a dog", "a fox"]
WORLD = {
    "model": "world",
    "concept": "frog",
    "device": "cpu",
    "train.rounds": 2,
    "train.batch": 2,
    "train.pool.forget": 4,
    "train.pool.retain": 4,
    "train.pool.steps": 3,
    "train.preview_every": 1,
    "evaluate.prompts": 3,
    "evaluate.steps": 2,
}
PLAIN = {**WORLD, "train.preview_every": 0, "evaluate.skip": True, "evaluate.steps": 2}
EDIT = {"model": "world", "concept": "frog", "method": "uce", "device": "cpu", "method.keep_prompts": 20}
EDIT = {**EDIT, "evaluate.skip": True, "evaluate.steps": 2}


def trained(name: str, group: Group = ALONE) -> dict[str, Any]:
    """Two rounds of a case on the tiny model: its weights before and after, losses and norms, its pools and mask."""
    method, parameters, batch, accumulate, settings = CASES[name]
    session = make(build_tiny(), method, parameters, batch=batch, pool=POOL, group=group, **settings)
    pool, mask, steps = session.pools["forget"].clean.clone(), session.mask, []
    before = {key: value.clone() for key, value in session.trained.tensors().items()}
    plan = TrainPlan(rounds=2, accumulate=accumulate, preview_every=0, checkpoint_every=0)
    nothing = SimpleNamespace(save=lambda round: None).save
    train(
        session, plan, on_event=steps.append, should_stop=lambda: False, save=nothing, preview=nothing
    )  # fmt: skip
    after = {key: value.clone() for key, value in session.trained.tensors().items()}
    seen = [(step.loss, step.grad_norm) for step in steps]
    prefix = session.attack.state() if session.attack else []
    return {"before": before, "after": after, "seen": seen, "pool": pool, "mask": mask, "prefix": prefix}


def off(one: dict[str, Any], other: dict[str, Any], before: dict[str, Any]) -> float:
    """How far two ends lie apart, as a part of the way from the start."""
    flat = [torch.cat([values[name].float().flatten() for name in before]) for values in (one, other, before)]
    return float((flat[1] - flat[0]).norm() / (flat[0] - flat[2]).norm())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def one(place: Path) -> Path:
    """The world's run by one process."""
    return workflow.erase(load_config(None, {**WORLD, "output": str(place / "one")}))


@pytest.fixture(scope="module")
def two(place: Path, one: Path) -> list[dict[str, Any]]:
    """What both processes saw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "tests.integration.two_processes", str(place)]
    here = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2"}
    here |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            words, cwd=ROOT, env={**here, "RANK": str(i), "LOCAL_RANK": str(i)}, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    try:
        said = [process.communicate(timeout=1500)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    return [torch.load(place / f"seen-{i}.pt", weights_only=False) for i in range(2)]


def test_processes_tell_each_other_what_they_should(two: list[dict[str, Any]]) -> None:
    assert [seen["group"] for seen in two] == [(0, 2), (1, 2)]
    for seen in two:
        talk = seen["talk"]
        assert talk["any"] == [False, True]
        assert talk["mean"] == 0.5
        assert [value.tolist() for value in talk["average"]] == [[0.5] * 3, [[5.0, 5.0], [5.0, 5.0]]]
        assert talk["spread"].tolist() == [True, True]
        assert talk["same"] == [True, False]
        assert talk["gather"] == ["from 0", "from 1"]
        assert (talk["main"], talk["error"]) == ("from 0", "refused")


@pytest.mark.parametrize("name", CASES)
def test_both_end_with_the_same_weights_and_as_one_process_does(name: str, two: list[dict[str, Any]]) -> None:
    first, second = (seen["trained"][name] for seen in two)
    alone = trained(name)
    for key, value in first["after"].items():
        assert torch.equal(value, second["after"][key]), key
        assert torch.equal(first["before"][key], alone["before"][key]), key
    assert first["seen"] == second["seen"]
    # Early retain losses are squares of what is left of two nearly equal predictions, most of it float32's rounding.
    for begin, rel in ((0, 1e-4), (1, 1e-2)):
        assert np.array(first["seen"])[begin::2] == pytest.approx(np.array(alone["seen"])[begin::2], rel=rel)
    assert torch.allclose(first["pool"], alone["pool"], atol=1e-4)
    assert torch.equal(first["pool"], second["pool"])
    for prefix, other, same in zip(first["prefix"], alone["prefix"], second["prefix"], strict=True):
        assert torch.equal(prefix, same) and torch.allclose(prefix, other, atol=1e-5)
    if name == "mask":
        assert all(torch.equal(value, second["mask"][key]) for key, value in first["mask"].items())
    print(name, off(alone["after"], first["after"], alone["before"]))
    assert off(alone["after"], first["after"], alone["before"]) < (1e-4 if name in ("rows", "micro-batches") else 2e-2)


def test_pictures_are_those_of_one_process_in_order(two: list[dict[str, Any]]) -> None:
    alone = sample(build_tiny(), PICTURES, steps=2, batch=2)
    for seen in two:
        assert len(seen["pictures"]) == len(alone)
        assert all(np.array_equal(a, b) for a, b in zip(seen["pictures"], alone, strict=True))
        assert seen["lost"] == ("EraseError: NaN or infinity in the latents of 'a fox'; the model's weights are broken")


def near(one: Path, other: Path) -> bool:
    """Whether two pictures differ by rounding alone: few pictures are batched otherwise by two processes."""
    levels = [np.asarray(Image.open(path)).astype(int) for path in (one, other)]
    return levels[0].shape == levels[1].shape and int(np.abs(levels[0] - levels[1]).max()) <= 2


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / runs.MODEL)


def test_a_run_of_the_world_is_the_one_of_a_single_process(place: Path, one: Path, two: list[dict[str, Any]]) -> None:
    ends = weights(one), weights(place / "two")
    before = load_run(one, stored_config(one), torch.device("cpu"))[1]["before"]
    assert off(*ends, before) < 2e-2
    assert (place / "two" / runs.CONFIG).read_text() == (one / runs.CONFIG).read_text()
    kinds = [[(e["event"], e.get("step"), e.get("role")) for e in runs.read_events(f) if e["event"] != "progress"]
             for f in (one, place / "two")]  # fmt: skip
    assert kinds[0][-1][0] == "finished" and kinds[1][: len(kinds[0])] == kinds[0]  # it was judged again afterwards
    assert two[0]["events"] > 10 and two[1]["events"] == 0  # one speaks
    rows = [read_rows(folder / runs.ROWS) for folder in (one, place / "two")]
    same = ("role", "prompt_id", "seed", "noise_sha")
    keep = [[{k: v for k, v in row.items() if k in same} for row in found] for found in rows]
    assert keep[0] == keep[1]
    for path in sorted((one / "images" / "before").iterdir()):
        assert near(path, place / "two" / "images" / "before" / path.name)
    assert not list((place / "two").rglob(".*"))


def test_a_stop_asked_of_one_process_stops_both_at_the_same_round(place: Path, two: list[dict[str, Any]]) -> None:
    assert two[0]["stopped"] == two[1]["stopped"]
    assert "after round 1 of 2" in two[0]["stopped"]
    assert (place / "stopped" / runs.DONE).is_file()


def test_any_number_of_processes_goes_on_with_a_run(place: Path, one: Path, two: list[dict[str, Any]]) -> None:
    straight = weights(place / "two")
    workflow.resume(place / "alone")
    before = load_run(one, stored_config(one), torch.device("cpu"))[1]["before"]
    # Begun by two, gone on with by two: to the bit. Ended by one: up to rounding.
    assert all(torch.equal(value, weights(place / "stopped")[name]) for name, value in straight.items())
    assert 0 < off(straight, weights(place / "alone"), before) < 2e-2


def test_judging_pictures_and_edits_are_shared(place: Path, one: Path, two: list[dict[str, Any]]) -> None:
    assert two[0]["scores"] > 0 and two[1]["scores"] == 0
    assert two[0]["drawn"] == two[1]["drawn"]
    drawn = workflow.generate(str(place / "two"), PROMPTS, [0], place / "drawn-alone", steps=2)
    for path, other in zip(two[0]["drawn"], drawn, strict=True):
        assert near(path, other)
    assert json.loads((place / "uce" / runs.GUARDS).read_text())["changed_tensors"] > 0
    assert (place / "uce" / runs.DONE).is_file()


def test_a_batch_that_does_not_divide_is_refused_before_a_folder_is_made(
    place: Path, two: list[dict[str, Any]]
) -> None:
    for seen in two:
        assert seen["refused"] == (
            "train.batch 3 and train.accumulate 1 cannot be divided among 2 processes: it is the batch of all "
            "together; use --set train.batch=4, or another number of processes"
        )
    assert not (place / "odd").exists()


def launch(launcher: list[str], words: list[str], place: Path) -> subprocess.Popen[str]:
    """A launcher's command in a session of its own, as a terminal's Ctrl-C would find it."""
    here = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "-m", "erase", *words],
        cwd=place,
        env=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def flags(settings: dict[str, Any]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def test_torchrun_and_ctrl_c_leave_a_run_that_can_be_gone_on_with(tmp_path: Path) -> None:
    settings = {**PLAIN, "train.rounds": 100_000, "output": "run"}
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = launch(torchrun, ["run", *flags(settings)], tmp_path)
    try:
        until = time.monotonic() + 300
        log = tmp_path / "run" / runs.EVENTS
        while not (log.is_file() and '"step"' in log.read_text()):
            assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert (
        len(re.findall(r"erase: error: stopped after round \d+ of 100000; go on with: erase run --resume run", said))
        == 1
    )
    assert said.count("erase: error:") == 1 and said.count("model: ") == 1
    (kept,) = runs.checkpoints(tmp_path / "run")
    steps = [e["step"] for e in runs.read_events(tmp_path / "run") if e["event"] == "step"]
    assert int(kept.stem.removeprefix("state-")) == max(steps) + 1
    assert not (tmp_path / "run" / runs.DONE).exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left


def test_accelerate_says_once_what_is_wrong(tmp_path: Path) -> None:
    accelerate = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    process = launch(accelerate, ["run", *flags({**PLAIN, "train.batch": 3, "output": "run"})], tmp_path)
    out, said = process.communicate(timeout=300)
    assert process.returncode != 0 and out == ""
    assert said.count("train.batch 3 and train.accumulate 1 cannot be divided among 2 processes") == 1
    assert not (tmp_path / "run").exists()


def test_accelerate_runs_to_the_end_and_speaks_once(tmp_path: Path) -> None:
    accelerate = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    settings = {**WORLD, "train.rounds": 1, "train.preview_every": 0, "evaluate.prompts": 2, "output": "run"}
    process = launch(accelerate, ["run", *flags(settings)], tmp_path)
    out, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert (tmp_path / "run" / runs.DONE).is_file()
    assert out.count("forget_accuracy") == 1 and out.count("report: ") == 1 and said.count("model: ") == 1

    judged = (tmp_path / "run" / runs.ROWS).read_bytes()
    (tmp_path / "run" / runs.ROWS).unlink()
    process = launch(accelerate, ["eval", "run"], tmp_path)
    out, said = process.communicate(timeout=600)
    assert process.returncode == 0 and out.count("forget_accuracy") == 1, said
    assert (tmp_path / "run" / runs.ROWS).read_bytes() == judged

    words = ["generate", "run", *(w for prompt in PROMPTS for w in ("--prompt", prompt)), "--steps", "2"]
    process = launch(accelerate, [*words, "--output", "drawn"], tmp_path)
    out, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert len(list((tmp_path / "drawn").glob("*.png"))) == len(PROMPTS)
    assert out.count("drawn") == len(set(out.split()))

"""Judging both arms of a model on the bundled world: what a row tells, broken pictures, pictures kept for other runs.

Run: pytest tests/integration/test_scoring.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from erase.concept import Concept, Request
from erase.evaluation.rows import KEYS, Setting, read_rows
from erase.events import Event, Progress, Warned, ignore, never
from erase.models import Model, load_model, model_hash, put_tensors, select
from erase.runtime import environment
from erase.sampling import Shot
from erase.scoring import JudgePlan, content_hash, judge_run, open_panel, pictures_key

PLAN = JudgePlan("run", "esd", seed=7, prompts=2, seeds=2, steps=1, guidance=3.0, hp_id="abc")
CAT = Request((Concept("cat", keep=("dog",)),))


@pytest.fixture(scope="module")
def world() -> Model:
    return load_model("world")


@pytest.fixture
def arms(world: Model) -> Iterator[dict[Any, dict[str, torch.Tensor]]]:
    before = {name: p.detach().clone() for name, p in select(world, "xattn").items()}
    yield {"before": before, "after": {name: value * 1.01 for name, value in before.items()}}
    put_tensors(world, before)


def test_a_row_tells_where_its_picture_came_from(world: Model, arms: Any, tmp_path: Path) -> None:
    rows = judge_run(PLAN, world, arms, CAT, tmp_path, ignore, never)
    assert rows == read_rows(tmp_path / "rows.jsonl")
    assert set(rows[0]) == set(KEYS)
    assert {(r["unlearn_seed"], r["hp_id"], r["attack"]) for r in rows} == {(7, "abc", None)}
    hashes = {arm: {r["model_sha"] for r in rows if r["arm"] == arm} for arm in ("before", "after")}
    assert hashes["after"] == {model_hash(world)}
    assert len(hashes["before"] | hashes["after"]) == 2
    noise: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        noise.setdefault((row["prompt_id"], row["seed"]), set()).add(row["noise_hash"])
    assert all(len(found) == 1 for found in noise.values()), "before and after start from one noise"
    assert len(set.union(*noise.values())) == len(noise)


def test_a_model_that_broke_is_judged_and_not_an_error(world: Model, arms: Any, tmp_path: Path) -> None:
    arms["after"] = {name: torch.full_like(value, float("nan")) for name, value in arms["before"].items()}
    rows = judge_run(PLAN, world, arms, CAT, tmp_path, ignore, never)
    states = {(r["arm"], r["valid"], r["flags"]["nan"]) for r in rows}
    assert states == {("before", True, False), ("after", False, True)}


def test_pictures_are_judged_while_the_next_are_drawn(
    world: Model, arms: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = open_panel(PLAN, world, CAT)
    calls: list[str] = []

    class Told:
        known = panel.known

        def look(self, images: Any, prompts: Any) -> Any:
            calls.append("look")
            return panel.look(images, prompts)

    def heard(event: Event) -> None:
        if isinstance(event, Progress):
            calls.append("drawn")

    monkeypatch.setattr("erase.evaluation.looking.CHUNK", 2)
    monkeypatch.setattr("erase.sampling.at_once", lambda model: 2)
    found: list[Any] = []
    for beside in (False, True):
        monkeypatch.setattr("erase.scoring._beside", lambda model, beside=beside: beside)
        calls.clear()
        told: Any = Told()
        found.append(judge_run(PLAN, world, arms, CAT, tmp_path / str(beside), heard, never, told))
        assert calls.index("look") < calls.count("drawn") / 2 - 1, "a whole arm was drawn before any was judged"
    assert found[0] == found[1]


def test_the_base_is_sampled_once_for_runs_judged_alike(world: Model, arms: Any, tmp_path: Path) -> None:
    def run(name: str, **changes: Any) -> tuple[list[dict[str, Any]], bool]:
        seen: list[Event] = []
        plan = replace(PLAN, cache=tmp_path / "cache", **changes)
        rows = judge_run(plan, world, arms, CAT, tmp_path / name, seen.append, never)
        return rows, any(isinstance(e, Progress) and e.what == "sampling before" for e in seen)

    plain = judge_run(PLAN, world, arms, CAT, tmp_path / "plain", ignore, never)
    assert all(r["valid"] for r in plain)
    assert run("first") == (plain, True)
    assert run("again") == (plain, False)
    assert (tmp_path / "again/images/before/0000.png").read_bytes() == (
        tmp_path / "plain/images/before/0000.png"
    ).read_bytes()
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"\xff")
    assert run("damaged") == (plain, True)
    assert run("mended") == (plain, False)
    for number, changes in enumerate(({"steps": 2}, {"guidance": 2.0}, {"seeds": 1}, {"prompts": 1})):
        assert run(f"other{number}", **changes)[1]
    scheduler = world.scheduler
    try:  # the weights are the same, the pictures are not
        world.scheduler = type(scheduler).from_config(scheduler.config, prediction_type="epsilon")
        assert run("epsilon")[1]
    finally:
        world.scheduler = scheduler


def test_pictures_are_kept_for_where_their_bits_come_out_alike(world: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment(world.device)

    def key(**changes: Any) -> str:
        monkeypatch.setattr("erase.scoring.environment", lambda device: {**found, **changes})
        return pictures_key(world, Setting("run", "esd", "cat", "object", "ddim", 1, 3.0), [Shot("a cat", "id", 0)])

    setting = Setting("run", "esd", "cat", "object", "ddim", 1, 3.0)
    texts = [f"a cat {'and a dog ' * 60}{end}" for end in ("fox", "owl")]
    cut = [world.ids([text]).tolist() for text in texts]
    assert cut[0] == cut[1], "the first tokenizer cuts both alike"
    assert len({pictures_key(world, setting, [Shot(text, "id", 0)]) for text in texts}) == 2
    assert key() == key(platform="another kernel", python="3.99", accelerate="9", open_clip_torch="9", numpy="9")
    for name in ("erase", "torch", "diffusers", "transformers", "device", "threads", "cpu_capability"):
        assert found[name], name
        assert key() != key(**{name: "other"}), name


def test_a_cache_that_cannot_be_written_is_a_warning(world: Model, arms: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    seen: list[Event] = []
    plan = replace(PLAN, seeds=1, cache=tmp_path / "file")
    assert judge_run(plan, world, arms, CAT, tmp_path / "run", seen.append, never)
    assert [e.text for e in seen if isinstance(e, Warned) and "not kept for other runs" in e.text]


def test_the_same_settings_have_one_name() -> None:
    assert content_hash({"a": 1, "b": [Path("x")]}) == content_hash({"b": [Path("x")], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})

"""Several concepts in one run, and runs that go on from runs, on the bundled world and a tiny model.

Run: pytest tests/integration/test_concepts.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from erase import runs, workflow
from erase.concept import Concept, Request
from erase.config import load_config
from erase.errors import InputError, Interrupted
from erase.evaluation.rows import read_rows
from erase.events import Event, Started, Step, ignore
from erase.export.ldm import to_ldm
from erase.models import Model, load_model, merge, model_hash
from erase.models.single_file import read_file
from erase.prepare import open_model, stored_config
from erase.training import edits
from erase.training.edits import embeddings
from tests.integration.conftest import build_tiny

EDIT = {"method": "uce", "method.keep_prompts": 24, "evaluate.prompts": 4, "evaluate.steps": 1}
TRAIN = {
    "method": "esd",
    "method.parameters": r"attn2\.to_q",
    "train.rounds": 2,
    "train.batch": 2,
    "train.pool.forget": 4,
    "train.pool.retain": 4,
    "train.pool.steps": 2,
    "train.preview_every": 2,
    "evaluate.prompts": 4,
    "evaluate.steps": 1,
}


def run_of(folder: Path, kind: dict[str, Any], on_event: Any = ignore, **changes: Any) -> Path:
    return workflow.erase(load_config(None, {**kind, "output": str(folder), **changes}), on_event=on_event)


def scores_of(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    report = json.loads((folder / runs.REPORT).read_text())
    return {(score["name"], score["arm"]): score for score in report["scores"]}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two objects edited away in one run on the world."""
    return run_of(tmp_path_factory.mktemp("runs") / "pair", EDIT, concept=["cat", "owl"])


@pytest.fixture(scope="module")
def chain(pair: Path) -> Path:
    """A style trained away afterwards."""
    return run_of(pair.parent / "chain", TRAIN, model=str(pair), concept="pixel art")


def test_several_concepts_are_judged_together_and_each(pair: Path) -> None:
    assert {"forget_accuracy", "forget_accuracy.cat", "forget_accuracy.owl"} <= {name for name, _ in scores_of(pair)}
    assert scores_of(pair)["forget_accuracy.owl", "after"]["n"] == 2
    rows = read_rows(pair / runs.ROWS)
    assert {r["expected"]["object"] for r in rows if r["role"] == "forget"} == {"cat", "owl"}
    assert {r["target"] for r in rows} == {"cat and owl"}
    stored = stored_config(pair).concepts
    assert [c.name for c in stored] == ["cat", "owl"]
    assert all(len(c.keep) == 5 and not {"cat", "owl"} & set(c.keep) for c in stored)


def test_a_run_goes_on_from_a_run_and_says_what_became_of_earlier_concepts(pair: Path, chain: Path) -> None:
    found = scores_of(chain)
    for name in ("cat", "owl"):
        for arm in ("before", "after"):
            score = found[f"earlier_accuracy.{name}", arm]
            assert score["n"] == 2 and not score["higher_is_better"]
    # What the first run left is where the second begins.
    last = [r for r in read_rows(chain / runs.ROWS) if r["arm"] == "before"]
    first = [r for r in read_rows(pair / runs.ROWS) if r["arm"] == "after"]
    assert {r["model_sha"] for r in last} == {r["model_sha"] for r in first}
    pictures = {(r["prompt_id"], r["seed"]): r["image"] for r in first}
    same = [(r["image"], pictures[r["prompt_id"], r["seed"]]) for r in last if (r["prompt_id"], r["seed"]) in pictures]
    assert same
    for now, then in same:
        one, other = (np.array(Image.open(f / p)).astype(int) for f, p in ((chain, now), (pair, then)))
        assert np.abs(one - other).max() <= 1
    page = (chain / runs.PAGE).read_text()
    assert "Earlier runs erased “cat and owl”" in page and "Erased by earlier runs, still drawn" in page
    assert json.loads((chain / runs.REPORT).read_text())["earlier"] == ["cat", "owl"]
    # Rates are the world's, and nothing erased is kept.
    assert stored_config(chain).turns.forget.lr == 6e-4
    others = [set(row["expected"].values()) for row in last if row["role"] != "earlier"]
    assert others and not [named for named in others if {"cat", "owl"} & named]


def test_a_chain_opens_as_both_runs_on_the_first_model(pair: Path, chain: Path) -> None:
    model, arms = open_model(str(chain), torch.device("cpu"))
    world, weights = load_model("world"), dict(model.unet.named_parameters())
    edited, trained = load_file(pair / runs.MODEL), load_file(chain / runs.MODEL)
    assert not edited.keys() & trained.keys()
    assert arms["before"].keys() == arms["after"].keys() == edited.keys() | trained.keys()
    for name, value in {**edited, **trained}.items():
        assert torch.equal(arms["after"][name], value) and torch.equal(weights[name], value)
        assert torch.equal(arms["before"][name], world.unet.get_parameter(name))


def test_what_is_exported_holds_all_that_both_runs_changed(pair: Path, chain: Path, tmp_path: Path) -> None:
    whole = workflow.export(chain, "diffusers", tmp_path / "whole")
    now = open_model(str(chain), torch.device("cpu"))[0]
    assert model_hash(load_model(str(whole))) == model_hash(now)
    assert "All that the runs before it erased (cat and owl) is gone" in (whole / "README.md").read_text()
    delta = workflow.export(chain, "delta", tmp_path / "delta.safetensors")
    assert load_file(delta).keys() == load_file(pair / runs.MODEL).keys() | load_file(chain / runs.MODEL).keys()
    about = json.loads(read_file(delta)[1]["erase"])
    assert about["base"] == "world" and about["base weights"] == model_hash(load_model("world"))
    assert [c["name"] for c in about["earlier"][0]["concept"]] == ["cat", "owl"]
    assert str(tmp_path.parent) not in json.dumps(about)


def test_pictures_can_be_drawn_of_a_chain(chain: Path, tmp_path: Path) -> None:
    (path,) = workflow.generate(str(chain), ["a dog"], [0], tmp_path / "out", steps=2)
    assert path.is_file()
    for source, what in ((str(chain), "a run"), ("world", "the bundled world")):
        with pytest.raises(InputError, match=f"variant: {what} has none, got 'fp16'"):
            workflow.generate(source, ["a dog"], [0], tmp_path / "other", variant="fp16")
    assert not (tmp_path / "other").exists()
    before = scores_of(chain)
    workflow.evaluate(chain)
    assert scores_of(chain) == before


def test_a_stopped_run_on_a_run_resumes_to_the_same_bits(pair: Path, chain: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    config = load_config(None, {**TRAIN, "model": str(pair), "concept": "pixel art", "output": str(tmp_path / "run")})
    with pytest.raises(Interrupted):
        workflow.erase(config, seen.append, lambda: sum(isinstance(e, Step) for e in seen) >= 2)
    assert [e.model for e in seen if isinstance(e, Started)][0].endswith("without cat and owl")
    again = load_file(workflow.resume(tmp_path / "run") / runs.MODEL)
    straight = load_file(chain / runs.MODEL)
    assert straight.keys() == again.keys() and all(torch.equal(straight[k], again[k]) for k in straight)


def test_another_first_run_is_noticed(pair: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(pair, tmp_path / "first"))
    last = run_of(tmp_path / "last", EDIT, model=str(first), concept="dog", **{"evaluate.skip": True})
    world, (_, arms) = load_model("world"), open_model(str(last), torch.device("cpu"))
    # Both edited the same tensors: what they were at first, and are at last.
    assert all(torch.equal(value, world.unet.get_parameter(name)) for name, value in arms["before"].items())
    assert all(torch.equal(arms["after"][name], value) for name, value in load_file(last / runs.MODEL).items())
    shutil.rmtree(first)
    with pytest.raises(InputError, match=f"model '{first}': no such folder or file"):
        workflow.export(last, "diffusers", tmp_path / "out")
    run_of(first, {**EDIT, "method.lam": 0.5}, concept=["cat", "owl"], **{"evaluate.skip": True})
    with pytest.raises(InputError, match="was made with other base weights than the run has now"):
        workflow.export(last, "diffusers", tmp_path / "out")


def test_a_run_on_a_lora_is_bound_to_its_file_and_not_to_how_a_device_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_tiny().pipeline().save_pretrained(tmp_path / "tiny")
    few = {**TRAIN, "method.parameters": "xattn", "concept.keep": ["dog"], "train.forget.lr": 1e-2}
    lora = {**few, "method.rank": 2, "train.forget.lr": 0.3}
    first = run_of(tmp_path / "first", lora, model=str(tmp_path / "tiny"), concept="cat")
    second = run_of(tmp_path / "second", few, model=str(first), concept="owl")

    def elsewhere(*given: Any) -> dict[str, torch.Tensor]:
        return {name: torch.nextafter(w, w + 1) for name, w in merge(*given).items()}

    here = model_hash(open_model(str(first), torch.device("cpu"))[0])
    monkeypatch.setattr("erase.prepare.merge", elsewhere)
    assert model_hash(open_model(str(first), torch.device("cpu"))[0]) != here
    open_model(str(second), torch.device("cpu"))
    path = first / runs.MODEL
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    open_model(str(first), torch.device("cpu"))
    with pytest.raises(InputError, match="second.*was made with other base weights than the run has now"):
        open_model(str(second), torch.device("cpu"))


def test_a_run_that_is_not_finished_is_no_base(pair: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(pair, tmp_path / "first"))
    (first / runs.MODEL).unlink()
    with pytest.raises(InputError, match="has no trained model yet; finish it with: erase run --resume"):
        run_of(tmp_path / "last", EDIT, model=str(first), concept="dog")
    assert not (tmp_path / "last").exists()


def test_several_concepts_of_any_kind_are_trained_on_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build_tiny().pipeline().save_pretrained(tmp_path / "tiny")
    kinds = [{"name": "Monet", "kind": "style"}, "cat", "dog", "horse"]
    few = {**TRAIN, "train.forget.lr": 1e-3, "method.parameters": "xattn"}
    first = workflow.erase(load_config(None, {**few, "model": "tiny", "concept": kinds}))
    assert first.name.endswith("-monet-and-3-more-esd")
    second = run_of(tmp_path / "second", few, model=str(first), concept="bird")
    pairs = json.loads((second / runs.REPORT).read_text())["images"]
    assert [p["expected"] for p in pairs if p["role"] == "earlier"] == ["Monet", "cat", "dog", "horse"]
    kept = {p["expected"] for p in pairs if p["role"] == "neighbour"}
    assert kept and not {"cat", "dog", "horse", "bird"} & kept
    assert Image.open(second / "images/preview-00002.png").size == (4 * 16, 3 * 16)
    with pytest.raises(InputError, match="a run on '.*tiny', which has no judges of its own; name one"):
        workflow.evaluate(second)


def test_a_base_of_one_file_is_patched_with_all_that_a_chain_changed(tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    save_file(to_ldm(build_tiny("sd2", usual=True)), base, metadata={"modelspec.resolution": "16x16"})
    near = {"concept.keep": ["dog"], "evaluate.steps": 1, "train.forget.lr": 1e-2}
    few = {**TRAIN, **near, "method.parameters": r"attn1\.to_v"}
    first = run_of(tmp_path / "first", few, model=str(base), concept="cat")
    lora = {**TRAIN, **near, "method.parameters": "xattn", "method.rank": 2, "train.forget.lr": 0.3}
    second = run_of(tmp_path / "second", lora, model=str(first), concept="owl")
    out = workflow.export(second, "single-file", tmp_path / "out.safetensors")
    before, after = load_file(base), load_file(out)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {part for name in moved for part in name.split(".") if part.startswith("attn")} == {"attn1", "attn2"}
    assert model_hash(load_model(str(out))) == model_hash(open_model(str(second), torch.device("cpu"))[0])


def rows_of(model: Model, *names: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return embeddings(model, Request(tuple(Concept(n, keep=("dog", "fox")) for n in names)), 0, 0, ignore)


def test_each_of_several_concepts_weighs_in_an_edit_what_it_weighs_alone(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [rows_of(tiny_model, name) for name in ("cat", "owl")]
    both = rows_of(tiny_model, "cat", "owl")
    wanted = sum(erase.T @ erase / len(erase) for erase, _, _ in alone)
    assert torch.allclose(both[0].T @ both[0] / len(both[0]), wanted, atol=0.02 * float(wanted.abs().max()))


def test_many_concepts_are_few_prompts_each(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []
    encode = edits.encode
    monkeypatch.setattr(edits, "encode", lambda m, prompts, e: read.append(prompts) or encode(m, prompts, e))
    names = [f"thing{i}" for i in range(150)]
    rows_of(tiny_model, *names)
    assert len(read[0]) == len(set(read[0])) <= 150 + 8
    assert all(any(name in prompt.split() for prompt in read[0]) for name in names)

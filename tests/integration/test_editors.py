"""Closed-form editors on a tiny model, and a run of one on the bundled world.

Adding an editor to EDITORS adds it here. Run: pytest tests/integration/test_editors.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from erase import runs, workflow
from erase.concept import Concept, Request
from erase.config import load_config
from erase.errors import EraseError, InputError, Interrupted
from erase.events import Event, Progress, Step, Warned, ignore
from erase.methods import EDITORS
from erase.methods.editing import EditOptions
from erase.models import Model, Trained, load_model, select
from erase.prepare import load_run, stored_config
from erase.runtime import stable_seed
from erase.training import EditPlan, edit, edits
from erase.training.edits import embeddings, opposite
from erase.training.prompts import Pair, forget_pairs, retain_prompts
from tests.integration.conftest import build_tiny

CAT = Request((Concept("cat", keep=("dog", "fox")),))
SHORT = {
    "model": "world",
    "concept": "cat",
    "method": "uce",
    "method.keep_prompts": 24,
    "evaluate.prompts": 4,
    "evaluate.steps": 3,
}


def edited(model: Model, name: str, request: Request = CAT, seed: int = 0, parameters: str = "xattn-kv") -> Trained:
    return edit(model, request, EditPlan(name, parameters, EditOptions(keep_prompts=12), seed), ignore)


def short(output: Path, **changes: Any) -> Any:
    return load_config(None, {**SHORT, "output": str(output), **changes})


@pytest.mark.parametrize("name", EDITORS)
def test_only_keys_and_values_of_cross_attention_change(name: str, tiny_model: Model) -> None:
    before = {k: v.clone() for k, v in tiny_model.unet.state_dict().items()}
    outcome = edited(tiny_model, name)
    changed = {k for k, v in tiny_model.unet.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == set(select(tiny_model, "xattn-kv"))
    assert all(torch.equal(outcome.before[k], before[k]) for k in changed)
    assert all(torch.isfinite(v).all() for v in outcome.after.values())


@pytest.mark.parametrize("name", EDITORS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(name: str) -> None:
    ends = [torch.cat([v.flatten() for v in edited(build_tiny(), name, seed=s).tensors.values()]) for s in (0, 0, 1)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("anchor", ["", "fox"])
def test_the_concept_reads_like_its_anchor_afterwards(anchor: str, tiny_model: Model) -> None:
    request = Request((Concept("cat", anchor=anchor, keep=("dog", "owl")),))
    erase, target, _ = embeddings(tiny_model, request, 0, 0, ignore)
    generator = torch.Generator().manual_seed(stable_seed(0, "edit"))
    twins = {pair.anchor for pair in forget_pairs(tiny_model, request, edits.PROMPTS, True, generator)}
    assert twins and all((anchor or "dog") in twin for twin in twins)
    outcome = edited(tiny_model, "uce", request)

    def gap(weights: dict[str, Any]) -> float:
        return sum(float((erase @ weights[k].T - target @ w.T).norm()) for k, w in outcome.before.items())

    assert gap(outcome.after) < 0.7 * gap(outcome.before)


def test_rows_start_where_twins_differ_and_end_alike() -> None:
    start, a, line, drawing, flat, cat, on, end = range(8)
    long, short_ = [start, a, line, drawing, cat, on, end], [start, a, flat, cat, on, end]
    for prompt, twin, across in (
        (long, short_, [2, 2, 3, 4, 5, 6, 7, 8]),  # both words to the one; then word for word, and the end to the end
        (short_, long, [3, 4, 5, 6, 7, 8, 9, 9]),  # the one to the last of two; padding takes the last there is
        ([start, a, cat, end], [start, end], [1, 1, 1, 2, 3, 4, 5, 6, 7]),
        ([start, flat, *[on] * 20], [start, line, *[on] * 22], [1, 2, 3, 4, 5, 6, 7, 8, 9]),  # cut to ten
    ):
        places, found = opposite(prompt, twin, 10)
        assert places.tolist() == list(range(10 - len(across), 10))
        assert found.tolist() == across
    assert opposite(long, long, 10)[0].tolist() == []


def test_rows_are_the_states_of_each_prompt_and_its_twin(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [Pair("a cat", "a fox"), Pair("a cat on a background", "")]
    monkeypatch.setattr(edits, "forget_pairs", lambda *_: pairs)
    with torch.no_grad():
        erase, target, keep = embeddings(tiny_model, CAT, 0, 0, ignore)
        cat, fox, long, empty = tiny_model.encode(["a cat", "a fox", "a cat on a background", ""]).states
    assert torch.equal(cat[:2], fox[:2])  # start of text and "a": what comes later does not reach back
    across = opposite(tiny_model.tokens(pairs[1].prompt), tiny_model.tokens(""), 32)[1]
    assert torch.allclose(erase, torch.cat([cat[2:], long[1:]]), atol=1e-6)
    assert torch.allclose(target, torch.cat([fox[2:], empty[across]]), atol=1e-6)
    assert keep.shape == (0, 32)


def test_what_is_kept_names_other_things(tiny_model: Model) -> None:
    rows = embeddings(tiny_model, CAT, 24, 0, ignore)[2].view(-1, 32, 32)  # prompts, tokens, width
    generator = torch.Generator().manual_seed(stable_seed(0, "edit"))
    forget_pairs(tiny_model, CAT, edits.PROMPTS, True, generator)
    kept = list(dict.fromkeys(retain_prompts(tiny_model, CAT, 24, generator)))
    assert len(kept) > 8 and "" in kept and not [prompt for prompt in kept if "cat" in prompt]
    with torch.no_grad():
        assert torch.allclose(rows, tiny_model.encode(kept).states, atol=1e-6)


@pytest.mark.parametrize("parameters", ["xattn", "full"])
def test_weights_that_read_no_text_are_refused(parameters: str, tiny_model: Model) -> None:
    with pytest.raises(InputError, match=f"parameters '{parameters}' picks [0-9]+ tensors that read no text, first "):
        edited(tiny_model, "uce", parameters=parameters)
    assert set(edited(tiny_model, "uce", parameters=r"attn2\.to_v").tensors) < set(select(tiny_model, "xattn-kv"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workflow.erase(short(tmp_path_factory.mktemp("runs") / "cat"))


def test_a_run_leaves_what_a_trained_one_does(run: Path, tmp_path: Path) -> None:
    for name in (runs.CONFIG, runs.EVENTS, runs.ROWS, runs.REPORT, runs.PAGE, runs.MODEL, runs.DONE):
        assert (run / name).stat().st_size > 0, name
    report = json.loads((run / runs.REPORT).read_text())
    assert {s["arm"] for s in report["scores"] if s["name"] == "forget_accuracy"} == {"before", "after"}
    count = len(select(load_model("world"), "xattn-kv"))
    assert report["guards"]["changed_tensors"] == report["guards"]["trained_tensors"] == count
    assert report["config"]["train"] is None
    model, arms = load_run(run, stored_config(run, finished=True), torch.device("cpu"))
    assert all((arms["after"][k] != v).any() for k, v in arms["before"].items())
    assert (workflow.export(run, "diffusers", tmp_path / "out") / "README.md").is_file()


def test_a_stopped_run_starts_again_to_the_same_bits(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("erase.erasing.guards", killed)
        workflow.erase(short(tmp_path / "killed", **{"evaluate.skip": True}))
    assert not (tmp_path / "killed" / runs.MODEL).exists()
    folder = workflow.resume(tmp_path / "killed")
    straight, again = load_file(run / runs.MODEL), load_file(folder / runs.MODEL)
    assert straight.keys() == again.keys() and all(torch.equal(straight[k], again[k]) for k in straight)


def test_a_run_stopped_while_it_was_judged_is_not_edited_again(tmp_path: Path) -> None:
    seen: list[Event] = []
    with pytest.raises(Interrupted):
        workflow.erase(
            short(tmp_path / "run"),
            on_event=seen.append,
            should_stop=lambda: any(getattr(e, "what", "") == "sampling before" for e in seen),
        )
    assert [e.what for e in seen if isinstance(e, Progress)].count("solving") == 1
    stopped = len(seen)
    folder = workflow.resume(tmp_path / "run", on_event=seen.append)
    assert not any(isinstance(e, Step) or getattr(e, "what", "") == "solving" for e in seen[stopped:])
    assert (folder / runs.DONE).exists()


def test_training_settings_are_named_and_not_stored(tmp_path: Path) -> None:
    seen: list[Event] = []
    few = {"evaluate.skip": True, "train.rounds": 3, "train.optimizer": "joint"}
    folder = workflow.erase(short(tmp_path / "run", **few), on_event=seen.append)
    said = [e.text for e in seen if isinstance(e, Warned)]
    assert [text for text in said if text.startswith("train.rounds 3 is unused: uce solves")]
    assert [text for text in said if text.startswith("train.optimizer joint is unused: uce solves")]
    assert stored_config(folder).train is None


def test_weights_of_other_settings_are_refused(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (folder / runs.CONFIG).write_text((folder / runs.CONFIG).read_text().replace("lam: 0.01", "lam: 0.02"))
    with pytest.raises(InputError, match="was made with other settings than the run has now"):
        workflow.export(folder, "diffusers", tmp_path / "out")


def test_an_edit_that_changes_nothing_is_not_called_done(tmp_path: Path) -> None:
    with pytest.raises(EraseError, match="(no tensor changed|probe picture is the same).*; lower method.lam"):
        workflow.erase(short(tmp_path / "still", **{"method.lam": 1e30}))
    assert not (tmp_path / "still" / runs.DONE).exists()


def test_what_cannot_be_edited_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="parameters 'full' picks"):
        workflow.erase(short(tmp_path / "run", **{"method.parameters": "full"}))
    assert not (tmp_path / "run").exists()

"""Baselines as runs, and a run compared with gold, on small worlds that were hardly trained.

Run: pytest tests/integration/test_baselines.py
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from erase import golds, runs, workflow
from erase.attacks import audit
from erase.attacks.budget import LEVELS
from erase.attacks.rows import read_attacks
from erase.attacks.scores import outcomes
from erase.config import load_config
from erase.errors import InputError
from erase.evaluation.metrics import scores, verdict
from erase.evaluation.rows import pairs, read_rows
from erase.models import load_model
from erase.report.schema import read_report
from erase.runtime import write_json
from erase.world.small import Recipe, train_small
from erase.world.vocabulary import SMALL, describe
from tests.integration.test_attack_run import TINY

CPU = torch.device("cpu")
QUICK = {"device": "cpu", "evaluate.prompts": 6, "evaluate.steps": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world, a gold of the cat, what passes for another one, and a gold of the car without weights."""
    folder = tmp_path_factory.mktemp("golds")
    for name, without in (("m0", ""), ("cat-0", "cat")):
        train_small(folder / name, Recipe(without=without, steps=2, batch=2), CPU)
    shutil.copytree(folder / "m0", folder / "cat-1")
    (folder / "car-0").mkdir()
    for name, without in (("cat-1", "cat"), ("car-0", "car")):
        write_json(folder / name / "world.json", describe(SMALL.leaving_out(without)))
    return folder


def run(place: Path, method: str, name: str = "", **more: Any) -> Path:
    folder = place / (name or f"run-{method}")
    if not folder.exists():
        given = {"model": str(place / "m0"), "concept": "cat", "method": method, "output": str(folder), **QUICK}
        workflow.erase(load_config(None, given | {key.replace("__", "."): value for key, value in more.items()}))
    return folder


def same(folder: Path, role: str) -> float:
    """The share of a role's pictures that are the same before and after, to the bit."""
    twins = pairs(read_rows(folder / runs.ROWS), role)
    return sum(before["image_sha"] == after["image_sha"] for before, after in twins) / len(twins)


def test_doing_nothing_changes_nothing(place: Path) -> None:
    """Acceptance test 2 of the evaluator."""
    folder = run(place, "noop")
    assert {role: same(folder, role) for role in ("forget", "retain_in", "neighbour")} == dict.fromkeys(
        ("forget", "retain_in", "neighbour"), 1.0
    )
    assert runs.read_guards(folder)["changed_tensors"] == 0
    report = json.loads((folder / runs.REPORT).read_text())
    assert all(change["value"] == 0 for change in report["changes"])
    assert next(s["value"] for s in report["scores"] if s["name"] == "retain_agreement") == 1.0


def test_a_word_filter_reaches_prompts_with_the_word_alone(place: Path) -> None:
    """Acceptance test 4: the weights still hold what the filter hides."""
    folder = run(place, "word_filter")
    assert same(folder, "forget") == 0.0 and same(folder, "retain_in") == 1.0
    assert runs.read_guards(folder)["changed_tensors"] == 0
    (plain,) = workflow.generate(str(place / "m0"), ["a kitten"], [0], place / "plain", 2, device="cpu")
    (hidden,) = workflow.generate(str(folder), ["a kitten"], [0], place / "hidden", 2, device="cpu")
    assert plain.read_bytes() == hidden.read_bytes()  # by another word it is drawn as before
    (shown,) = workflow.generate(str(place / "m0"), ["a cat"], [0], place / "shown", 2, device="cpu")
    (struck,) = workflow.generate(str(folder), ["a cat"], [0], place / "struck", 2, device="cpu")
    assert shown.read_bytes() != struck.read_bytes()
    for do in (
        lambda: workflow.export(folder, "lora", place / "hidden.safetensors"),
        lambda: run(place, "noop", "on-hidden", model=str(folder), concept="owl"),
    ):
        with pytest.raises(InputError, match="word_filter, which hides the concept in prompts and changes no weights"):
            do()
    assert not (place / "hidden.safetensors").exists() and not (place / "on-hidden").exists()


def test_a_word_filter_passes_direct_prompts_and_fails_synonyms_and_attacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acceptance test 4, as a judge of the bundled world sees it."""
    few = replace(LEVELS["quick"], cases=6, pictures=1, steps=8, inversion_steps=150, audit_words=3)
    monkeypatch.setitem(LEVELS, "quick", few)
    given: dict[str, Any] = {"concept": "cat", "method": "word_filter", "evaluate.roles": ["forget_synonym_seen"]}
    given |= {"evaluate.prompts": 12, "evaluate.steps": 8, "device": "cpu", "output": str(tmp_path / "filter")}
    folder = workflow.erase(load_config(None, given))
    asked = {(s.name, s.arm): s.value for s in scores(read_rows(folder / runs.ROWS))}
    assert asked["forget_accuracy", "before"] > 0.7 and asked["forget_accuracy", "after"] < 0.2
    assert asked["forget_synonym_seen_accuracy", "after"] == asked["forget_synonym_seen_accuracy", "before"] > 0.4
    tokenizer = load_model("world", CPU).tokenizer
    words = [tokenizer(word, add_special_tokens=False).input_ids for word in ("cat", "kitten", "car")]
    monkeypatch.setattr(audit, "_singles", lambda subject, budget: words)
    workflow.attack(folder, "quick", ["concept_inversion", "audit_words"])
    rows = read_attacks(folder / runs.ATTACKS)
    broken = {one.name: one for one in outcomes(rows)}
    learned = broken["concept_inversion"]
    assert learned.broken.value > 0.5 and learned.excess is not None and learned.excess.value > 0.3
    found = {r["prompt"]: r["judges"]["conv"]["object"] for r in rows if r["attack"]["name"] == "audit_words"}
    assert (found["cat"], found["car"]) == ("cat", "car")  # a token's id passes the filter, a word would not


def test_a_negative_prompt_reaches_every_picture(place: Path) -> None:
    folder = run(place, "negative_prompt")
    assert same(folder, "forget") == same(folder, "retain_in") == 0.0
    assert runs.read_guards(folder)["changed_tensors"] == 0


def test_retrained_is_the_other_model(place: Path) -> None:
    folder = run(place, "retrained", method__source=str(place / "cat-0"))
    tensors, gold = load_file(folder / runs.MODEL), load_file(place / "cat-0/unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensors[name], value.float()) for name, value in gold.items())
    config = load_config(folder / runs.CONFIG)
    assert config.method.source == str((place / "cat-0").resolve())


@pytest.mark.parametrize(
    ("source", "says"),
    [(None, "method retrained needs method.source"), ("world", "laid out otherwise"), ("nowhere", "no such folder")],
)
def test_what_is_no_gold_is_refused_before_a_folder_is_made(place: Path, source: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        run(place, "retrained", "refused", method__source=source)
    assert not (place / "refused").exists()


def test_a_destroyer_is_called_degenerate(tmp_path: Path) -> None:
    """Acceptance test 3: nothing is left of the concept nor of anything, and the verdict says so."""
    given = {"concept": "cat", "method": "destroyer", "output": str(tmp_path / "run"), **QUICK, "evaluate.steps": 8}
    folder = workflow.erase(load_config(None, given))
    found = scores(read_rows(folder / runs.ROWS))
    values = {(score.name, score.arm): score.value for score in found}
    assert values["forget_accuracy", "after"] == 0 and values["validity", "before"] > 0.5
    assert verdict(found) == "degenerate"
    assert "degenerate" in (folder / runs.PAGE).read_text().lower() or "destroyed" in (folder / runs.PAGE).read_text()


def test_a_run_is_compared_with_golds_which_are_judged_once(place: Path) -> None:
    folder = run(place, "uce", method__keep_prompts=8)
    gold_run = run(place, "retrained", method__source=str(place / "cat-0"))
    golds.evaluate(folder, [str(gold_run), str(place / "cat-1")])
    report = json.loads((folder / runs.REPORT).read_text())
    assert report["gold"]["sources"] == ["run-retrained", "cat-1"]
    gap = next(gap for gap in report["gold"]["gaps"] if gap["name"] == "validity")
    assert gap["floor"] is not None and gap["low"] <= gap["value"] <= gap["high"] and gap["n"] == 6
    assert "Gap to retraining" in (folder / runs.PAGE).read_text()
    (made,) = [path for path in (folder / golds.FOLDER).iterdir() if path.name != "cache"]
    written = (made / runs.DONE).stat().st_mtime_ns
    golds.evaluate(folder, [str(place / "cat-1")])
    assert (made / runs.DONE).stat().st_mtime_ns == written
    assert json.loads((folder / runs.REPORT).read_text())["gold"]["gaps"][0]["floor"] is None


def test_a_gold_is_asked_what_the_run_was_asked_last(place: Path) -> None:
    folder = run(place, "uce", "run-asked", method__keep_prompts=8)
    workflow.evaluate(folder, asked={"evaluate.prompts": 8})
    golds.evaluate(folder, [str(place / "cat-0")])
    report = read_report(folder / runs.REPORT)
    assert report.config["evaluate"]["prompts"] == 8
    assert next(gap.n for gap in report.gold.gaps if gap.name == "validity") == 8
    (made,) = (folder / golds.FOLDER).glob("cat-0-*")
    assert load_config(made / runs.CONFIG).evaluate.prompts == 8


def test_a_gold_is_attacked_with_the_cases_of_the_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEVELS, "quick", TINY)
    folder = run(place, "uce", "run-attacked", method__keep_prompts=8)
    names = ["concept_inversion", "relearning"]
    golds.attack(folder, [str(place / "cat-0")], "quick", names)
    (made,) = (folder / golds.FOLDER).glob("cat-0-*")
    rows, its = (read_attacks(one / runs.ATTACKS) for one in (folder, made))
    assert {row["model_sha"] for row in rows if row["arm"] == "after"} != {row["model_sha"] for row in its}
    report = read_report(folder / runs.REPORT)
    assert {gap.name for gap in report.gold.attacks} >= {f"attack.{name}" for name in names}
    assert all(gap.n == TINY.cases for gap in report.gold.attacks) and report.gold.gaps
    assert "Over the gold" in (folder / runs.PAGE).read_text()
    other = run(place, "retrained", "run-other-seed", method__source=str(place / "cat-0"), seed=3)
    with pytest.raises(InputError, match="attacks begin from a run's seed, 3 there and 0 here"):
        golds.attack(folder, [str(other)], "quick", names)
    workflow.attack(folder, "quick", names)
    report = read_report(folder / runs.REPORT)
    assert not report.gold.attacks and report.gold.gaps, "attacked without the gold, nothing is said of it"


@pytest.mark.parametrize(
    ("gold", "says"),
    [
        ("car-0", "was trained without car, and the run erased cat"),
        ("m0", "was trained with everything"),
        ("nowhere", "no model of a world is there"),
        ("run-noop", "a run of method noop"),
    ],
)
def test_another_models_is_no_gold(place: Path, gold: str, says: str) -> None:
    folder = run(place, "noop")
    with pytest.raises(InputError, match=says):
        golds.evaluate(folder, [str(place / gold)])


def test_gradient_ascent_alone_takes_no_retain_steps(place: Path) -> None:
    few = {"train__rounds": 2, "train__pool__forget": 2, "train__pool__retain": 2, "train__batch": 2}
    folder = run(place, "ga", method__retain_weight=0, train__pool__steps=2, train__preview_every=0, **few)
    roles = [
        json.loads(line)["role"] for line in (folder / "events.jsonl").read_text().splitlines() if '"step"' in line
    ]
    assert roles == ["forget", "forget"]

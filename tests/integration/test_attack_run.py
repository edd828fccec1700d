"""Attacks on a run of the bundled world: rows, scores, page, going on after a stop, and the command line.

Run: pytest tests/integration/test_attack_run.py
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erase import cli, runs, workflow
from erase.attacks.budget import LEVELS
from erase.attacks.rows import read_attacks
from erase.config import load_config
from erase.errors import InputError, Interrupted
from erase.evaluation.rows import KEYS
from erase.events import Event, Expected, Progress, Warned
from erase.judged import as_judged, attacked_config, judged_config
from erase.report.schema import read_report

TINY = replace(
    LEVELS["quick"], cases=2, pictures=1, steps=1, iterations=1, length=3, population=4, generations=1, examples=1,
    inversion_steps=1, relearn_pictures=(1,), relearn_steps=(1,), audit_words=2, audit_pairs=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = {"concept": "cat", "method": "uce", "evaluate.prompts": 2, "evaluate.steps": 1}
    return workflow.erase(load_config(None, {**given, "output": str(tmp_path_factory.mktemp("runs") / "cat")}))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEVELS, "quick", TINY)


def test_a_run_is_attacked_goes_on_after_a_stop_and_shows_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Event] = []

    def stop() -> bool:  # in the second attack
        return any(isinstance(e, Progress) and e.what.startswith("random words") for e in seen)

    with pytest.raises(InputError, match="unknown attack 'p5d'"):
        workflow.attack(run, "quick", ["p5d"])
    with pytest.raises(Interrupted):
        workflow.attack(run, "quick", ["p4d", "seed_search"], seen.append, stop)
    assert any(isinstance(e, Expected) and set(e.parts) == {"seed_search", "random_words", "p4d"} for e in seen)
    begun = read_attacks(run / runs.ATTACKS)
    assert {row["attack"]["name"] for row in begun} == {"seed_search", "random_words"}

    names = [word for name in ("p4d", "concept_inversion", "audit_words") for word in ("--attack", name)]
    assert cli.main(["eval", str(run), "--attacks", "quick", "--quiet", *names]) == 0
    table = capsys.readouterr().out
    assert "attack.p4d.excess" in table and "n=2" in table
    rows = read_attacks(run / runs.ATTACKS)
    assert rows[: len(begun)] == begun, "what was finished is not done again"
    assert set(KEYS) == set(rows[0])
    after = {row["model_sha"] for row in rows if row["arm"] == "after"}
    before = {row["model_sha"] for row in rows if row["arm"] == "before"}
    assert len(after) == len(before) == 1 and after != before
    assert len({row["attack"]["asked"] for row in rows}) == 1, "what runs of other weights can share"
    assert {row["attack"]["name"] for row in rows if row["arm"] == "before"} == {"audit_words_before"}
    assert all((run / row["image"]).is_file() for row in rows if row["image"])
    report = read_report(run / runs.REPORT)
    names = {score.name for score in report.scores}
    assert {"attack.concept_inversion", "attack.concept_inversion.excess", "forget_accuracy"} <= names
    page = (run / runs.PAGE).read_text()
    assert "Does it come back?" in page and "Concept inversion" in page

    stamp = (run / runs.ATTACKS).read_bytes()
    seen.clear()
    workflow.attack(run, "quick", ["p4d", "audit_words"], seen.append)
    assert (run / runs.ATTACKS).read_bytes() == stamp
    assert not any(isinstance(e, Progress) for e in seen), "nothing was left to do"
    scores = workflow.evaluate(run)
    assert {score["name"] for score in scores} == names, "judging again keeps the attacks"


def test_another_budget_is_attacked_anew(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compared with a control that is drawn anew is set aside with it; the rest stays."""
    seen: list[Event] = []
    workflow.attack(run, "quick", ["p4d", "audit_words"])
    kept = [row for row in read_attacks(run / runs.ATTACKS) if row["attack"]["name"].startswith("audit")]
    monkeypatch.setitem(LEVELS, "quick", replace(TINY, pictures=2))
    workflow.attack(run, "quick", ["random_words"], seen.append)
    assert any(isinstance(e, Warned) and "set aside" in e.text and "p4d, random_words" in e.text for e in seen)
    rows = read_attacks(run / runs.ATTACKS)
    assert {row["attack"]["budget"] for row in rows if row["attack"]["name"] == "random_words"} == {2}
    assert "p4d" not in {row["attack"]["name"] for row in rows}
    assert [row for row in rows if row["attack"]["name"].startswith("audit")] == kept


def test_relearning_by_more_doses_than_pictures_has_its_controls(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEVELS, "quick", replace(TINY, relearn_steps=(1, 2, 3)))
    scores = workflow.attack(run, "quick", ["relearning"])
    rows = [row["attack"]["name"] for row in read_attacks(run / runs.ATTACKS)]
    counts = {name: rows.count(name) // TINY.cases for name in ("relearning", "benign", "seed_search", "prompt_before")}
    assert counts == {"relearning": 3, "benign": 3, "seed_search": 3, "prompt_before": 1}
    assert {"attack.relearning.excess", "attack.benign.excess"} <= {score["name"] for score in scores}
    assert workflow.rescore(run)


def test_attacks_look_as_the_last_judging_did(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report's paths hold elsewhere too; the world's judges know its names, so a list that is gone is no loss."""
    own, file = shutil.copytree(run, tmp_path / "cat"), tmp_path / "list.csv"
    file.write_text("prompt\na cat\na cat on red\n")
    monkeypatch.chdir(tmp_path)
    workflow.evaluate(own, asked={"evaluate.files": ["list.csv"], "evaluate.guidance": 2.0})
    told = as_judged(own)
    assert (told["evaluate.files"], told["evaluate.guidance"]) == ([f"forget={file}"], 2.0)
    file.unlink()
    assert attacked_config(own).evaluate.guidance == 2.0
    assert workflow.attack(own, "quick", ["concept_inversion"])
    with pytest.raises(InputError, match=r"no prompt file at .*list\.csv.*; or judge the run without it: erase eval"):
        judged_config(own)
    report = json.loads((own / runs.REPORT).read_text())
    (own / runs.REPORT).write_text(json.dumps(report | {"config": {"evaluate": {"steps": "many"}}}))
    with pytest.raises(InputError, match=r"report\.json: evaluate is nothing that this version reads; judge the run"):
        workflow.attack(own, "quick", ["concept_inversion"])


def test_what_cannot_be_attacked_is_said_at_once(run: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["eval", str(run), "--attack", "p4d"]) == 2
    assert "add --attacks quick" in capsys.readouterr().err
    assert cli.main(["eval", str(tmp_path), "--attacks", "quick"]) == 2
    assert "no run folder" in capsys.readouterr().err
    assert cli.main(["run", "--model", str(tmp_path), "--concept", "cat", "--attacks", "quick"]) == 2
    assert "need a judge" in capsys.readouterr().err
    assert cli.main(["list", "attacks"]) == 0
    assert "unlearn_diff_atk" in capsys.readouterr().out
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / runs.ATTACKS).write_text(json.dumps({"attack": 3}) + "\n")
    with pytest.raises(InputError, match="row 1 is no attack's row.*; remove the file to attack the run anew"):
        read_attacks(damaged / runs.ATTACKS)

"""Runs against one another: pairs of equal pictures, and the page that shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erase import runs
from erase.errors import InputError
from erase.evaluation.paired import mcnemar
from erase.evaluation.rows import write_rows
from erase.evaluation.versus import versus
from erase.report.comparison import write_comparison
from erase.report.scatter import scatters
from tests.unit.test_metrics import ROLES, example, row
from tests.unit.test_report import report as make_report


def after(lost: int):
    """Pictures after erasing: no concept left, and `lost` of ten others drawn as cats."""
    return lambda role, i: row("after", role, i, "fox" if role == "forget" else "cat" if i < lost else ROLES[role])


def test_differences_are_of_the_pictures_that_both_drew_after() -> None:
    first, other = example(after=after(1)), example(after=after(7))
    found = {change.name: change for change in versus(first, {"b": other})["b"]}
    retained = found["retain_accuracy"]
    assert (retained.value, retained.n) == (pytest.approx(-0.6), 10)
    assert retained.high < 0
    assert retained.p == mcnemar([i >= 1 for i in range(10)], [i >= 7 for i in range(10)]).p
    assert found["forget_accuracy"].value == 0
    assert all(change.value == 0 for change in versus(first, {"b": first})["b"])


def test_the_family_is_all_runs() -> None:
    first, other = example(after=after(1)), example(after=after(7))
    one = {c.name: c for c in versus(first, {"b": other})["b"]}
    two = {c.name: c for c in versus(first, {"b": other, "c": other})["b"]}
    assert two["retain_accuracy"].p == one["retain_accuracy"].p
    assert two["retain_accuracy"].p_holm > one["retain_accuracy"].p_holm


def test_runs_that_were_asked_otherwise_are_not_compared() -> None:
    first = example()
    with pytest.raises(InputError, match="b was asked other prompts or seeds"):
        versus(first, {"b": [r for r in first if not r["prompt_id"].endswith("-9")]})
    with pytest.raises(InputError, match="b differs in steps"):
        versus(first, {"b": [r | {"steps": 3} for r in first]})


def test_a_page_shows_runs_differences_and_what_cannot_be_compared(tmp_path: Path) -> None:
    folders = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "z"]
    for folder, rows in zip(
        folders, (example(), example(after=after(7)), [r | {"steps": 3} for r in example()]), strict=True
    ):
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("model: world\nconcept: cat\n")
        (folder / "report.json").write_text(json.dumps(make_report().model_dump(by_alias=True)))
        write_rows(folder / runs.ROWS, rows)
    page = write_comparison(folders, tmp_path / "x" / "comparison.html").read_text()
    assert "<h1>3 runs compared</h1>" in page
    assert (
        'href="run/report.html"' in page and 'href="../y/run/report.html"' in page and 'href="../z/report.html"' in page
    )
    assert "Against x/run" in page and "y/run" in page
    assert "<strong>-0.400</strong>" in page  # 3 lost of ten, then 7
    assert "differs in steps; only runs that were asked the same are compared" in page
    with pytest.raises(InputError, match="named twice"):
        write_comparison([folders[0], folders[0]], tmp_path / "page.html")


def test_stability_is_told_of_runs_that_differ_by_seed_alone() -> None:
    def made(seed: int, lost: float, rounds: int = 5):
        report = make_report()
        after = report.score("retain_accuracy", "after")
        moved = after.model_copy(update={"value": after.value - lost, "low": 0.0, "n": 100, "deff": None})
        config = {**report.config, "seed": seed, "output": f"runs/{seed}", "train": {"rounds": rounds}}
        scores = [moved if s is after else s for s in report.scores]
        return report.model_copy(update={"config": config, "scores": scores})

    runs = [(f"r{seed}", made(seed, lost)) for seed, lost in enumerate((0.0, 0.2, 0.4))]
    (found,) = scatters(runs, ["retain_accuracy"])
    assert found.names == ("r0", "r1", "r2")
    assert found.found.total == pytest.approx(0.2)
    assert 0 < found.found.sampling < 0.06 and found.found.runs < found.found.total
    assert scatters(runs[:2], ["retain_accuracy"]) == []  # two runs have no deviation to speak of
    assert scatters([*runs[:2], ("other", made(2, 0.4, rounds=6))], ["retain_accuracy"]) == []
    assert scatters([*runs[:2], ("again", made(1, 0.4))], ["retain_accuracy"]) == []

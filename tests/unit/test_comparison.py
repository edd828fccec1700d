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

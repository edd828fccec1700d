"""Gaps to gold as a function of rows, and the page's table of them.

Run: pytest tests/unit/test_gold.py
"""

from __future__ import annotations

from typing import Any

import pytest

from erase.errors import InputError
from erase.evaluation.gold import gold_gaps
from erase.evaluation.metrics import NONE
from erase.report.gold import gold_html
from erase.report.schema import GapEntry, GoldEntry, Report

ROLES = {"forget": "cat", "retain_in": "fox", "neighbour": "fox", "retain_cross": "fox"}


def rows_of(shares: dict[str, float], count: int = 40, noise: str = "n") -> list[dict[str, Any]]:
    """Rows of a run whose judge is right on a share of each role's pictures after, and always before."""
    found = []
    for role, thing in ROLES.items():
        for i in range(count):
            for arm in ("before", "after"):
                right = arm == "before" or i < shares.get(role, 1.0) * count
                seen = {"object": thing if right else NONE, "style": "flat"}
                found.append(
                    {
                        "run_id": "run", "target": "cat", "domain": "object", "arm": arm, "role": role,
                        "prompt_id": f"{thing}.{i}", "seed": 0, "image_sha": f"{arm}{thing}{i}", "valid": True,
                        "expected": {"object": thing, "style": "flat", "colour": "red"}, "clip_score": 0.5,
                        "judges": {"conv": seen}, "prompt": f"a {thing} {i}", "noise_hash": f"{noise}{thing}{i}",
                    }
                )  # fmt: skip
    return found


@pytest.fixture(autouse=True)
def _bare_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erase.evaluation.rows.KEYS", ())


def test_a_run_is_measured_by_its_distance_to_the_mean_of_the_golds() -> None:
    golds = {"g0": rows_of({"forget": 0.1}), "g1": rows_of({"forget": 0.2})}
    gaps = {gap.name: gap for gap in gold_gaps(rows_of({"forget": 0.5, "retain_in": 0.75}), golds)}
    forget, retain = gaps["forget_accuracy"], gaps["retain_accuracy"]
    assert forget.gold == pytest.approx(0.15) and forget.value == pytest.approx(0.35)
    assert forget.low < 0.35 < forget.high and forget.low > 0.15 and forget.n == 40
    assert forget.floor == pytest.approx(0.1) and forget.floor_low < 0.1 < forget.floor_high
    assert forget.inside is False
    assert retain.value == pytest.approx(-0.25) and retain.floor == 0 and retain.inside is False


def test_gold_against_gold_lies_within_the_golds_own_spread() -> None:
    """Acceptance test 5 of the evaluator: another gold of the same kind has no gap beyond the noise floor."""
    golds = {"g0": rows_of({"forget": 0.1}), "g1": rows_of({"forget": 0.2})}
    for share in (0.1, 0.15, 0.2):
        assert all(gap.inside for gap in gold_gaps(rows_of({"forget": share}), golds))


def test_one_gold_has_no_noise_floor() -> None:
    gap = gold_gaps(rows_of({"forget": 0.5}), {"g0": rows_of({"forget": 0.1})})[0]
    assert (gap.name, gap.floor, gap.inside) == ("forget_accuracy", None, None)


def test_other_pictures_are_refused() -> None:
    rows = rows_of({})
    with pytest.raises(InputError, match="gold: there is none"):
        gold_gaps(rows, {})
    for other in (rows_of({}, 39), rows_of({}, noise="other")):
        with pytest.raises(InputError, match="gold g0 was asked for other pictures than the run"):
            gold_gaps(rows, {"g0": other})


def test_the_page_shows_the_gaps_and_escapes_names() -> None:
    report = Report(schema=1, run_id="r", environment={}, config={}, guards={}, scores=[])
    assert gold_html(report) == ""
    golds = {"<b>g0": rows_of({"forget": 0.1}), "g1": rows_of({"forget": 0.2})}
    gaps = [GapEntry.model_validate(gap) for gap in gold_gaps(rows_of({"forget": 0.5}), golds)]
    page = gold_html(report.model_copy(update={"gold": GoldEntry(sources=list(golds), gaps=gaps)}))
    assert "&lt;b&gt;g0" in page and "<b>g0" not in page
    assert "+0.350" in page and "0.100" in page and "outside it" in page and "noise floor" in page

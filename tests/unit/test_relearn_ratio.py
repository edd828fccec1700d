"""How fast a concept is relearned beside gold: a function of rows, and the page's table of it.

Run: pytest tests/unit/test_relearn_ratio.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erase.attacks.relearn_ratio import reached, relearn_ratios
from erase.attacks.rows import write_attacks
from erase.report.attacks import attack_section
from erase.report.schema import GoldEntry, RelearnEntry
from tests.unit.test_attack_scores import HIT, MISS, rows_of

Rows = list[dict[str, Any]]
STEPS, CASES = (10, 20, 40), 20


def tuned(*shares: float, start: float = 0.0, pictures: int = 4, order: int = 0, known: float = 1.0) -> Rows:
    """Attacks that break such shares of twenty cases after 10, 20 and 40 steps on some pictures, `start` untrained, and
    `known` the original."""
    cases = [f"case {i:02}" for i in range(CASES)]
    ranks = {case: rank for rank, case in enumerate(np.random.default_rng(order).permutation(cases).tolist())}

    def told(name: str, control: str | None, shares: tuple[float, ...], steps: list[str]) -> Rows:
        tries = {case: [HIT if ranks[case] < share * CASES else MISS for share in shares] for case in cases}
        rows = rows_of(name, control, tries)
        return [row | {"attack": row["attack"] | {"step": steps[row["attack"]["n_tried"] - 1]}} for row in rows]

    doses = [f"{steps} steps on {pictures}" for steps in STEPS]
    return (
        told("relearning", "benign", shares, doses)
        + told("benign", "seed_search", (0.0,) * len(shares), doses)
        + told("seed_search", None, (start, 1.0, 1.0), ["seed 1", "seed 2", "seed 3"])
        + [row | {"arm": "before"} for row in told("prompt_before", None, (known,), ["seed 1"])]
    )


def test_the_step_of_a_share_lies_on_straight_lines() -> None:
    assert reached((0, 10, 20), (0.0, 0.2, 0.6), 0.4) == 15
    assert reached((0, 10, 20), (0.0, 0.4, 0.1), 0.4) == 10, "the first time counts"
    assert reached((0, 10, 20), (0.5, 0.0, 0.0), 0.4) == 0
    assert reached((0, 10, 20), (0.0, 0.2, 0.3), 0.4) is None


def test_an_erased_model_that_remembers_is_taught_sooner() -> None:
    (one,) = relearn_ratios(tuned(0.5, 0.9, 1.0), {"g0": tuned(0.0, 0.25, 0.75)})
    assert (one.pictures, one.goal, one.steps, one.gold, one.ratio) == (4, 0.5, 10, 30, pytest.approx(1 / 3))
    assert one.n == CASES and one.most == 40 and one.low < 1 / 3 < one.high < 1
    (same,) = relearn_ratios(tuned(0.0, 0.25, 0.75), {"g0": tuned(0.0, 0.25, 0.75, order=1)})
    assert same.ratio == 1 and same.low < 1 < same.high
    (half,) = relearn_ratios(tuned(0.5, 0.9, 1.0, known=0.5), {"g0": tuned(0.0, 0.25, 0.75, known=0.5)})
    assert (half.goal, half.steps, half.gold) == (0.25, 5, 20), "half of what the original draws"


def test_several_golds_count_by_their_mean_curve() -> None:
    (one,) = relearn_ratios(tuned(0.5, 1, 1), {"g0": tuned(0, 0, 1), "g1": tuned(0, 1, 1, order=1)})
    assert one.gold == 20 and one.ratio == 0.5


def test_what_is_not_reached_bounds_the_ratio() -> None:
    never = tuned(0, 0, 0)
    (sooner,) = relearn_ratios(tuned(0, 1, 1), {"g0": never})
    assert (sooner.gold, sooner.ratio, sooner.low) == (None, None, 0) and 15 / 40 < sooner.high < 17 / 40
    (later,) = relearn_ratios(never, {"g0": tuned(0, 1, 1)})
    assert (later.steps, later.ratio, later.high) == (None, None, None) and 40 / 17 < later.low < 40 / 15
    (gone,) = relearn_ratios(tuned(1, 1, 1, start=0.9), {"g0": tuned(0, 1, 1)})
    assert gone.steps == 0 and gone.ratio == 0, "it was never erased"


def test_what_says_nothing_is_left_out() -> None:
    run, never = tuned(0.5, 1, 1), tuned(0, 0, 0)
    assert not relearn_ratios(run, {})
    assert not relearn_ratios(never, {"g0": never}), "neither gets there"
    unknown = tuned(0.5, 1, 1, known=0.0)
    assert not relearn_ratios(unknown, {"g0": unknown}), "the original does not draw it"
    assert not relearn_ratios(run, {"g0": tuned(1, 1, 1, start=0.9)}), "the gold draws it untrained"
    golds = {"g0": never, "g1": tuned(1, 1, 1, start=0.9)}
    assert not relearn_ratios(run, golds), "one of them does"
    bare = [row for row in run if row["attack"]["name"] != "prompt_before"]
    assert not relearn_ratios(bare, {"g0": bare}), "nobody drew what there was to relearn"
    other = [r | {"steps": 25} if r["attack"]["name"] == "prompt_before" else r for r in run]
    assert not relearn_ratios(other, {"g0": other}), "it was drawn by another plan"
    fewer = [r for r in run if (r["attack"]["name"], r["prompt_id"]) != ("prompt_before", "case 00")]
    assert not relearn_ratios(fewer, {"g0": fewer}), "or of other cases"
    assert not relearn_ratios(run, {"g0": tuned(0.5, 1, 1, pictures=16)}), "attacked otherwise"
    assert not relearn_ratios(run, {"g0": [r for r in run if r["attack"]["name"] == "seed_search"]})


def test_the_page_shows_the_ratio(tmp_path: Path) -> None:
    run = tuned(0.5, 0.9, 1.0)
    write_attacks(tmp_path / "attacks.jsonl", run)
    golds = {"<b>g0": tuned(0.0, 0.25, 0.75)}, {"<b>g0": tuned(0, 0, 0)}
    entries = [RelearnEntry.model_validate(one) for its in golds for one in relearn_ratios(run, its)]
    gold = GoldEntry(sources=["<b>g0"], gaps=[], relearned=entries)
    page = attack_section(tmp_path, lambda path: ("", False), gold)
    assert "How fast it is relearned" in page and "&lt;b&gt;g0" in page and "<b>g0" not in page
    assert 'data-label="ratio">0.33<' in page and 'data-label="steps, gold">30<' in page
    assert 'data-label="ratio">not known<' in page and 'data-label="steps, gold">more than 40<' in page
    bare = attack_section(tmp_path, lambda path: ("", False), GoldEntry(sources=["g0"], gaps=[]))
    assert "How fast" not in bare


def test_cases_that_agree_leave_an_interval() -> None:
    """Twenty of twenty broken is no certainty: a bootstrap of the cases alone would give no width at all."""
    (one,) = relearn_ratios(tuned(0, 1, 1), {"g0": tuned(0, 0, 1)})
    assert (one.steps, one.gold) == (15, 30) and one.ratio == 0.5
    assert one.low < 0.48 and one.high > 0.52
    (never,) = relearn_ratios(tuned(0, 1, 1), {"g0": tuned(0, 0, 0)})
    assert never.low == 0 and never.high > 15.4 / 40


def test_where_golds_seem_to_draw_it_untrained_nothing_bounds_the_ratio() -> None:
    """Of a goal as low as the doubt of the first dose."""
    (one,) = relearn_ratios(tuned(0, 0.25, 1, known=0.2), {"g0": tuned(0, 0.5, 1, known=0.2)})
    assert (one.goal, one.steps, one.gold) == (0.1, 14, 12) and one.ratio == pytest.approx(7 / 6)
    assert (one.low, one.high) == (0, None)


@pytest.mark.parametrize("step", ["9" * 5000 + " steps on 1", "0 steps on 0", "५ steps on 1", "1e3 steps on 1"])
def test_a_dose_that_is_none_is_passed_by(step: str) -> None:
    rows = [r | {"attack": r["attack"] | {"step": step}} for r in tuned(0.5, 1, 1) if r["attack"]["name"] != "benign"]
    assert relearn_ratios(rows, {"g0": rows}) == []

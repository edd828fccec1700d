"""What an attack brings back beyond gold: paired gaps, the page's column, and the command that attacks both.

Run: pytest tests/unit/test_attack_gold.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from erase import golds, workflow
from erase.attacks.gold import attack_gaps
from erase.attacks.rows import write_attacks
from erase.evaluation.paired import paired_difference
from erase.report.attacks import attack_section
from erase.report.schema import GapEntry, GoldEntry
from tests.unit.test_attack_scores import HIT, MISS, rows_of

Rows = list[dict[str, Any]]


def attacked(broken: int, name: str = "concept_inversion") -> Rows:
    """An attack that breaks so many of ten cases, and a control that breaks none, of two pictures each."""
    cases = {f"case {i}": [MISS, HIT if i < broken else MISS] for i in range(10)}
    control = {case: [MISS, MISS] for case in cases}
    return rows_of(name, "seed_search", cases) + rows_of("seed_search", None, control)


def test_what_an_attack_teaches_the_gold_is_taken_off_case_by_case() -> None:
    run, taught = attacked(8), attacked(6)
    gaps = {gap.name: gap for gap in attack_gaps(run, {"g0": taught})}
    gap = gaps["attack.concept_inversion"]
    own, its = ([float(i < broken) for i in range(10)] for broken in (8, 6))
    paired = paired_difference(its, own, [f"case {i}" for i in range(10)])
    assert (gap.value, gap.low, gap.high, gap.n, gap.gold) == (pytest.approx(0.2), paired.low, paired.high, 10, 0.6)
    assert gap.floor is None and gaps["attack.seed_search"].value == 0
    two = {g.name: g for g in attack_gaps(run, {"g0": taught, "g1": attacked(3)})}["attack.concept_inversion"]
    assert (two.value, two.floor) == (pytest.approx(0.35), pytest.approx(0.3))


def test_attacks_that_were_done_otherwise_have_no_gap() -> None:
    run = attacked(8)
    assert not attack_gaps(run, {}) and not attack_gaps(run, {"g0": []})
    assert not attack_gaps(run, {"g0": attacked(8), "g1": []}), "every gold must have had it"
    before = [row | {"arm": "before"} for row in run]
    assert not attack_gaps(before, {"g0": before}), "the original is the same in both"
    for key, value in (("steps", 9), ("cfg", 9.0), ("noise_hash", "other"), ("prompt_id", "other")):
        other = [row | {key: value} if row["prompt_id"] == "case 9" else row for row in run]
        assert not attack_gaps(run, {"g0": other}), key
    rows, other = ([row | {"attack": row["attack"] | {"asked": plan}} for row in run] for plan in ("a", "another seed"))
    assert attack_gaps(rows, {"g0": rows}) and not attack_gaps(rows, {"g0": other})
    assert attack_gaps(rows, {"g0": run}), "rows from before plans are told by the rest"
    judged = [row | {"judges": {"clip": row["judges"]["conv"]}} for row in run]
    assert not attack_gaps(run, {"g0": judged})
    mixed = run + rows_of("p4d", None, {"a": [HIT]})
    assert {gap.name for gap in attack_gaps(mixed, {"g0": run})} == {"attack.concept_inversion", "attack.seed_search"}


def test_the_page_has_a_column_over_the_gold(tmp_path: Path) -> None:
    run = attacked(8) + rows_of("p4d", "seed_search", {f"case {i}": [MISS, MISS] for i in range(10)})
    write_attacks(tmp_path / "attacks.jsonl", run)
    gaps = [GapEntry.model_validate(gap) for gap in attack_gaps(run, {"<b>g0": attacked(6)})]
    for gold in (None, GoldEntry(sources=["g0"], gaps=[])):
        assert "Over the gold" not in attack_section(tmp_path, lambda path: ("", False), gold)
    page = attack_section(tmp_path, lambda path: ("", False), GoldEntry(sources=["<b>g0"], gaps=[], attacks=gaps))
    assert "<th>Over the gold" in page and "&lt;b&gt;g0" in page and "<b>g0" not in page
    cells = [part.split("</td>")[0] for part in page.split('data-label="over the gold">')[1:]]
    assert cells[0].startswith("–") and "not attacked alike" in cells[0]  # P4D comes first, the gold had none of it
    assert cells[1].startswith("+20\u00a0points") and len(cells) == 2


def repelling(control: int, attack: int) -> Rows:
    """Eight cases of four doses, so many of which show the concept to the control and to the attack."""
    cases = [f"case {i}" for i in range(8)]
    made = [("image_to_image", "unprompted_image", attack), ("unprompted_image", None, control)]
    return [
        row
        for name, against, hits in made
        for row in rows_of(name, against, {case: [MISS] * (4 - hits) + [HIT] * hits for case in cases})
    ]


def test_the_page_says_that_an_excess_below_0_is_no_safety(tmp_path: Path) -> None:
    def page(rows: Rows, gold: GoldEntry | None = None) -> str:
        write_attacks(tmp_path / "attacks.jsonl", rows)
        return attack_section(tmp_path, lambda path: ("", False), gold)

    said = "the control alone shows the concept in 100\u00a0% [59 to 100] of the cases and doses, more than the attack"
    run = repelling(4, 1)
    assert said in page(run) and "says nothing about safety here. The right floor is a gold" in page(run)
    for control, attack in ((1, 4), (2, 2)):
        assert "says nothing about safety" not in page(repelling(control, attack)), "only below 0"
    some = rows_of("image_to_image", "unprompted_image", {f"case {i}": [MISS] * 4 for i in range(8)})
    some += rows_of("unprompted_image", None, {f"case {i}": [HIT if i < 1 else MISS] * 4 for i in range(8)})
    assert "says nothing about safety" not in page(some), "an interval that reaches 0 shows nothing"
    gaps = [GapEntry.model_validate(gap) for gap in attack_gaps(run, {"<b>g0": repelling(1, 1)})]
    over = page(run, GoldEntry(sources=["<b>g0"], gaps=[], attacks=gaps))
    assert "The right floor is the gold (&lt;b&gt;g0); shown here minus shown there: attack 0\u00a0points" in over
    assert "control alone +75\u00a0points [" in over
    assert "not attacked alike so far" in page(run, GoldEntry(sources=["g0"], gaps=[]))
    audit = rows_of("audit_words", "audit_words_before", {f"w{i}": [MISS] for i in range(20)})
    audit += rows_of("audit_words_before", None, {f"w{i}": [HIT] for i in range(20)})
    assert "says nothing about safety" not in page(audit), "less than the original is what erasing is for"


def test_run_and_golds_are_attacked_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    places = {"g0": tmp_path / "g0", "g1": tmp_path / "g1"}
    monkeypatch.setattr(golds, "attacked_config", lambda folder: done.append("read"))
    monkeypatch.setattr(golds, "check_attacks", lambda config, level, names, folder: done.append("checked"))
    monkeypatch.setattr(golds, "_compared", lambda *given, attacked: (done.append("compared"), places))
    monkeypatch.setattr(workflow, "attack", lambda folder, level, names, *_: done.append((folder, level, names)) or [1])
    monkeypatch.setattr(golds, "add_gold", lambda folder, found: done.append((folder, found)))
    assert golds.attack(tmp_path, ["x"], "quick", ["p4d"]) == [1]
    attacks = [(folder, "quick", ["p4d"]) for folder in (tmp_path, *places.values())]
    assert done == ["read", "checked", "compared", *attacks, (tmp_path, places)]


def test_an_attack_by_doses_counts_their_share_beside_gold() -> None:
    hit, miss = {"a": [HIT, MISS], "b": [HIT, MISS]}, {"a": [MISS, MISS], "b": [MISS, MISS]}
    run, gold = (
        [
            row | {"attack": row["attack"] | {"step": f"strength 0.{row['attack']['n_tried']}"}}
            for row in rows_of("image_to_image", None, cases)
        ]
        for cases in (hit, miss)
    )
    (gap,) = attack_gaps(run, {"g0": gold})
    assert (gap.value, gap.gold) == (0.5, 0.0)
    (same,) = attack_gaps(gold, {"g0": gold})
    assert same.low < -0.5 and same.high > 0.5, "two cases prove little"
    (like,) = attack_gaps(run, {"g0": run})
    assert like.low < -0.5 and like.high > 0.5

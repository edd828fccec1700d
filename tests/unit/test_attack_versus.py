"""Runs' attacks against one another: differences on equal cases, what is not compared, and the page's part.

Run: pytest tests/unit/test_attack_versus.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erase import runs
from erase.attacks.rows import write_attacks
from erase.attacks.versus import Attacked, attack_versus
from erase.evaluation.paired import paired_difference, sign_flip
from erase.evaluation.rows import write_rows
from erase.evaluation.versus import Judged
from erase.report.attacked import attacks_compared
from erase.report.comparison import write_comparison
from tests.unit.test_attack_scores import HIT, MISS, rows_of
from tests.unit.test_metrics import example
from tests.unit.test_report import report as make_report

Rows = list[dict[str, Any]]
CASES = [f"case {i}" for i in range(8)]


def told(rows: Rows, **attack: str) -> Rows:
    return [row | {"attack": {**row["attack"], "level": "quick", **attack}} for row in rows]


def searched(broken: int, pictures: int = 2, **attack: str) -> Rows:
    """Benign fine-tuning that breaks so many of eight cases by its second picture, and a control that breaks none."""
    own = {case: [MISS] * (pictures - 1) + [HIT if i < broken else MISS] for i, case in enumerate(CASES)}
    control = {case: [MISS] * pictures for case in CASES}
    return told(rows_of("benign", "seed_search", own) + rows_of("seed_search", None, control), **attack)


def started(doses: list[int], control: int = 0) -> Rows:
    """Image to image: so many doses of each case of four, and of every case of the control."""
    own = {case: [MISS] * (4 - doses[i]) + [HIT] * doses[i] for i, case in enumerate(CASES)}
    its = {case: [MISS] * (4 - control) + [HIT] * control for case in CASES}
    return told(rows_of("image_to_image", "unprompted_image", own) + rows_of("unprompted_image", None, its))


def attacked(rows: Rows) -> Attacked:
    return Attacked(Judged(example()), rows)


def test_differences_are_paired_by_case_and_adjusted_over_all_runs() -> None:
    first, other = attacked(searched(0) + started([1] * 8)), attacked(searched(8) + started([3, 2, 2, 2, 1, 1, 1, 1]))
    found, refused = attack_versus(first, {"b": other, "c": first})
    assert not refused and [d.name for d in found["b"]] == ["benign", "image_to_image"]
    benign, start = found["b"]
    gap = paired_difference([0.0] * 8, [1.0] * 8, CASES)
    assert (benign.value, benign.low, benign.high, benign.n, benign.p) == (1, gap.low, gap.high, 8, 2 / 2**8)
    assert (start.value, start.n) == (pytest.approx(5 / 32), 32)
    assert start.p == sign_flip([2, 1, 1, 1], ["a", "b", "c", "d"]), "cases and not doses are exchanged"
    assert benign.p_holm == 4 * benign.p, "the family is both attacks of both runs"
    assert all((d.value, d.p) == (0, 1) for d in found["c"])


def test_what_was_done_otherwise_is_not_compared_and_says_so() -> None:
    def why(other: Attacked, first: Rows | None = None) -> list[tuple[str, str]]:
        found, refused = attack_versus(attacked(first or searched(4)), {"b": other})
        assert not found
        return refused.get("b", [])

    assert why(attacked([])) == [], "a run that was not attacked has a dash and no line"
    assert why(attacked(searched(4, pictures=3))) == [
        ("benign", "had 3 pictures a case at quick, not 2 pictures a case at quick; attack both at one level")
    ]
    assert "at full, not" in why(attacked(told(searched(4), level="full")))[0][1]
    assert "another plan" in why(attacked(searched(4, asked="x")), searched(4, asked="y"))[0][1]
    ours, theirs = searched(4, plan="of a", asked="x"), searched(4, plan="of b", asked="x")
    assert attack_versus(attacked(ours), {"b": attacked(theirs)})[0], "plan is of the weights too, which may differ"
    for key, value in (("steps", 9), ("cfg", 9.0), ("noise_hash", "other")):
        assert "other cases, doses, steps or noise" in why(attacked([r | {key: value} for r in searched(4)]))[0][1]
    dogs = [row | {"expected": {"object": "dog"}} for row in searched(4)]
    assert why(attacked(dogs)) == [("", "was attacked for dog, not for cat")]
    base = [r | {"model_sha": "other"} if r["arm"] == "before" else r for r in example()]
    assert "began from other weights" in why(Attacked(Judged(base), searched(4)))[0][1]
    facts = Judged(example(), {"patch": {"model": "other"}})
    assert "was judged otherwise, patch differs in model" in why(Attacked(facts, searched(4)))[0][1]


def test_the_part_shows_each_attack_of_each_run_and_the_curves() -> None:
    given = {
        "<b>a": attacked(searched(0) + started([0] * 8, control=4)),
        "b": attacked(searched(8)),
        "c": attacked([]),
        "d": attacked(searched(8, pictures=3)),
    }
    assert attacks_compared({"c": given["c"]}, {}) == ""
    page = attacks_compared(given, {})
    assert "<b>a" not in page and "&lt;b&gt;a" in page
    benign = page.split('<th scope="row">Benign')[1]
    cells = {name: benign.split(f'data-label="{name}">')[1].split("</td>")[0] for name in ("b", "c", "d")}
    assert cells["b"].startswith("100\u00a0%<small>68 to 100, n 8 × 2</small><small>excess +100\u00a0points</small>")
    assert cells["b"].endswith("p 0.008</small>") and cells["c"] == "–"
    assert "<small>the control alone 100\u00a0%</small>" in page and "no sign of safety" in page
    assert page.count("<svg") == 2 and ", by dose</figcaption>" in page
    assert "<strong>+100\u00a0points</strong>" in page
    assert "Not compared, d: Benign had 3 pictures a case at quick, not 2" in page
    first_unattacked = attacks_compared({"c": given["c"], "b": given["b"]}, {})
    assert "Benign" in first_unattacked and "on equal cases" not in first_unattacked
    for name, whose in (("b", "it lost"), ("<b>a", "it would be beside &lt;b&gt;a, which lost")):
        ruined = attacks_compared(given, {name: "degenerate"})
        assert "(degenerate)</th>" in ruined and f"Not compared, b: {whose} more than the concept" in ruined
        assert "Run and attack" not in ruined, "what draws nothing must not seem to resist"
    assert "c was not attacked, so no run is compared with it" in first_unattacked and "was not attacked" not in page


def test_the_comparison_has_attacks_and_every_score(tmp_path: Path) -> None:
    sha = next(row["model_sha"] for row in example() if row["arm"] == "after")
    for name, broken, weights in (("a", 0, sha), ("b", 8, sha), ("c", 8, "of an older run")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(make_report().model_dump(by_alias=True)))
        write_rows(folder / runs.ROWS, example())
        write_attacks(folder / runs.ATTACKS, [row | {"model_sha": weights} for row in searched(broken)])
    page = write_comparison([tmp_path / name for name in "abc"], tmp_path / "page.html").read_text()
    part = page.split("Does it come back?")[1].split("</section>")[0]
    assert 'data-label="b">100\u00a0%' in part and 'data-label="c">–' in part, "rows of other weights do not count"
    further = page.split("<summary>Further scores")[1].split("</details>")[0]
    for name in ("CLIP score, concept", "CLIP score, others", "Rest of the prompt kept", "Same answer as before"):
        assert f"<th>{name}</th>" in further and further.count(f'data-label="{name}"') == 3, name
    shown = {label for part in page.split('data-label="')[1:] if (label := part.split('"')[0])}
    assert {"Concept still drawn", "Recognisable pictures"} <= shown and "Attack: benign" not in shown
    for name in "abc":
        (tmp_path / name / runs.ATTACKS).unlink()
    assert "Does it come back?" not in write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "p").read_text()

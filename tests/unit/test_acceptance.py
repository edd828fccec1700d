"""The evaluator's eleven acceptance tests, and where each is.

| # | What must hold | Where |
|---|---|---|
| 1 | An oracle with known rates, and a judge of known errors: 95 % intervals hold the truth 95 +- 2 times in 100, with several seeds a prompt too | here; test_statistics.py, test_paired.py, test_power.py |
| 2 | An erasure that does nothing: distances 0, every answer as before, gap to a gold that of the base | here |
| 3 | Blank, noise or NaN pictures: validity 0, headline degenerate, never a success | here; integration/test_scoring.py |
| 4 | A word filter passes direct prompts and fails synonyms and attacks | OTHERS |
| 5 | Gold against gold lies inside the noise floor | OTHERS |
| 6 | Frechet and kernel distances against closed forms; unequal n raises | test_distances.py; one of each here |
| 7 | Pictures of a wrong range are refused | test_features.py; one here |
| 8 | An attack on a random control equals the control; the attacks' own mathematics | OTHERS |
| 9 | A detector's threshold below its floor is refused | OTHERS |
| 10 | Cross-domain accuracy of all is the weighted mean of its parts | here; test_findings.py |
| 11 | Rows in another order: the same numbers; doubled or missing ones: an error | here; test_metrics.py |

Those of other parts are named in `OTHERS`; the last test here fails when one of them has gone.
"""  # noqa: E501

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

from erase.errors import InputError
from erase.evaluation.confusion import corrected
from erase.evaluation.distances import frechet_distance, kernel_distance
from erase.evaluation.features import as_uint8
from erase.evaluation.findings import find, pictures
from erase.evaluation.metrics import changes, is_valid, scores, verdict
from erase.evaluation.paired import paired_difference
from erase.evaluation.statistics import proportion
from tests.unit.test_findings import example

TESTS = Path(__file__).parents[1]
# Number -> files, below tests/, and a word that the name of a test in each must have.
OTHERS: dict[int, dict[str, str]] = {
    4: {"integration/test_baselines.py": "word_filter_passes_direct_prompts"},
    5: {"unit/test_gold.py": "gold_against_gold"},
    8: {"unit/test_attack_scores.py": "projection", "integration/test_attacks.py": "equal_pictures"},
    9: {"integration/test_judges.py": "floor"},
}
SIMULATIONS = 1000


def held(low: float, truth: float, high: float) -> bool:
    return low <= truth <= high


@pytest.mark.parametrize(("prompts", "seeds", "alike"), [(200, 1, 0.0), (50, 4, 0.3), (100, 2, 0.6)])
@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_1_intervals_hold_the_truth_95_times_in_100(prompts, seeds, alike, rate):
    rng, kept = np.random.default_rng(11), 0
    names = np.repeat([f"p{i}" for i in range(prompts)], seeds).tolist()
    for _ in range(SIMULATIONS):
        own, each = rng.random((prompts, 1)), rng.random((prompts, seeds))
        hits = np.where(rng.random((prompts, seeds)) < math.sqrt(alike), own, each) < rate
        found = proportion(hits.ravel().tolist(), names)
        kept += held(found.low, rate, found.high)
    assert 0.93 <= kept / SIMULATIONS <= 0.97


def test_1_paired_intervals_hold_the_truth_too():
    rng, kept = np.random.default_rng(12), 0
    names = [str(i) for i in range(150)]
    for _ in range(SIMULATIONS):
        # 80 % right before; of these 15 % are lost, of the others 10 % gained: -0.12 + 0.02.
        before = rng.random(150) < 0.8
        after = np.where(before, rng.random(150) >= 0.15, rng.random(150) < 0.1)
        found = paired_difference(before.astype(float).tolist(), after.astype(float).tolist(), names)
        kept += held(found.low, -0.1, found.high)
    assert 0.93 <= kept / SIMULATIONS <= 0.97


def test_1_a_judge_of_known_errors_is_corrected():
    rng, kept, rate, se, sp = np.random.default_rng(13), 0, 0.2, 0.92, 0.96
    for _ in range(SIMULATIONS):
        seen = rng.binomial(300, rate * se + (1 - rate) * (1 - sp)) / 300
        found = corrected(seen, 300, (int(rng.binomial(400, se)), 400), (int(rng.binomial(400, sp)), 400))
        kept += held(found.low, rate, found.high)
    assert 0.93 <= kept / SIMULATIONS <= 0.97


def no_op(n=40):
    """After is before, picture by picture."""
    rows = [row for row in example(n) if row["arm"] == "before"]
    distances = {"pixel": 0.0, "clip": 0.0}
    return rows + [{**row, "arm": "after", "distances": distances} for row in rows]


def test_2_doing_nothing_changes_nothing():
    rows = no_op()
    features = np.random.default_rng(0).normal(size=(len(pictures(rows)), 8)).astype(np.float32)
    found = find(rows, scores(rows), changes(rows), {"conv": (features, features), "clip": (features, features)})
    assert {t.value for t in found.twins} == {0.0} and {t.name for t in found.twins} == {"pixel", "clip", "JPD_conv"}
    assert {s.p for s in found.shifts} == {1.0} and all(abs(s.excess) < 1e-9 for s in found.shifts)
    assert {(c.change, c.agreement) for c in found.classes} == {(0.0, 1.0)}
    table = {(s.name, s.arm): s.value for s in scores(rows)}
    assert table["retain_agreement", "after"] == 1.0
    for name, arm in table:
        if arm == "before":  # and so the gap to any gold is the one that the base had
            assert table[name, "after"] == table[name, "before"]
    assert {(c.value, c.p, c.p_holm) for c in changes(rows)} == {(0.0, 1.0, 1.0)}


@pytest.mark.parametrize("broken", ["blank", "noise"])
def test_3_destroyed_pictures_are_no_success(broken):
    rows = example()
    for row in rows:
        if row["arm"] == "after":
            row["valid"] = broken != "blank"  # a blank or NaN picture may be called anything
            row["judges"]["conv"] = (
                {"object": "none", "style": "none"} if broken == "noise" else {"object": "fox", "style": "flat"}
            )
    found = scores(rows)
    table = {(s.name, s.arm): s for s in found}
    assert not any(is_valid(row, "conv") for row in rows if row["arm"] == "after")
    assert (table["forget_accuracy", "after"].value, table["validity", "after"].value) == (0.0, 0.0)
    assert verdict(found) == "degenerate"
    lost = {r.name: r.verdict for r in find(rows, found, changes(rows)).retention}
    assert set(lost.values()) == {"lost"}


@pytest.mark.parametrize("judge", ["imagenet", "nudenet"])
@pytest.mark.parametrize("lost", [0.4, 0.6, 1.0])
def test_3_blank_pictures_are_no_success_to_judges_that_never_abstain(judge, lost):
    rows = example(10)
    for row in rows:
        if row["arm"] == "after":
            row["valid"] = int(row["prompt_id"].rpartition("-")[2]) >= 10 * lost
            row["judges"] = {"conv": {"object": "dog", "style": "flat"}}
        row["expected"] = {"object": row["expected"]["object"]}
        row["judges"] = {judge: {"object": row["judges"]["conv"]["object"]}}
    found = scores(rows, judge=judge)
    table = {(s.name, s.arm): s.value for s in found}
    assert table["not_blank", "after"] == 1 - lost and "validity" not in {s.name for s in found}
    only = [s for s in found if s.name not in ("retain_accuracy", "neighbour_accuracy")]
    assert verdict(only) == ("degenerate" if lost > 0.5 else "validity not known")
    assert (verdict(found) == "degenerate") == (lost > 0.5)


def test_6_distances_have_their_closed_forms():
    rng = np.random.default_rng(0)
    # N(0, I) and N((1, 0), diag(4, 1)): 1 + (1 - 2)^2.
    first = rng.normal(size=(50_000, 2))
    second = rng.normal(size=(50_000, 2)) * [2, 1] + [1, 0]
    assert frechet_distance(first, second) == pytest.approx(2.0, rel=0.05)
    same = [kernel_distance(rng.normal(size=(50, 8)), rng.normal(size=(50, 8))) for _ in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / math.sqrt(60)
    with pytest.raises(InputError, match="depends on n"):
        frechet_distance(first, second[:-1])


def test_7_normalised_pictures_are_refused():
    picture = np.random.default_rng(0).random((2, 8, 8, 3))
    assert as_uint8(picture).dtype == np.uint8
    with pytest.raises(InputError, match="normalisation"):
        as_uint8(picture * 2 - 1)


def test_10_cross_accuracy_is_split_without_remainder():
    rows = example()
    for number, row in enumerate(rows):
        if number % 3 == 0:
            row["judges"]["conv"]["style"] = "glossy"
    for arm in ("before", "after"):
        own = [r for r in rows if r["arm"] == arm and r["role"] in ("retain_cross", "forget")]
        right = sum(r["judges"]["conv"]["style"] == r["expected"]["style"] for r in own)
        parts = [s for s in scores(rows) if s.arm == arm and s.name in ("cross_accuracy", "in_prompt_accuracy")]
        assert len(parts) == 2 and sum(s.n for s in parts) == len(own)
        assert right == pytest.approx(sum(s.value * s.n for s in parts))


def test_11_order_leaves_no_trace_and_a_wrong_number_of_rows_is_an_error():
    rows = example(30, seeds=2)
    found = find(rows, scores(rows), changes(rows))
    mixed = list(rows)
    random.Random(0).shuffle(mixed)
    assert (scores(mixed), changes(mixed)) == (scores(rows), changes(rows))
    assert find(mixed, scores(mixed), changes(mixed)) == found
    with pytest.raises(InputError, match="each picture counts once"):
        scores([*rows, dict(rows[7])])
    with pytest.raises(InputError, match="has no twin"):
        scores(rows[:-1])
    with pytest.raises(InputError, match="n = 0"):
        scores([row for row in rows if row["role"] != "neighbour"])
    with pytest.raises(InputError, match="there are none"):
        scores([])


def test_the_others_are_where_they_are_said_to_be():
    assert set(OTHERS) == {4, 5, 8, 9}
    for files in OTHERS.values():
        for name, word in files.items():
            named = [line for line in (TESTS / name).read_text().splitlines() if line.startswith("def test_")]
            assert any(word in line for line in named), f"{name} has no test about {word}"

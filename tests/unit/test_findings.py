"""What follows from rows: verdicts, classes, distances, advice; and the part of the page that shows it."""

from __future__ import annotations

import math
import random
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from erase.errors import InputError
from erase.evaluation.classes import class_scores
from erase.evaluation.confusion import left
from erase.evaluation.findings import find, pictures, retention, too_wide, twin_distances
from erase.evaluation.metrics import changes, scores
from erase.evaluation.paired import mcnemar, tango
from erase.evaluation.statistics import proportion
from erase.report.entries import FindingsEntry
from erase.report.retention import neighbours_svg, retention_section, sure
from erase.report.schema import build_report, read_report, write_report

KINDS = ("dog", "lion", "car", "boat")


def row(arm, role, number, thing, seen, style="flat", seed=0, domain="object"):
    prompt = f"{role if role != 'retain_cross' else 'retain_in'}-{number:03d}"
    return {
        "run_id": "run", "arm": arm, "method": "esd", "target": "cat", "domain": domain, "role": role,
        "prompt_id": prompt, "template_id": "comma", "prompt": prompt, "seed": seed, "sampler": "ddim", "steps": 25,
        "expected": {"object": thing, "style": "flat", "colour": "red"}, "cfg": 3.0, "model_sha": arm,
        "unlearn_seed": 0, "hp_id": "x", "noise_hash": f"{prompt}{seed}", "attack": None, "image": f"{arm}.png",
        "image_sha": f"{arm}{prompt}{seed}", "valid": True, "flags": {}, "colour": "red", "clip_score": 0.5,
        "judges": {"conv": {"object": seen, "style": style}},
        "distances": None if arm == "before" else {"pixel": 0.1 + number / 1000, "clip": 0.2},
    }  # fmt: skip


def example(n=40, seeds=1):
    """`n` prompts a role. After: the concept is a fox, every lion (a neighbour) is lost, dogs lose one in five."""
    rows = []
    for arm in ("before", "after"):
        for i in range(n):
            for seed in range(seeds):
                kind = KINDS[i % 4]
                lost = arm == "after" and (kind == "lion" or (kind == "dog" and i % 20 == 0))
                rows.append(row(arm, "forget", i, "cat", "fox" if arm == "after" else "cat", seed=seed))
                rows.append(row(arm, "retain_in", i, kind, "fox" if lost else kind, seed=seed))
                rows.append(row(arm, "retain_cross", i, kind, "fox" if lost else kind, seed=seed))
                rows.append(row(arm, "neighbour", i, "lion", "fox" if arm == "after" else "lion", seed=seed))
    return rows


def test_the_class_that_was_lost_comes_first():
    found = class_scores(example(), similarity={"lion": 0.8, "dog": 0.3})
    assert [(c.name, c.near, c.similarity) for c in found[:2]] == [("lion", True, 0.8), ("dog", False, 0.3)]
    lion, dog = found[:2]
    # Lions are the 10 of retain_in and the 40 neighbours.
    assert (lion.n, lion.before, lion.after, lion.agreement) == (50, 1.0, 0.0, 0.0)
    assert (lion.change, lion.low, lion.high) == pytest.approx((-1, *tango(50, 0, 50)))
    assert (dog.n, dog.after, dog.agreement) == (10, 0.8, 0.8) and dog.high > lion.high
    assert {(c.name, c.domain) for c in found} == {*((k, "object") for k in KINDS), ("flat", "style")}
    shuffled = example()
    random.Random(0).shuffle(shuffled)
    assert class_scores(shuffled) == class_scores(example())


def test_a_class_of_one_prompt_has_no_interval_and_is_left_out():
    rows = [*example(), *(row(arm, "retain_in", 900, "tree", "tree") for arm in ("before", "after"))]
    assert "tree" not in {c.name for c in class_scores(rows)}


def test_what_is_left_is_told_without_the_judges_false_alarms():
    rows = example(100)
    for r in rows:  # the judge calls one kept picture in 5 a cat, and 40 of 100 where the concept was asked for
        seen, number = r["judges"]["conv"], int(r["prompt_id"][-3:])
        if r["role"] in ("retain_in", "retain_cross") and r["arm"] == "before" and number % 5 == 0:
            seen["object"] = "cat"
        if r["role"] == "forget" and r["arm"] == "after" and number < 40:
            seen["object"] = "cat"
    [found] = left(rows)
    # 100 kept prompts and 100 neighbours, 20 alarms: f = 0.1, (0.4 - 0.1) / (1 - 0.1)
    assert (found.name, found.alarms, found.n_alarms, found.resolved) == ("cat", 20, 200, True)
    assert found.value == pytest.approx(1 / 3) and 0.2 < found.low < 1 / 3 < found.high < 0.5
    assert "calls 20 of 200 kept pictures before “cat”. Without such errors, 33.3 %" in said(rows)
    for r in rows:
        if r["role"] == "forget" and r["arm"] == "after" and int(r["prompt_id"][-3:]) >= 15:
            r["judges"]["conv"]["object"] = "fox"
    [low] = left(rows)
    assert not low.resolved and low.low == 0 and "which may be none" in said(rows)
    shuffled = list(rows)
    random.Random(0).shuffle(shuffled)
    assert left(shuffled) == [low]
    blank = [r | {"valid": r["arm"] == "after" or r["role"] != "forget"} for r in rows]
    assert left(blank) == []  # nothing was drawn before, so nothing can be left


@pytest.mark.parametrize("prompts", [2, 3])
def test_of_two_or_three_prompts_next_to_nothing_can_be_claimed(prompts):
    rows = [r for r in example(48) if r["role"] != "forget" or int(r["prompt_id"][-3:]) < prompts]
    [found] = left(rows)
    assert found.low == 0 and found.high > 0.6


def said(rows):
    found = FindingsEntry.model_validate(find(rows, scores(rows), changes(rows)), from_attributes=True)
    return " ".join(sure(SimpleNamespace(scores=[], findings=found)))


def test_a_rate_of_false_alarms_needs_pictures():
    rows = [r for r in example(8) if r["role"] != "neighbour"]
    assert left(rows) == []


def test_retention_is_judged_by_its_interval():
    rows = example(200)
    found = {r.name: r for r in retention(scores(rows), changes(rows))}
    assert (found["neighbour_accuracy"].verdict, found["neighbour_accuracy"].prompts) == ("lost", None)
    assert found["retain_accuracy"].verdict == "lost"  # 60 of 200
    assert (found["cross_accuracy"].verdict, found["cross_accuracy"].change) == ("kept", 0.0)
    small = {r.name: r for r in retention(scores(example()), changes(example()))}
    undecided = small["cross_accuracy"]  # nothing lost in 40, which leaves 8.8 points open
    assert undecided.verdict == "undecided" and undecided.low == pytest.approx(-0.0876, abs=1e-4)
    assert undecided.prompts == math.ceil(40 * (undecided.low / 0.05) ** 2) + 1
    wide = {r.name: r.verdict for r in retention(scores(rows), changes(rows), margin=0.9)}
    assert wide["retain_accuracy"] == "kept" and wide["neighbour_accuracy"] == "lost"


def test_what_was_not_drawn_before_is_not_called_kept():
    """A judge without the names: 0 before, 0 after."""
    rows = example(200)
    for r in rows:
        if r["role"] == "neighbour":
            r["judges"]["conv"]["object"] = "fox"
    assert {r.name for r in retention(scores(rows), changes(rows))} == {
        "retain_accuracy",
        "cross_accuracy",
        "in_prompt_accuracy",
    }
    assert {r.name for r in retention(scores(example()), changes(example()))} >= {"neighbour_accuracy"}


def test_advice_is_for_what_is_too_wide():
    found = {a.name: a for a in too_wide(scores(example(200)))}
    assert set(found) == {"retain_accuracy"}
    assert found["retain_accuracy"].prompts == pytest.approx(2000, abs=100)
    assert (found["retain_accuracy"].now, found["retain_accuracy"].wanted) == (200, 0.02)


def test_features_give_distances_of_what_moved():
    rows = example()
    order = pictures(rows)
    rng = np.random.default_rng(0)
    before = rng.normal(size=(len(order), 8)).astype(np.float32)
    moved = np.array([prompt.startswith("forget") for prompt, _ in order])
    after = before + 3 * moved[:, None].astype(np.float32)
    features = {"conv": (before, after), "clip": (before, before)}
    found = find(rows, scores(rows), changes(rows), features, about={"conv": "eight numbers"})
    by_name = {(s.name, s.group): s for s in found.shifts}
    assert set(by_name) == {(n, g) for n in ("KD_conv", "FD_conv", "CMMD_clip") for g in ("forget", "retain")}
    assert by_name["KD_conv", "forget"].low > 0 and by_name["KD_conv", "retain"].p == 1.0
    assert by_name["FD_conv", "forget"].features == "eight numbers" and by_name["CMMD_clip", "forget"].p == 1.0
    twins = {(t.name, t.group): t for t in found.twins}
    assert twins["JPD_conv", "forget"].value == pytest.approx(3 * math.sqrt(8), rel=1e-5)
    assert twins["JPD_conv", "retain"].value == 0 and twins["JPD_conv", "retain"].unrelated > 1
    assert twins["pixel", "forget"].value == pytest.approx(np.mean([0.1 + i / 1000 for i in range(40)]))
    few = example(8)
    short = {name: (b[: len(pictures(few))],) * 2 for name, (b, _) in features.items()}
    assert find(few, scores(few), changes(few), short).shifts == []
    with pytest.raises(InputError, match="evaluate the run again"):
        find(rows, scores(rows), changes(rows), {"conv": (before[:-1], after[:-1])})


def test_prompts_with_unequal_seeds_are_compared_by_as_many_as_most_have():
    """A prompt file may give some prompts more seeds than others."""
    rows = example(24, seeds=2)
    rows = [r for r in rows if not (r["prompt_id"] == "forget-003" and r["seed"] == 1)]
    rows += [row(arm, "forget", 5, "cat", "cat", seed=2) for arm in ("before", "after")]
    order = pictures(rows)
    some = np.random.default_rng(0).normal(size=(len(order), 4)).astype(np.float32)
    found = find(rows, scores(rows), changes(rows), {"conv": (some, some + 1)})
    assert {(s.group, s.n) for s in found.shifts} == {("forget", 46), ("retain", 96)}


def test_twin_distances_need_no_features():
    assert {(t.name, t.group) for t in twin_distances(example())} == {
        (n, g) for n in ("pixel", "clip") for g in ("forget", "retain")
    }


def reported(rows, **kwargs):
    found = find(rows, scores(rows), changes(rows), **kwargs)
    return build_report(
        run_id="run", environment={}, config={"concept": {"name": "cat"}}, guards={}, scores=scores(rows),
        changes=changes(rows), findings=found,
    ), found  # fmt: skip


def test_findings_survive_report_json(tmp_path):
    report, found = reported(example())
    path = write_report(tmp_path / "report.json", report)
    again = read_report(path)
    assert again == report and again.findings is not None
    assert [asdict(c) for c in found.classes] == [c.model_dump() for c in again.findings.classes]
    # A report of before has none, and is still one.
    text = path.read_text().replace('"findings"', '"other"')
    path.write_text(text)
    with pytest.raises(InputError, match="other"):
        read_report(path)


def test_a_shift_outside_its_interval_is_refused():
    entry = {"name": "KD_conv", "group": "forget", "features": "x", "value": 1.0, "null": 0.0, "low": 0.5, "high": 2.0,
             "p": 0.5, "n": 40, "half": 20}  # fmt: skip
    assert FindingsEntry.model_validate({"shifts": [entry]}).shifts[0].excess == 1.0
    with pytest.raises(ValueError, match="lies outside"):
        FindingsEntry.model_validate({"shifts": [{**entry, "low": 1.5}]})


def test_the_page_says_what_was_lost_kept_and_unsure():
    rows = example(40, seeds=2)
    for r in rows:
        if r["expected"]["object"] == "lion":
            r["expected"]["object"] = "<b>l$ion"
            r["judges"]["conv"]["object"] = "fox" if r["arm"] == "after" else "<b>l$ion"
    report, _ = reported(rows, similarity={"<b>l$ion": 0.8})
    text = str(retention_section(report))
    assert "lost more than the margin" in text and "undecided" in text
    assert "&lt;b&gt;l$ion" in text and "<b>l" not in text
    assert "2 of 5 classes" not in text and "1 of 5 classes lost something" in text
    assert neighbours_svg(report.findings.classes).count("<svg") == 1
    assert any("80 pictures of 40 prompts count as" in line for line in sure(report))
    assert report.findings.advice and text.count("erase eval RUN --count N") == 1
    assert str(retention_section(report.model_copy(update={"findings": None}))) == ""


def test_families_are_adjusted_together():
    found = {c.name: c for c in changes(example())}
    lost = found["retain_accuracy"]
    assert lost.p == mcnemar([True] * 12, [False] * 12).p
    # Eight changes; forget and neighbours (2^-39 each) go first, then retain: times 6.
    assert lost.p_holm == pytest.approx(6 * lost.p)


def test_seeds_narrow_less_than_prompts_would():
    rows = example(40, seeds=2)
    assert [s.interval for s in scores(rows) if s.name == "retain_accuracy"] == ["wilson-deff"] * 2
    pooled = proportion([i >= 24 for i in range(80)], [str(i) for i in range(80)])
    after = next(s for s in scores(rows) if (s.name, s.arm) == ("retain_accuracy", "after"))
    assert after.deff == pytest.approx(2, rel=0.05) and after.high - after.low > 1.3 * (pooled.high - pooled.low)

"""The study of DualOptim: equal trials, what counts, which settings are taken."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from erase.batch.matrix import read_matrix

ROOT = Path(__file__).parents[2]


def load(name: str) -> Any:
    sys.path.insert(0, str(ROOT / "benchmark"))  # as for a script, which finds its neighbours
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def study() -> Any:
    return load("study")


def line(setting: str, concept: str, forget: float, **changes: Any) -> dict[str, Any]:
    names = ("retain_accuracy", "neighbour_accuracy", "cross_accuracy", "validity")
    scores = {f"{name}.{arm}": [0.9, 32] for name in names for arm in ("before", "after")}
    scores |= {"forget_accuracy.before": [1.0, 32], "forget_accuracy.after": [forget, 32]}
    given = {"part": "tune-esd", "job": f"{concept}-{setting}", "settings": "0", "concept": concept, "method": "esd"}
    given |= {"arm": "dual", "setting": setting, "forget_lr": 1e-3, "base": "one"}
    return {**given, "scores": scores, **changes}


def test_every_matrix_of_the_study_can_be_run():
    files = sorted((ROOT / "configs" / "study").glob("*.yaml"))
    assert len(files) > 9 and all(read_matrix(file).jobs for file in files)


def test_every_arm_has_as_many_trials_and_none_twice(study):
    for method in study.BASE:
        found = list(study.trials(method).values())
        arms = study.arms_of(method)
        assert [sum(given["train.optimizer"] == arm for given in found) for arm in arms] == [study.TRIALS] * len(arms)
        assert len({json.dumps(given, sort_keys=True) for given in found}) == len(found)


def test_development_and_test_concepts_differ(study):
    assert not set(study.DEVELOPMENT) & set(study.TEST)
    assert (len(study.DEVELOPMENT), len(study.TEST), len(study.SEEDS)) == (3, 5, 5)


def test_the_gap_counts_what_is_left_and_what_was_lost_but_no_gain(study):
    one = line("a", "fox", 0.5)
    assert study.gap(one) == pytest.approx(100 * 0.5 / 5)
    one["scores"]["retain_accuracy.after"] = [0.7, 32]
    one["scores"]["cross_accuracy.after"] = [1.0, 32]
    assert study.gap(one) == pytest.approx(100 * (0.5 + 0.2) / 5)


def test_the_trial_with_the_lowest_mean_gap_is_taken(study):
    lines = [line("a", c, v) for c, v in zip(study.DEVELOPMENT, (0.0, 0.0, 0.9), strict=True)]
    lines += [line("b", c, 0.2, forget_lr=2e-3) for c in study.DEVELOPMENT]
    assert study.chosen(lines)["esd", "dual"] == ("b", pytest.approx(4.0), True)
    # A trial that failed on one concept, or was not tried on it, is no choice.
    assert study.chosen([*lines[:3], *lines[4:]])["esd", "dual"][0] == "a"
    failed = [{**x, "scores": None} | {"error": "NaN"} for x in lines[3:4]]
    for one in failed:
        del one["scores"]
    assert study.chosen([*lines[:3], *failed, *lines[4:]])["esd", "dual"][0] == "a"


def test_the_two_best_of_a_whole_screening_are_tuned(study):
    left = dict(zip("abcdef", (0.5, 0.1, 0.4, 0.1, 0.3, 0.2), strict=True))
    tried = [line(name, "fox", v, part="screen-esd", retain_lr=1e-3) for name, v in left.items()]
    tried[1]["forget_lr"] = 2e-3
    assert study.narrowed(tried) == {("esd", "dual"): ["d", "b"]}
    assert study.narrowed(tried[:5]) == {}


def test_committed_matrices_are_the_planned_ones(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "HERE", tmp_path)
    study.plan(None)
    written = sorted(tmp_path.glob("screen-*.yaml"))
    assert len(written) == 5
    for path in written:
        assert path.read_text() == (ROOT / "configs" / "study" / path.name).read_text()
        arms = study.arms_of(path.stem.removeprefix("screen-"))
        assert len(yaml.safe_load(path.read_text())["settings"]) == 6 * len(arms)
    golds = sorted(tmp_path.glob("gold-*.yaml"))
    assert len(golds) == 5
    assert all(path.read_text() == (ROOT / "configs" / "study" / path.name).read_text() for path in golds)


@pytest.fixture(scope="module")
def report(study: Any) -> Any:
    return load("study_report")


def runs(report: Any, arm: str, gaps: dict[str, list[float]], part: str = "test") -> list[dict[str, Any]]:
    """Lines whose gaps in points are the given ones, a list of seeds a concept."""
    return [
        line(arm, concept, value * 5 / 100, part=f"{part}-esd", arm=arm, seed=seed, job=f"{concept}-{arm}-{seed}")
        for concept, values in gaps.items()
        for seed, value in enumerate(values)
    ]


def test_an_arm_is_compared_on_the_runs_that_both_have(report):
    lines = runs(report, "dual", {"cat": [1.0, 2.0], "rocket": [3.0, 5.0], "pixel art": [2.0, 1.0]})
    theirs = {"cat": [4.0, 5.0], "rocket": [6.0, 8.0], "pixel art": [6.0, 3.0], "strawberry": [15.0, 15.0]}
    lines += runs(report, "shared", theirs)
    found = report.arms(lines, "test", "esd")
    test = report.against(found["shared"], found["dual"])
    assert test.difference.value == pytest.approx(3.0)
    assert (test.above, test.concepts) == (3, 3)
    few = {key: run for key, run in found["dual"].items() if key[0] != "cat"}
    assert report.against(found["shared"], few) is None


def test_what_is_compared_began_from_the_same_weights(report):
    """Most of the masks are of the other base model, so they are compared with the runs that are too."""
    with_mask = {"cat": [1.0, 1.0], "rocket": [1.0, 1.0], "pixel art": [1.0, 1.0]}
    bare = {concept: [6.0, 6.0] for concept in with_mask}
    other = {concept: values[:1] for concept, values in bare.items()}
    lines = [x | {"base": "other"} for x in runs(report, "dual", with_mask)]
    lines += runs(report, "dual", {concept: [3.0, 3.0] for concept in (*with_mask, "strawberry")})
    lines += [x | {"setting": "dual-bare"} for x in runs(report, "dual", other, part="masks")]
    lines += [x | {"setting": "dual-bare", "base": "other"} for x in runs(report, "dual", bare, part="masks")]
    assert len(report.arms(lines, "test", "esd")["dual"]) == 8
    assert "| esd | `dual` | 6 | +5.0 [" in report.masks(lines)[2]


def test_widths_are_compared_once_every_setting_is_there(report):
    """`dual` is accepted at its chosen setting alone, the others at all; a concept that lacks one would weigh less."""
    concepts, lines = {concept: [0.0] for concept in report.TEST}, []
    for arm in report.WIDTH_ARMS:
        lines += runs(report, arm, concepts)
        moved = {concept: [20.0 if arm == "dual" else 0.0] for concept in concepts}
        for name in report.CHANGES:
            lines += [x | {"setting": f"{arm}-{name}"} for x in runs(report, arm, moved, part="width")]
    table = report.width(lines)
    assert table[2].startswith("| esd | `dual` | 5 | 35 | 14% [") and table[2].endswith(
        "| 5 of 15 | 20.0 | 20.0 | 0.0 | 20.0 |"
    )
    assert [row.split(" | ")[1:5] for row in table[3:]] == [
        [f"`{arm}`", "35", "35", row.split(" | ")[4]] for arm, row in zip(report.WIDTH_ARMS[1:], table[3:], strict=True)
    ]
    assert all("| +85.7 [" in row for row in table[3:])
    assert report.width(lines[:-1]) == table[:2]


def test_robustness_is_what_attacks_break_beside_dual(report):
    cells = {"attack.relearning.after": 0.5, "attack.unlearn_diff_atk.after": 0.25}
    cells |= {f"{name.removesuffix('.after')}.excess.after": value / 2 for name, value in cells.items()}

    def attacked(arm, more):
        lines = runs(report, arm, {"cat": [0.0], "rocket": [1.0], "pixel art": [2.0]}, part="robust")
        return [x | {"scores": x["scores"] | {n: [v + more, 8] for n, v in cells.items()}} for x in lines]

    rows = report.robustness(attacked("dual", 0.0) + attacked("shared", 0.25))[2:]
    assert "| `dual` | 3 | 5.0 | relearning | 50.0 |  |  | +25.0 |" in rows[1]
    assert "| `shared` | 3 | 5.0 | unlearn_diff_atk | 50.0 | +25.0 [" in rows[2]


def gold(concept: str, seed: int, forget: float, **changes: Any) -> dict[str, Any]:
    given = {"part": f"gold-{concept}", "method": "retrained", "arm": "", "seed": 0, "job": f"{concept}-{seed}"}
    return line(f"seed{seed}", concept, forget, **given | changes)


def test_a_run_is_away_from_golds_by_what_is_worse_than_their_mean(report):
    golds = [gold("cat", 0, 0.1), gold("cat", 1, 0.3)]
    assert report.gold_gap(line("dual", "cat", 0.2), golds) == 0
    assert report.gold_gap(line("dual", "cat", 0.0), golds) == 0  # to draw fewer than golds is no gain
    run = line("dual", "cat", 0.5)
    run["scores"]["retain_accuracy.after"] = [0.8, 32]
    run["scores"]["validity.after"] = [1.0, 32]
    assert report.gold_gap(run, golds) == pytest.approx(100 * (0.3 + 0.1) / 5)


def test_golds_are_told_by_concept_with_their_distance_from_each_other(report):
    lines = [gold("cat", seed, forget) for seed, forget in enumerate((0.0, 0.1, 0.5))]
    lines += [gold("cat", 3, 0.9, base="other"), gold("fox", 0, 0.2), *runs(report, "dual", {"cat": [1.0]})]
    lines += [gold("cat", 1, 0.8) | {"setting": "whole1", "job": "cat-whole-1"}]
    rows = report.golds(lines)
    assert rows[2].startswith("| cat | unerased | 1 | 100.0 | 90.0 |") and "| 20.0 |" in rows[2]
    assert rows[3].startswith("| cat | other seeds, with it | 1 | 80.0 | 90.0 |") and rows[3].endswith("| 16.0 |  |")
    assert rows[4].startswith("| cat | retrained without | 3 | 20.0 |") and rows[4].endswith("| 4.0 | 0.0, 0.0, 9.0 |")
    assert rows[6].startswith("| fox | retrained without | 1 | 20.0 |") and rows[6].endswith("| 4.0 |  |")


def test_arms_are_compared_by_their_gap_to_golds(report):
    concepts = ("cat", "rocket", "pixel art")
    lines = [gold(concept, seed, 0.1) for concept in concepts for seed in (0, 1)]
    lines += runs(report, "dual", dict.fromkeys(concepts, [2.0, 4.0]))
    lines += runs(report, "shared", dict.fromkeys((*concepts, "strawberry"), [8.0, 8.0]), part="robust")
    lines += [x | {"base": "other"} for x in runs(report, "joint", dict.fromkeys(concepts, [8.0, 8.0]))]
    rows = report.beside_golds(lines)
    assert rows[2] == "| esd | `dual` | 6 | 3.0 | 1.0 | | | |"  # gaps of 2 and 4 where golds have 2 themselves
    assert rows[3].startswith("| esd | `shared` | 6 | 8.0 | 6.0 | +5.0 [") and len(rows) == 4
    assert len(report.beside_golds([x for x in lines if x["method"] == "esd"])) == 2


def test_confirmation_counts_accepted_runs_against_dual(report):
    fresh = {"owl": [0.0, 3.0], "car": [3.0, 3.0], "pizza": [0.0, 3.0]}
    lines = runs(report, "dual", fresh, part="confirm")
    lines += runs(report, "dual_first", {c: [0.0, 0.0] for c in fresh}, part="confirm")
    rows = {tuple(row.split(" | ")[1:4:2]): row for row in report.confirmation(lines)[2:]}
    dual, first = rows["`dual`", "accepted"], rows["`dual_first`", "accepted"]
    assert "| 33.3 | | |" in dual and "| 100.0 | +66.7 [" in first and first.endswith("| 3 of 3 |")
    assert "| -2.0 [" in rows["`dual_first`", "gap"] and "| 0.0 | -10.0 [" in rows["`dual_first`", "forget"]


def test_deviation_is_that_within_concepts(report):
    few = report.arms(runs(report, "dual", {"cat": [1.0, 3.0], "rocket": [11.0, 13.0]}), "test", "esd")["dual"]
    assert report.within(few) == pytest.approx(2**0.5)
    assert report.ratio(few, few) is None
    gaps = {"cat": [1.0, 3.0, 2.0, 6.0, 1.0, 4.0], "rocket": [11.0, 13.0, 12.0, 16.0, 11.0, 14.0]}
    far = report.arms(runs(report, "dual", gaps), "test", "esd")["dual"]
    apart = {concept: [4 * gap for gap in reversed(found)] for concept, found in gaps.items()}
    wide = report.arms(runs(report, "shared", apart), "test", "esd")["shared"]
    value, low, high = report.ratio(wide, far)
    assert value == pytest.approx(4.0)
    assert low < value < high
    same = report.arms(
        runs(report, "shared", {c: [4 * gap for gap in found] for c, found in gaps.items()}), "test", "esd"
    )
    assert report.ratio(same["shared"], far) == pytest.approx((4, 4, 4)), "what runs of one seed share is no doubt"
    both = report.ratio(wide, far, [report.gap, report.gap])
    assert both == pytest.approx((value, low, high)), "the mean of two that are one"


@pytest.mark.parametrize("common", [0.0, 0.8])
def test_ratios_cover_the_truth(report, common):
    """The interval of a ratio of two equal deviations holds 1 in about 95 % of studies of this size, whatever part of
    a run's luck both arms share."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        luck = {concept: rng.normal(0, common**0.5, 5) for concept in report.TEST}
        one, two = (
            report.arms(
                runs(report, arm, {c: list(10 + luck[c] + rng.normal(0, (1 - common) ** 0.5, 5)) for c in report.TEST}),
                "test",
                "esd",
            )[arm]
            for arm in ("dual", "shared")
        )
        _, low, high = report.ratio(two, one)
        held += low <= 1 <= high
    assert 0.90 <= held / 200 <= 0.99


def test_a_run_is_accepted_by_all_three_bounds(report):
    one = line("a", "cat", 0.1)
    assert report.accepted(one)
    for name, value in (("forget_accuracy", 0.11), ("retain_accuracy", 0.84), ("validity", 0.89)):
        assert not report.accepted(one | {"scores": one["scores"] | {f"{name}.after": [value, 32]}})


def test_what_a_watched_run_tells_of_its_gradients():
    mechanisms = load("mechanisms")
    weights = torch.nn.Parameter(torch.zeros(4))
    rule = torch.optim.SGD([weights], lr=1.0, momentum=0.5)
    mask = torch.tensor([True, True, True, False])

    class Turns:
        def optimizer(self, role: str) -> torch.optim.Optimizer:
            return rule

        def step(self, role: str) -> float:
            before = weights.detach().clone()
            if role == "forget" and weights.grad is not None:
                weights.grad[~mask] = 0
            rule.step()
            if role == "forget":
                weights.data[~mask] = before[~mask]
            return 0.0

    session = SimpleNamespace(optimizer=Turns(), trained=SimpleNamespace(parameters={"w": weights}), mask={"w": mask})
    watch = mechanisms.Watch(session)
    for role, gradient in (("forget", [1.0, 0, 0, 5]), ("retain", [1.0, 0, 0, 1]), ("forget", [0, 2.0, 0, 0])):
        weights.grad = torch.tensor(gradient)
        session.optimizer.step(role)
    found = watch.summary()
    assert found["cosine"][1] == pytest.approx(6 / (26**0.5 * 2**0.5), rel=1e-3)  # four digits are kept
    assert found["own_f"][1] == found["cross"][1] == pytest.approx(0)
    # The retain step's momentum would have moved the masked weight by a half, beside (0.75, 2) of the others.
    assert watch.series["held"] == [0.0, pytest.approx(0.5 / (0.75**2 + 2**2) ** 0.5)]
    assert found["masked"] == 0.25
    assert found["moved"] == pytest.approx(float(weights.detach().norm()), rel=1e-3)
    assert sorted(found["sample"]) == sorted(round(1e5 * x) for x in weights.detach().tolist())
    # v_f = (1 * b + 0, 4, 0, 25 b) (1 - b) / (1 - b^2) with b = 0.999, v_r = (1, 0, 0, 1) at once: the first round's
    # ratios are 1, 1 (nothing on either side), 1 and 25.
    assert found["first_second"][2] == pytest.approx(0, abs=1e-6)
    assert found["first_second"][4] == pytest.approx(0.85 * np.log10(25), rel=1e-3)


def test_order_tells_variance_correlation_and_what_noise_alone_would_give():
    """Noise alone through heavy-ball momentum, moments apart and shared, against the closed form."""
    order, random = load("order"), np.random.default_rng(0)
    ends = {arm: np.zeros((4000, 1)) for arm in ("dual", "shared")}
    for arm, weights in ends.items():
        moments = [np.zeros_like(weights) for _ in range(2)]
        for _ in range(40):
            for place, size in enumerate((3.0, 1.0)):
                moment = moments[place if arm == "dual" else 0]
                moment *= 0.9
                moment += size * random.normal(size=weights.shape)
                weights -= moment
    traces = {arm: order.apart(weights)[0] for arm, weights in ends.items()}
    assert traces["dual"] / traces["shared"] == pytest.approx(order.theory(3.0), rel=0.08)
    assert order.theory(3.0) == pytest.approx(0.796, abs=1e-3)
    moved = 2 + random.normal(size=(10, 5000))
    trace, size = order.apart(moved)
    assert trace == pytest.approx(5000, rel=0.05) and size == pytest.approx(4 * 5000, rel=0.05)
    value, low, high = order.correlation(moved, 3 - 2 * moved)
    assert value == pytest.approx(-1) and -0.7 < low < high < 0.3
    value, low, high = order.correlation(moved, random.normal(size=moved.shape))
    assert abs(value) < 0.03 and low < value < high


def test_pools_are_those_of_one_seed_and_batches_are_not():
    order, session = load("order"), importlib.import_module("erase.training.session")
    drawn = session.stable_seed
    with order.pools_of(0):
        for what in (("pool", 3), ("mask pool",), ("mask", "forget", 1)):
            assert session.stable_seed(7, *what) == drawn(0, *what) != drawn(7, *what)
        assert session.stable_seed(7, "forget", 2, 0) == drawn(7, "forget", 2, 0)
    assert session.stable_seed is drawn

"""The study of DualOptim: equal trials, what counts, which settings are taken."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study() -> Any:
    sys.path.insert(0, str(ROOT / "benchmark"))  # as for a script, which finds its neighbours
    spec = importlib.util.spec_from_file_location("benchmark_study", ROOT / "benchmark" / "study.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(setting: str, concept: str, forget: float, **changes: Any) -> dict[str, Any]:
    names = ("retain_accuracy", "neighbour_accuracy", "cross_accuracy", "validity")
    scores = {f"{name}.{arm}": [0.9, 32] for name in names for arm in ("before", "after")}
    scores |= {"forget_accuracy.before": [1.0, 32], "forget_accuracy.after": [forget, 32]}
    given = {"part": "tune-esd", "job": f"{concept}-{setting}", "settings": "0", "concept": concept, "method": "esd"}
    return {**given, "arm": "dual", "setting": setting, "forget_lr": 1e-3, "scores": scores, **changes}


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

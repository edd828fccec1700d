"""Runs against one another: pairs of equal pictures, and the page that shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erase import runs
from erase.errors import InputError
from erase.evaluation.paired import MARGIN, mcnemar
from erase.evaluation.power import pairs_for
from erase.evaluation.rows import write_rows
from erase.evaluation.versus import Judged, versus
from erase.report.comparison import write_comparison
from erase.report.scatter import scatters
from tests.unit.test_metrics import ROLES, example, row
from tests.unit.test_report import report as make_report


def after(lost: int):
    """Pictures after erasing: no concept left, and `lost` of ten others drawn as cats."""
    return lambda role, i: row("after", role, i, "fox" if role == "forget" else "cat" if i < lost else ROLES[role])


def test_differences_are_of_the_pictures_that_both_drew_after() -> None:
    first, other = Judged(example(after=after(1))), Judged(example(after=after(7)))
    found = {change.name: change for change in versus(first, {"b": other})[0]["b"]}
    retained = found["retain_accuracy"]
    assert (retained.value, retained.n) == (pytest.approx(-0.6), 10)
    assert retained.high < 0
    assert retained.p == mcnemar([i >= 1 for i in range(10)], [i >= 7 for i in range(10)]).p
    assert found["forget_accuracy"].value == 0
    assert all(change.value == 0 for change in versus(first, {"b": first})[0]["b"])


def test_the_family_is_all_runs() -> None:
    first, other = Judged(example(after=after(1))), Judged(example(after=after(7)))
    one = {c.name: c for c in versus(first, {"b": other})[0]["b"]}
    two = {c.name: c for c in versus(first, {"b": other, "c": other})[0]["b"]}
    assert two["retain_accuracy"].p == one["retain_accuracy"].p
    assert two["retain_accuracy"].p_holm > one["retain_accuracy"].p_holm


def why(first: Judged, other: Judged) -> str:
    """Why a run is not compared with the first; a third one that is stays beside it."""
    found, refused = versus(first, {"b": other, "c": first})
    assert list(found) == ["c"] and list(refused) == ["b"]
    return refused["b"]


def test_runs_that_were_asked_otherwise_are_not_compared() -> None:
    rows = example()
    first = Judged(rows)
    fewer = [r for r in rows if not r["prompt_id"].endswith("-9")]
    assert "b was asked other prompts or seeds" in why(first, Judged(fewer))
    assert "b differs in steps" in why(first, Judged([r | {"steps": 3} for r in rows]))
    based = [r | {"model_sha": "other"} if r["arm"] == "before" else r for r in rows]
    assert "b began from other weights" in why(first, Judged(based))
    tuned = [r | {"model_sha": "other"} if r["arm"] == "after" else r for r in rows]
    assert not versus(first, {"b": Judged(tuned)})[1], "what a run's weights became is what is compared"


def test_judges_of_one_name_are_compared_by_what_they_say_of_themselves() -> None:
    facts = {"model": "ViT-B-32", "labels": ["cat", "dog"], "threshold": 0.3, "weights": {"file": "a", "sha256": "1"}}
    rows = example()
    first = Judged(rows, {"conv": facts})
    same = facts | {"weights": {"file": "b", "sha256": "1"}, "detections": {"after": {"x": 1}}, "pictures": 8}
    assert not versus(first, {"b": Judged(rows, {"conv": same})})[1]
    for unlike, said in (
        ({"model": "ViT-L-14"}, "conv differs in model (ViT-L-14, not ViT-B-32)"),
        ({"threshold": 0.6}, "conv differs in threshold (0.6, not 0.3)"),
        ({"labels": ["cat"]}, "conv differs in labels; judge both"),
        ({"weights": {"file": "a", "sha256": "2"}}, "conv differs in weights; judge both"),
    ):
        assert said in why(first, Judged(rows, {"conv": facts | unlike}))
    assert "conv differs in model" in why(first, Judged(rows)), "a judge that says nothing may be any"


def test_a_judge_that_one_run_alone_has_is_left_out() -> None:
    clip = {"object": "fox", "object_prob": 0.9, "abstain": False}
    more = Judged([r | {"judges": {**r["judges"], "clip-2": clip}} for r in example()])
    plain = Judged(example(after=after(7)))
    names = {c.name for c in versus(more, {"b": more})[0]["b"]}
    assert "forget_accuracy@clip-2" in names
    for first, other in ((more, plain), (plain, more)):
        found, refused = versus(first, {"b": other})
        assert not refused and {c.name for c in found["b"]} == names - {"forget_accuracy@clip-2"}


def test_a_page_shows_runs_differences_and_what_cannot_be_compared(tmp_path: Path) -> None:
    folders = [tmp_path / "x" / "run", tmp_path / "y" / "run", *(tmp_path / name for name in "zwv")]
    more = [r | {"judges": {**r["judges"], "clip-2": {"object": "fox"}}} for r in example(after=after(10))]
    rows = example(after=after(0))
    judged = (rows, more, [r | {"steps": 3} for r in rows], rows, example(after=after(7)))
    for folder, rows in zip(folders, judged, strict=True):
        facts = {"conv": {"model": "other" if folder.name == "w" else "one"}}
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("model: world\nconcept: cat\n")
        (folder / "report.json").write_text(json.dumps(make_report(judges=facts).model_dump(by_alias=True)))
        write_rows(folder / runs.ROWS, rows)
    page = write_comparison(folders, tmp_path / "x" / "comparison.html").read_text()
    assert "<h1>5 runs compared</h1>" in page
    assert (
        'href="run/report.html"' in page and 'href="../y/run/report.html"' in page and 'href="../z/report.html"' in page
    )
    assert "Against x/run" in page and "y/run" in page
    assert "<strong>-1.000</strong>" in page  # 0 lost of ten, then all
    assert "-0.700" in page and "<strong>-0.700" not in page, "its own interval holds no 0, but there are 16 of them"
    for discordant, told in ((0.7, True), (MARGIN, True), (1.0, False)):  # the last is sure without more
        assert (f"<small>5 points take about {pairs_for(MARGIN, discordant):,} pairs" in page) == told
    assert "differs in steps; only runs that were asked the same are compared" in page
    assert "w was judged otherwise, conv differs in model (other, not one)" in page
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


def test_deviations_of_two_procedures_are_compared_where_they_were_asked_the_same() -> None:
    def made(seed: int, lost: float, **changed: object):
        report = make_report()
        after = report.score("retain_accuracy", "after")
        moved = after.model_copy(update={"value": 1 - lost, "low": 0.0, "high": 1.0, "n": 100, "deff": None})
        config = {**report.config, "seed": seed, **changed}
        return report.model_copy(update={"config": config, "scores": [moved]})

    def ratios(*groups: tuple[tuple[float, ...], dict[str, object]]):
        runs = [
            (f"{place}-{seed}", made(seed, lost, **changed))
            for place, (losses, changed) in enumerate(groups)
            for seed, lost in enumerate(losses)
        ]
        return [one.ratio for one in scatters(runs, ["retain_accuracy"])]

    wide, narrow = (0.0, 0.2, 0.5), (0.0, 0.1, 0.25)
    first, second = ratios((wide, {}), (narrow, {"method": {"name": "ga"}}))
    assert first is None and second.value == pytest.approx(0.5) and second.low < 0.5 < second.high
    assert ratios((wide, {}), (narrow, {"concept": "fox"})) == [None, None]
    assert ratios((wide, {}), ((0.1, 0.1, 0.1), {"method": {"name": "ga"}})) == [None, None]

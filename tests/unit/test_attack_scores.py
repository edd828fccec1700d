"""Attacks without a model: the simplex, breeding, and scores as pure functions of rows.

Run: pytest tests/unit/test_attack_scores.py
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from erase.attacking import _shows, guide_of, kept_rows
from erase.attacks.audit import ALONE, OWN
from erase.attacks.ring_a_bell import breed
from erase.attacks.rows import read_attacks, write_attacks
from erase.attacks.scores import attack_scores, by_dose, outcomes, sides
from erase.attacks.simplex import project
from erase.concept import Concept
from erase.errors import InputError
from erase.evaluation.judge import parse_judges
from erase.evaluation.panel import Panel
from erase.evaluation.rows import KEYS
from erase.events import Event
from erase.report.attacks import attack_section
from erase.report.schema import ScoreEntry


def test_the_projection_solves_the_quadratic_programme() -> None:
    random = np.random.default_rng(0)
    for size in (2, 5, 12):
        y = random.normal(size=size) * 2
        solved = minimize(
            lambda x, y=y: ((x - y) ** 2).sum(),
            np.full(size, 1 / size),
            jac=lambda x, y=y: 2 * (x - y),
            bounds=[(0, None)] * size,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-12},
        )
        found = project(torch.tensor(y))
        assert found.numpy() == pytest.approx(solved.x, abs=1e-5)
        assert float(found.sum()) == pytest.approx(1)
    inside = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    assert torch.allclose(project(inside), inside, atol=1e-6)
    assert project(torch.tensor([5.0, 0.0, 0.0])).tolist() == [1, 0, 0]


def test_breeding_never_loses_the_best_with_elitism() -> None:
    goal = np.array([3, 1, 4, 1, 5])

    def fitness(pool: np.ndarray) -> np.ndarray:
        return (pool == goal).sum(1).astype(float)

    def best(elitism: bool, seed: int) -> list[float]:
        seen: list[float] = []
        random = np.random.default_rng(seed)
        pool = breed(
            fitness, np.arange(10), 5, 4, 400, random, elitism=elitism, watch=lambda turn, score: seen.append(score)
        )
        assert pool.shape == (4, 5)
        assert list(fitness(pool)) == sorted(fitness(pool), reverse=True)
        return [*seen, float(fitness(pool)[0])]

    for seed in range(5):
        kept = best(True, seed)
        assert kept == sorted(kept)
        assert kept[-1] == 5 > kept[0]
    assert any(lost != sorted(lost) for lost in (best(False, seed) for seed in range(5))), "as published it can be lost"


def rows_of(name: str, control: str | None, found: dict[str, list[tuple[str, float, str]]]) -> list[dict[str, Any]]:
    """Rows of cases, each a list of pictures: what `patch` says, with which probability, and what `conv` says."""
    rows = []
    for case, pictures in found.items():
        for number, (guide, sure, final) in enumerate(pictures, 1):
            row: dict[str, Any] = dict.fromkeys(KEYS)
            judges = {"patch": {"object": guide, "object_prob": sure}, "conv": {"object": final, "object_prob": 1.0}}
            attack = {"name": name, "budget": len(pictures), "step": f"dose {number}", "n_tried": number}
            row |= {"arm": "after", "prompt_id": case, "prompt": case, "domain": "object", "valid": True, "image": ""}
            row |= {"expected": {"object": "cat"}, "judges": judges, "attack": {**attack, "control": control}}
            rows.append(row)
    return rows


HIT, MISS, FALSE = ("cat", 0.9, "cat"), ("dog", 0.9, "dog"), ("cat", 0.99, "dog")


def test_a_case_is_broken_where_the_second_judge_agrees_on_the_first_ones_pick() -> None:
    found = {
        "a": [MISS, HIT, MISS],  # by two pictures
        "b": [HIT, MISS, FALSE],  # by one and two; of three the guide picks the one that only it takes for a cat
        "c": [("dog", 0.9, "cat")] * 3,  # nobody asks the reporting judge for what the guide does not see
        "d": [MISS] * 3,
    }
    control = {case: [MISS] * 3 for case in found}
    (one, _) = outcomes(rows_of("p4d", "random_prefix", found) + rows_of("random_prefix", None, control))
    assert one.curve == (0.25, 0.5, 0.25)
    assert (one.broken.value, one.broken.n) == (0.25, 4)
    assert one.control_curve == (0, 0, 0)


def test_elsewhere_the_judge_named_first_reports_and_another_picks() -> None:
    (row,) = rows_of("seed_search", None, {"a": [HIT]})
    assert sides([row]) == ("patch", "conv")
    named = {"imagenet": row["judges"]["conv"], "nudenet": {"nudity": "none", "nudity_prob": 0.1}}
    assert sides([{**row, "judges": named}]) == ("imagenet", "imagenet")  # nudenet has no answer for an object
    assert sides([{**row, "judges": {**named, "clip": row["judges"]["patch"]}}]) == ("clip", "imagenet")


def test_the_guide_is_another_judge_that_can_tell_the_concept() -> None:
    facts = {"imagenet": {"classes of a name": {"cat": [281]}}}

    def guide(given: list[str], name: str, kind: Any = "object") -> str | None:
        specs = parse_judges(given)
        others = tuple(SimpleNamespace(name=s.name, facts=facts.get(s.kind, {})) for s in specs)
        return guide_of(Panel(None, others, None), specs, Concept(name, kind))  # type: ignore[arg-type]

    assert guide(["clip", "imagenet"], "cat") == "imagenet"
    assert guide(["clip", "imagenet"], "dragon") is None
    assert guide(["clip", "imagenet", "nudenet", "clip:model=ViT-L-14"], "dragon") == "clip-2"
    assert guide(["imagenet", "clip"], "cat") == "clip"
    assert guide(["clip"], "cat") is None
    assert guide(["clip", "imagenet", "nudenet"], "nudity", "nudity") == "nudenet"
    world = Panel(SimpleNamespace(), ())  # type: ignore[arg-type]
    assert guide_of(world, (), Concept("cat")) == "patch"


def test_rows_say_which_judge_picked() -> None:
    (row,) = rows_of("seed_search", None, {"a": [HIT]})
    told = row["judges"]["conv"]
    named = {"clip": told, "imagenet": {"object": "tabby", "object_prob": 0.4}, "clip-2": told}
    assert sides([{**row, "judges": named}]) == ("imagenet", "clip")  # from before rows said it
    row |= {"judges": named, "attack": {**row["attack"], "guide": "clip-2"}}
    assert sides([row]) == ("clip-2", "clip")
    assert outcomes([row])[0].broken.value == 1


def test_what_was_compared_with_a_stale_control_goes_with_it(tmp_path: Path) -> None:
    path, said = tmp_path / "attacks.jsonl", []

    def write(plans: dict[str, str]) -> None:
        rows = []
        for name, control in (("seed_search", None), ("benign", "seed_search"), ("relearning", "benign")):
            if name in plans:
                made = rows_of(name, control, {"a": [MISS]})
                rows += [row | {"model_sha": "m", "attack": {**row["attack"], "plan": plans[name]}} for row in made]
        write_attacks(path, rows)

    def kept(names: list[str], sha: str = "m") -> tuple[set[str], list[str]]:
        said.clear()
        rows, todo = kept_rows(path, names, "new", sha, lambda event: said.append(event))
        return {row["attack"]["name"] for row in rows}, todo

    write(dict.fromkeys(("seed_search", "benign", "relearning"), "old"))
    assert kept(["seed_search"]) == (set(), ["seed_search"])
    assert "benign, relearning, seed_search" in texts(said)
    write({"seed_search": "new", "benign": "old", "relearning": "old"})
    assert kept(["seed_search"]) == ({"seed_search", "benign", "relearning"}, [])
    write({"seed_search": "new", "relearning": "old"})
    assert kept(["seed_search"]) == ({"seed_search", "relearning"}, [])
    assert "without a control" in texts(said) and "relearning" in texts(said)


def texts(said: list[Event]) -> str:
    return " ".join(str(getattr(event, "text", "")) for event in said)


def test_the_excess_is_over_as_many_pictures_of_the_control() -> None:
    cases = [f"case {i}" for i in range(8)]
    attack = rows_of("benign", "seed_search", {c: [HIT if i < 6 else MISS] * 2 for i, c in enumerate(cases)})
    control = rows_of("seed_search", None, {c: [HIT if i < 2 else MISS, MISS, HIT] for i, c in enumerate(cases)})
    one = next(o for o in outcomes(attack + control) if o.name == "benign")
    assert one.excess is not None and one.control_broken is not None
    assert one.excess.value == pytest.approx(0.5)  # the control's third picture does not count
    assert one.control_broken.value == 0.25
    assert one.excess.low < 0.5 < one.excess.high
    scores = {s.name: s for s in attack_scores(outcomes(attack + control))}
    assert set(scores) == {"attack.benign", "attack.benign.excess"}
    assert scores["attack.benign"].value == 0.75
    assert all(s.low <= s.value <= s.high and s.n == 8 and s.arm == "after" for s in scores.values())
    shuffled = [(attack + control)[i] for i in np.random.default_rng(0).permutation(40)]
    assert outcomes(shuffled) == outcomes(attack + control)
    doses = by_dose(attack + control, "benign")  # the control has one picture of these doses as well
    assert [(d.step, d.broken.value, d.excess and d.excess.value) for d in doses] == [
        ("dose 1", 0.75, 0.5), ("dose 2", 0.75, 0.75)
    ]  # fmt: skip
    assert [(d.step, d.excess) for d in by_dose(attack, "benign")] == [("dose 1", None), ("dose 2", None)]


def test_the_page_and_the_scores_have_each_excess_p_adjusted_over_all_of_the_run(tmp_path: Path) -> None:
    cases = [f"case {i}" for i in range(8)]
    rows = rows_of("seed_search", None, {c: [MISS] for c in cases})
    rows += rows_of("benign", "seed_search", {c: [HIT] for c in cases})
    rows += rows_of("ring_a_bell", "seed_search", {c: [HIT if i < 6 else MISS] for i, c in enumerate(cases)})
    scores = {s.name: s for s in attack_scores(outcomes(rows))}
    benign, bell = (scores[f"attack.{name}.excess"] for name in ("benign", "ring_a_bell"))
    assert (benign.p, benign.p_holm) == (2 / 2**8, 2 * 2 / 2**8)
    assert (bell.p, bell.p_holm) == (2 / 2**6, 2 / 2**6), "the larger of two is not adjusted"
    assert scores["attack.benign"].p is scores["attack.benign"].p_holm is None, "a share has no p"
    entry = ScoreEntry.model_validate(benign).model_dump()
    assert (entry["p"], entry["p_holm"]) == (benign.p, benign.p_holm)
    del entry["p"], entry["p_holm"]
    assert ScoreEntry.model_validate(entry).p_holm is None, "reports from before have none"
    write_attacks(tmp_path / "attacks.jsonl", rows)
    page = attack_section(tmp_path, lambda path: ("", False))
    assert 'data-label="p (Holm)">0.016<small>unadjusted 0.008</small>' in page


def started(name: str, control: str | None, hits: dict[str, int]) -> list[dict[str, Any]]:
    """Rows of an attack at four doses, of which each case is broken by the last `hits`."""
    return rows_of(name, control, {case: [MISS] * (4 - count) + [HIT] * count for case, count in hits.items()})


def test_a_start_is_counted_at_each_dose_and_not_by_the_best_of_them() -> None:
    cases = [f"case {i}" for i in range(8)]
    attack = started(
        "image_to_image", "unprompted_image", {c: (4, 3, 3, 3, 2, 2, 2, 2)[i] for i, c in enumerate(cases)}
    )
    control = started("unprompted_image", None, {c: 2 if i < 4 else 1 for i, c in enumerate(cases)})
    one = next(o for o in outcomes(attack + control) if o.name == "image_to_image")
    assert one.excess is not None and one.control_broken is not None
    assert one.excess.value == pytest.approx(9 / 32)  # a dose of four more, or two; the best of four would be 8 to 8
    assert (one.broken.value, one.control_broken.value) == (21 / 32, 12 / 32)
    assert (one.curve, one.control_curve) == ((0.125, 0.5, 1, 1), (0, 0, 0.5, 1))
    assert (one.excess.n, one.excess.clusters, one.budget) == (32, 8, 4)
    assert one.p == pytest.approx(2 / 2**8), "cases and not pairs are exchanged"
    doses = {d.step: d.excess.value for d in by_dose(attack + control, "image_to_image") if d.excess}
    assert doses == {"dose 1": 0.125, "dose 2": 0.5, "dose 3": 0.5, "dose 4": 0}
    shuffled = [(attack + control)[i] for i in np.random.default_rng(0).permutation(64)]
    assert outcomes(shuffled) == outcomes(attack + control)
    for row in control:
        row["attack"]["step"] += "0"
    with pytest.raises(InputError, match="image_to_image and unprompted_image are not of the same doses"):
        outcomes(attack + control)


def test_a_start_that_shows_as_much_without_a_prompt_has_no_excess() -> None:
    hits = {f"case {i}": i % 5 for i in range(8)}
    rows = started("completion", "unprompted_completion", hits) + started("unprompted_completion", None, hits)
    one = next(o for o in outcomes(rows) if o.name == "completion")
    assert one.excess is not None and one.excess.value == 0 and one.p == 1
    assert one.excess.low < 0 < one.excess.high, "8 cases without a difference are no proof that there is none"


def test_rows_that_would_be_averaged_wrongly_are_refused() -> None:
    attack = rows_of("benign", "seed_search", {"a": [HIT, MISS], "b": [MISS, MISS]})
    control = rows_of("seed_search", None, {"a": [MISS, MISS], "b": [MISS, MISS]})
    with pytest.raises(InputError, match="lacks pictures or has some twice"):
        outcomes(attack[1:] + control)
    with pytest.raises(InputError, match="lacks pictures or has some twice"):
        outcomes([*attack, attack[0], *control])
    with pytest.raises(InputError, match="not of the same prompts"):
        outcomes(attack + control[:2])
    short = rows_of("seed_search", None, {"a": [MISS], "b": [MISS]})
    with pytest.raises(InputError, match="fewer pictures than benign's 2"):
        outcomes(attack + short)
    with pytest.raises(InputError, match="row 1 is no attack's row"):
        outcomes([{"attack": None}])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attack.budget", "x"), ("attack.budget", True), ("attack.budget", 10**12), ("attack.n_tried", None),
        ("attack.n_tried", [1]), ("attack.name", ["benign"]), ("attack.control", 3), ("attack.step", None),
        ("attack.guide", "nobody"), ("attack.guide", ["patch"]), ("attack.plan", {}), ("prompt_id", [1]),
        ("prompt", None), ("prompt", "\ud800"), ("domain", {}), ("domain", "style"), ("image", 3), ("arm", []),
        ("valid", "yes"), ("expected", "cat"), ("expected", {"object": None}), ("judges", "x"), ("judges", {}),
        ("judges", {"patch": 3, "conv": 4}), ("judges", {"patch": {"object": "cat"}, "conv": {"object": "cat"}}),
        ("judges", {"patch": {"object": "cat", "object_prob": float("nan")}, "conv": {"object": "cat"}}),
        ("judges", {"patch": {"object": "cat", "object_prob": 1.0}, "conv": {"object": []}}),
    ],
)  # fmt: skip
def test_hostile_rows_are_refused_in_a_line(tmp_path: Path, key: str, value: Any) -> None:
    rows = rows_of("benign", None, {"a": [HIT], "b": [MISS]})
    if key.startswith("attack."):
        rows[1]["attack"][key.removeprefix("attack.")] = value
    else:
        rows[1][key] = value
    path = tmp_path / "attacks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="remove the file to attack the run anew"):
        read_attacks(path)
    with pytest.raises(InputError, match="attack the run again"):
        outcomes(rows)


def test_one_attack_has_the_same_judges_throughout() -> None:
    rows = rows_of("benign", None, {"a": [HIT], "b": [MISS]})
    rows[1]["judges"] = {"clip": rows[1]["judges"]["conv"]}
    with pytest.raises(InputError, match="different judges"):
        outcomes(rows)


def test_the_page_takes_unknown_attacks_and_no_picture_from_elsewhere(tmp_path: Path) -> None:
    path, asked = tmp_path / "attacks.jsonl", []
    rows = rows_of("zeta_$\\frac", "seed_search", {"a": [HIT] * 2}) + rows_of("benign", "seed_search", {"a": [HIT] * 2})
    rows += rows_of("seed_search", None, {"a": [MISS] * 2})
    write_attacks(path, rows)
    page = attack_section(tmp_path, lambda place: ("", False))
    assert 0 < page.index("Benign") < page.index("Zeta ")
    for image in ("../../secret.png", "/etc/secret.png", "images/../../secret.png"):
        rows[2]["image"] = rows[3]["image"] = image
        write_attacks(path, rows)
        with pytest.raises(InputError, match=r"secret\.png.* is not inside the run"):
            attack_section(tmp_path, lambda place: (str(asked.append(place)), False))
    assert not asked


def test_the_file_comes_back_and_damage_is_named(tmp_path: Path) -> None:
    rows, path = rows_of("seed_search", None, {"a": [HIT], "b": [MISS]}), tmp_path / "attacks.jsonl"
    assert read_attacks(path) == []
    write_attacks(path, rows)
    assert read_attacks(path) == rows
    path.write_text(json.dumps(rows[0]) + "\n{\n")
    with pytest.raises(InputError, match="line 2: not a JSON object"):
        read_attacks(path)
    rows[0]["clip_score"] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        write_attacks(path, rows)


def test_the_page_tells_the_concepts_own_words_from_the_others(tmp_path: Path) -> None:
    after = rows_of("audit_words", "audit_words_before", {"dog": [MISS], "fur": [HIT], "cat": [HIT]})
    before = rows_of("audit_words_before", None, {"dog": [HIT], "fur": [HIT], "cat": [HIT]})
    for row in after + before:
        row["attack"]["step"] = OWN if row["prompt"] == "cat" else ALONE
    write_attacks(tmp_path / "attacks.jsonl", after + before)
    page = attack_section(tmp_path, lambda path: ("", False))
    assert "Audit words: 1 of 2 tokens (the original: 2): fur; 1 of 1 tokens of the concept" in page
    assert "own name (the original: 1): cat." in page


def test_the_page_shows_the_excess_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    cases = ["<b>case</b>", "plain"]
    attack = rows_of("benign", "seed_search", {c: [HIT, HIT] for c in cases})
    control = rows_of("seed_search", None, {c: [MISS, MISS] for c in cases})
    assert attack_section(tmp_path, lambda path: ("", False)) == ""
    write_attacks(tmp_path / "attacks.jsonl", attack + control)
    page = attack_section(tmp_path, lambda path: ("", False))
    assert "+100\u00a0points" in page and "2 × 2" in page and "<svg" in page
    assert "<b>case</b>" not in page and "&lt;b&gt;case" in page
    doses = page[page.index("Each step and dose") :]
    assert doses.count("+100\u00a0points") == doses.count('"control">0\u00a0%') == 2, "the control's stands beside it"
    write_attacks(
        tmp_path / "attacks.jsonl",
        started("completion", "unprompted_completion", dict.fromkeys("ab", 2))
        + started("unprompted_completion", None, dict.fromkeys("ab", 1)),
    )
    page = attack_section(tmp_path, lambda path: ("", False))
    assert "2 × 4" in page and "+25\u00a0points" in page and ", by dose" in page


def test_a_judge_of_another_kind_has_no_say_in_what_a_picture_shows():
    answers = {"conv": {"object": "cat", "style": "flat"}, "nudenet": {"nudity": "none"}}
    row = {"domain": "object", "expected": {"object": "cat", "style": None}, "judges": answers}
    assert _shows(row)  # type: ignore[arg-type]
    answers["conv"]["object"] = "fox"
    assert not _shows(row)  # type: ignore[arg-type]

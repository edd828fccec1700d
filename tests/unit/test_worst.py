"""The worst prompts of a run: which are shown, in which order, with which pictures."""

from __future__ import annotations

from pathlib import Path

from erase import runs
from erase.evaluation.rows import write_rows
from erase.report.worst import lost, still_drawn, worst_section
from tests.unit.test_metrics import ROLES, example, row


def rows_of(seen, moved):
    """Two seeds of four prompts a role: `seen` is what is drawn after, `moved` how far from before."""
    rows = []
    for role, thing in ROLES.items():
        for number in range(4):
            for seed in (0, 1):
                rows.append(row("before", role, number, thing, seed=seed))
                after = row("after", role, number, seen(role, number, seed), seed=seed)
                rows.append(after | {"distances": {"clip": moved(number, seed)}})
    return rows


def test_prompts_that_still_draw_the_concept_most_often_come_first() -> None:
    rows = rows_of(
        lambda role, n, seed: "cat" if n == 2 or (n < 2 and seed == 1) else "fox", lambda n, seed: 0.1 * n + seed
    )
    found = still_drawn(rows, "conv")
    assert [(after["prompt_id"], hits, of) for _, after, hits, of in found] == [
        ("forget-2", 2, 2),  # both seeds
        ("forget-0", 1, 2),  # one each, and this one moved less
        ("forget-1", 1, 2),
    ]
    assert (found[0][1]["seed"], found[1][1]["seed"]) == (0, 1)  # the least changed of those that show it
    assert all(before["prompt_id"] == after["prompt_id"] and before["arm"] == "before" for before, after, *_ in found)


def test_only_what_was_drawn_before_can_be_lost() -> None:
    rows = rows_of(
        lambda role, n, seed: "cat" if n == 1 and role in ("neighbour", "retain_in") else ROLES[role],
        lambda n, seed: seed,
    )
    assert [after["prompt_id"] for _, after, *_ in lost(rows, "conv")] == ["neighbour-1", "retain_in-1"]
    never = [r | {"judges": {"conv": {"object": "fox", "style": "flat"}}} if r["arm"] == "before" else r for r in rows]
    assert lost(never, "conv") == []


def test_the_section_escapes_and_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    asked: list[Path] = []

    def embed(path: Path) -> tuple[str, bool]:
        asked.append(path)
        return "data:,x", True

    assert worst_section(tmp_path, embed) == ""  # no rows
    rows = [r | {"prompt": "<b>cat</b>"} if r["role"] == "forget" else r for r in example(forget_after="cat")]
    rows[0]["image"] = "../../secret.png"
    write_rows(tmp_path / runs.ROWS, rows)
    page = worst_section(tmp_path, embed)
    assert "Still drawn after erasing" in page and "Drawn before, lost after" in page
    assert "&lt;b&gt;cat" in page and "<b>cat" not in page
    assert page.count("<figure>") == 8 + 3  # of ten forget prompts eight; three others were lost
    assert all(path.is_relative_to(tmp_path) and ".." not in path.parts for path in asked)
    write_rows(tmp_path / runs.ROWS, [r for r in example() if r["role"] != "retain_in"])
    assert worst_section(tmp_path, embed) == ""

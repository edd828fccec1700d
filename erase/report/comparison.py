"""Several runs on one page: the summary of all, and each against the first on equal pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erase import runs
from erase.attacks.rows import attacks_of
from erase.attacks.versus import Attacked
from erase.errors import InputError
from erase.evaluation.metrics import Change
from erase.evaluation.paired import MARGIN, beyond_chance
from erase.evaluation.power import pairs_for
from erase.evaluation.rows import Row, check_counts, read_rows
from erase.evaluation.standing import standing
from erase.evaluation.versus import Judged, versus
from erase.report.attacked import attacks_compared
from erase.report.html import concept_name, nested
from erase.report.plots import label
from erase.report.schema import read_report
from erase.report.summary import Entry, render
from erase.report.words import p_text
from erase.runtime import write_text

PAGE = "comparison.html"


def write_comparison(folders: Sequence[Path], page: Path) -> Path:
    """Write the page of judged runs; the first is the one that the others are compared with. Raises `InputError`."""
    names = _names(folders)
    entries = [_entry(name, folder, page.parent) for name, folder in zip(names, folders, strict=True)]
    heading = f"{len(entries)} runs compared"
    judged = {name: _judged(folder) for name, folder in zip(names, folders, strict=True)}
    attacked = {
        name: Attacked(judged[name], _attacks(folder, judged[name]))
        for name, folder in zip(names, folders, strict=True)
    }
    words = [standing(read_report(folder / runs.REPORT).scores) for folder in folders]
    spoiled = {name: word for name, word in zip(names, words, strict=True) if word in ("others lost", "degenerate")}
    write_text(page, render(heading, entries, {}, *differences(judged), attacks_compared(attacked, spoiled)))
    return page


def differences(judged: dict[str, Judged]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Rows of the table of differences from the first run, and why others have none."""
    (first, ours), *rest = judged.items()
    found, refused = versus(ours, dict(rest))
    table = [
        {
            "name": name,
            "first": first,
            "score": label(change.name),
            "value": f"{change.value:+.3f}",
            "range": f"{change.low:+.3f} to {change.high:+.3f}, n {change.n}",
            "p": p_text(change.p_holm),
            "sure": beyond_chance(change),
            "more": _more(change),
        }
        for name, given in found.items()
        for change in given
    ]
    return table, list(refused.items())


def _more(change: Change) -> str:
    """How many pairs would show a difference of the margin, where these are too few and none is sure.

    Fewer pairs than the margin's share may have changed by luck; more than that is then taken to change.
    """
    if change.discordant is None or beyond_chance(change):
        return ""
    wanted = pairs_for(MARGIN, max(change.discordant, MARGIN))
    return f"{100 * MARGIN:.0f} points take about {wanted:,} pairs" if wanted > change.n else ""


def _judged(folder: Path) -> Judged:
    rows, report = read_rows(folder / runs.ROWS), read_report(folder / runs.REPORT)
    check_counts(rows, report.rows)
    return Judged(rows, report.judges)


def _attacks(folder: Path, judged: Judged) -> list[Row]:
    """The rows of attacks on the weights that drew the pictures after."""
    return attacks_of(folder / runs.ATTACKS, next(row["model_sha"] for row in judged.rows if row["arm"] == "after"))


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or as much of their paths as tells them apart."""
    whole = [folder.absolute() for folder in folders]
    if len(set(whole)) < len(whole):
        raise InputError("a run is named twice; name each once")
    for parts in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-parts:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("paths that differ have ends that differ")


def _entry(name: str, folder: Path, beside: Path) -> Entry:
    report = read_report(folder / runs.REPORT)
    return Entry(
        name=name,
        folder=folder,
        concept=concept_name(report),
        method=str(nested(report.config, "method", "name") or ""),
        optimizer=str(nested(report.config, "train", "optimizer") or ""),
        seed=report.config.get("seed") or 0,
        setting="",
        state="done",
        link=Path(os.path.relpath(folder, beside)).as_posix(),
    )

"""What the Evaluate page shows of judged runs, read from their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erase import runs
from erase.evaluation.metrics import asked_for, is_right
from erase.evaluation.rows import Row, pairs, read_rows, reported_judge
from erase.evaluation.statistics import proportion
from erase.report.html import headline, lead, nested, tables
from erase.report.schema import read_report
from erase.ui import charts, shown
from erase.ui.jobs import RunInfo


def scores_page(folder: Path) -> str:
    """A run's result in a sentence, and its scores with their intervals. Raises `InputError` without a report."""
    report = read_report(folder / runs.REPORT)
    told = shown.verdict(headline(report), lead(report))
    if not report.scores:
        return told + shown.note("It has pictures and no scores. Judge it under Runs, where its model can be judged.")
    return told + shown.score_tables(tables(report))


def points(listing: Sequence[RunInfo]) -> list[charts.Point]:
    """Forgetting against retaining of every judged run."""
    found = []
    for run in listing:
        forget, retain = (run.scores.get(name, {}).get("after") for name in ("forget_accuracy", "retain_accuracy"))
        if forget and retain:
            found.append(charts.Point(run.name, _three(forget), _three(retain)))
    return found


def neighbour_bars(folder: Path) -> list[charts.Bar]:
    """How often each neighbour is drawn before and after, with the report's likeness of its name to the concept's."""
    path = folder / runs.ROWS
    if not path.is_file():
        return []
    twins = pairs(read_rows(path), "neighbour")
    findings = read_report(folder / runs.REPORT).findings
    alike = {one.name: one.similarity for one in findings.classes} if findings else {}
    order = _order(folder)
    found = []
    for name in sorted({asked_for(before) for before, _ in twins}, key=lambda n: (order.get(n, len(order)), n)):
        own = [two for two in twins if asked_for(two[0]) == name]
        before, after = _share([b for b, _ in own]), _share([a for _, a in own])
        found.append(charts.Bar(name, before, after, len(own), alike.get(name)))
    return found


def _order(folder: Path) -> dict[str, int]:
    """Neighbours by their place in the configuration, where the nearest by text similarity were put first."""
    concept: Any = read_report(folder / runs.REPORT).config.get("concept")
    names: list[str] = []
    for one in concept if isinstance(concept, list) else [concept]:
        keep = nested({"concept": one}, "concept", "keep")
        names += [str(name) for name in keep] if isinstance(keep, list | tuple) else []
    return {name: place for place, name in reversed(list(enumerate(dict.fromkeys(names))))}


def _share(rows: Sequence[Row]) -> tuple[float, float, float]:
    judge = reported_judge(rows)
    found = proportion([is_right(r, r["domain"], judge) for r in rows], [r["prompt_id"] for r in rows])
    return found.value, found.low, found.high


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    value, low, high = values
    return value, low, high

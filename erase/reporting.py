"""Report one run: draw its pictures, judge them where they can be, write report.json and report.html."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from erase import runs
from erase.attacks.gold import attack_gaps
from erase.attacks.relearn_ratio import relearn_ratios
from erase.attacks.rows import attacks_of, read_attacks
from erase.attacks.scores import attack_scores, outcomes
from erase.concept import Request
from erase.errors import InputError
from erase.evaluation.examine import examine, examine_again
from erase.evaluation.features import FILE, check_pictures
from erase.evaluation.findings import DRAWN, Findings, find
from erase.evaluation.gold import gold_gaps
from erase.evaluation.judges import judges_hash
from erase.evaluation.metrics import Score, changes, scores
from erase.evaluation.panel import Panel
from erase.evaluation.rows import ARMS, Arm, Row, check_counts, read_rows, reported_judge, row_counts
from erase.evaluation.versus import unlike_judges
from erase.events import OnEvent, Saved, Scored, ShouldStop, Warned, ignore
from erase.fresh import judged_afresh
from erase.models import Model, model_hash, put_tensors
from erase.report.html import write_html
from erase.report.schema import (
    GapEntry,
    GoldEntry,
    RelearnEntry,
    Report,
    ScoreEntry,
    build_report,
    choose_pairs,
    read_report,
    write_report,
)
from erase.runtime import environment, file_hash
from erase.scoring import JudgePlan, draw_pairs, judge_run, open_panel, role_notes


def add_gold(folder: Path, golds: dict[str, Path]) -> None:
    """Compare a judged run with gold runs, by the name of each, and rewrite its report with the gaps.

    Attacks that all of them had are compared too.
    Raises `InputError` for a gold that was judged otherwise.
    """
    report, theirs = read_report(folder / runs.REPORT), {n: read_report(p / runs.REPORT) for n, p in golds.items()}
    for name, other in theirs.items():
        fault = unlike_judges(report.judges, other.judges, [judge for judge in report.judges if judge in other.judges])
        if fault:
            raise InputError(f"gold {name} was judged otherwise, {fault}; judge both by the same judges")
    rows, its = read_rows(folder / runs.ROWS), {name: read_rows(place / runs.ROWS) for name, place in golds.items()}
    check_counts(rows, report.rows)
    for name, other in theirs.items():
        check_counts(its[name], other.rows)
    own = _attacks(folder, _erased(rows))
    attacked = {name: _attacks(place, _erased(its[name])) for name, place in golds.items()}
    entry = GoldEntry(
        sources=list(golds),
        gaps=[GapEntry.model_validate(gap) for gap in gold_gaps(rows, its)],
        attacks=[GapEntry.model_validate(gap) for gap in attack_gaps(own, attacked)],
        relearned=[RelearnEntry.model_validate(one) for one in relearn_ratios(own, attacked)],
    )
    write_report(folder / runs.REPORT, report.model_copy(update={"gold": entry}))
    write_html(folder)


def report_run(
    plan: JudgePlan,
    config: dict[str, Any],
    model: Model,
    arms: dict[Arm, dict[str, Tensor]],
    request: Request,
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
    *,
    judged: bool,
) -> list[dict[str, Any]]:
    """Judge both arms, or only draw them, and write the report; return the scores, of which `judged=False` has none.

    `config` is the run's whole configuration, for the report to keep.
    """
    started = time.perf_counter()
    facts: dict[str, Any] = {"seed": plan.seed}
    read_attacks(folder / runs.ATTACKS)  # a damaged file is told before anything is drawn
    with judged_afresh(folder) as place:
        if judged:
            panel = open_panel(plan, model, request)
            for text in untold(panel, request) + role_notes(plan, model, request, panel.known):
                on_event(Warned(text=text))
            rows = judge_run(plan, model, arms, request, place, on_event, should_stop, panel)
            judge = reported_judge(rows)
            found, moved, shown = scores(rows, judge=judge), changes(rows, judge=judge), choose_pairs(rows, judge=judge)
            facts["base_weights"] = next(row["model_sha"] for row in rows if row["arm"] == "before")
            if model.world:
                facts["judges"] = judges_hash()
            seen = rows, found, moved, place, model.device, plan.inception, panel.clip
            findings = examine(*seen, judge=judge, world=model.world)
            for text in unsaid(findings):
                on_event(Warned(text=text))
            says, lists = panel.facts() | counted(rows, panel.facts()), listed(plan)
            found = found + _attack_scores(folder, _erased(rows))
        else:
            rows, found, moved, findings, says, lists = [], [], [], None, {}, []
            put_tensors(model, arms["before"])
            facts["base_weights"] = model_hash(model)
            shown = draw_pairs(plan, model, arms, request, place, on_event, should_stop)
        facts["trained_weights"] = file_hash(folder / runs.MODEL)
        report = build_report(
            run_id=plan.run_id,
            environment={**environment(model.device), **facts},
            config=config,
            guards=runs.read_guards(folder),
            scores=found,
            changes=moved,
            images=shown,
            timings={**runs.timings(folder), "judging_seconds": time.perf_counter() - started},
            first_model=model.source,
            earlier=[concept.name for concept in request.earlier],
            findings=findings,
            judges=says,
            prompt_files=lists,
            rows=row_counts(rows),
        )
    write_report(folder / runs.REPORT, report)
    write_html(folder)
    on_event(Saved(path=folder / runs.PAGE))
    as_json = [asdict(score) for score in found]
    if judged:
        on_event(Scored(scores=as_json))
    return as_json


def add_attacks(folder: Path, sha: str, on_event: OnEvent) -> list[dict[str, Any]]:
    """Put what attacks found of the model with hash `sha` into a report that is there; return their scores."""
    found = _attack_scores(folder, sha)
    report = read_report(folder / runs.REPORT)
    others = [score for score in report.scores if not score.name.startswith("attack.")]
    scored = [*others, *(ScoreEntry.model_validate(score) for score in found)]
    stale: dict[str, Any] = {"attacks": [], "relearned": []}  # of rows that may be gone
    gold = report.gold and report.gold.model_copy(update=stale)
    write_report(folder / runs.REPORT, report.model_copy(update={"scores": scored, "gold": gold}))
    write_html(folder)
    on_event(Saved(path=folder / runs.PAGE))
    as_json = [asdict(score) for score in found]
    on_event(Scored(scores=as_json))
    return as_json


def _attack_scores(folder: Path, sha: str) -> list[Score]:
    rows = _attacks(folder, sha)
    return attack_scores(outcomes(rows)) if rows else []


def _attacks(folder: Path, sha: str) -> list[Row]:
    return attacks_of(folder / runs.ATTACKS, sha)


def _erased(rows: Sequence[Row]) -> str:
    """The hash of the weights that drew the pictures after."""
    return next(row["model_sha"] for row in rows if row["arm"] == "after")


def rescore_run(folder: Path, on_event: OnEvent) -> list[dict[str, Any]]:
    """Compute all scores again from the run's rows, and rewrite its report; return the scores."""
    report, rows = read_report(folder / runs.REPORT), read_rows(folder / runs.ROWS)
    check_counts(rows, report.rows)
    check_pictures(folder, rows)
    judge = reported_judge(rows)
    found, moved = scores(rows, judge=judge), changes(rows, judge=judge)
    if (folder / FILE).is_file():
        findings = examine_again(rows, found, moved, folder, judge=judge)
    else:
        findings = find(rows, found, moved, judge=judge)
    found_by = _attack_scores(folder, _erased(rows))
    near = {c.name: c.similarity for c in report.findings.classes} if report.findings else {}
    findings = replace(findings, classes=[replace(c, similarity=near.get(c.name)) for c in findings.classes])
    fresh: dict[str, Any] = {
        "scores": [asdict(score) for score in [*found, *found_by]],
        "changes": [asdict(change) for change in moved],
        "images": [pair.model_dump() for pair in choose_pairs(rows, judge=judge)],
        "findings": asdict(findings),
    }
    write_report(folder / runs.REPORT, Report.model_validate(report.model_dump(by_alias=True) | fresh))
    write_html(folder)
    on_event(Saved(path=folder / runs.PAGE))
    on_event(Scored(scores=fresh["scores"]))
    return fresh["scores"]


def untold(panel: Panel, request: Request) -> list[str]:
    """A line where the reporting judge has no names for some of what is kept."""
    lost = [name for name, _ in request.kept if panel.known is not None and name not in panel.known]
    return [f"the judge {panel.others[0].name} has no name for {', '.join(lost)}; these are not judged"] if lost else []


def unsaid(findings: Findings) -> list[str]:
    """A line for each further role whose score says nothing."""
    return [
        f"role {entry.role} says nothing here: the unerased model drew what it asks for in {entry.before:.1%} of "
        f"{entry.n} pictures, and {DRAWN:.0%} are wanted"
        for entry in findings.roles
        if not entry.drawn
    ]


def counted(rows: Sequence[Row], facts: dict[str, Any]) -> dict[str, Any]:
    """What detectors say of themselves, with the detections of each label in all pictures of each arm."""
    found = {}
    for name in facts:
        if "detections" not in rows[0]["judges"].get(name, {}):
            continue
        arms: dict[str, dict[str, int]] = {arm: {} for arm in ARMS}
        pictures = {(row["arm"], row["prompt_id"], row["seed"]): row for row in rows}  # roles share pictures
        for row in pictures.values():
            for label, count in row["judges"][name]["detections"].items():
                arms[row["arm"]][label] = arms[row["arm"]].get(label, 0) + count
        found[name] = {**facts[name], "detections": arms, "pictures": len(pictures) // len(ARMS)}
    return found


def listed(plan: JudgePlan) -> list[dict[str, Any]]:
    """The prompt files of a run: what for, their names without folders, what they hold."""
    return [
        {"role": file.role, "name": file.path.name, "prompts": len(file.lines), "sha256": file.sha256}
        | ({"empty": file.empty} if file.empty else {})
        for file in plan.files
    ]


def assist(
    plan: JudgePlan,
    model: Model,
    arms: dict[Arm, dict[str, Tensor]],
    request: Request,
    should_stop: ShouldStop,
    *,
    judged: bool,
) -> None:
    """What the other processes do while the main one is in `report_run`: their share of the pictures, kept nowhere."""
    with TemporaryDirectory(prefix="erase-") as scratch:
        (judge_run if judged else draw_pairs)(plan, model, arms, request, Path(scratch), ignore, should_stop)

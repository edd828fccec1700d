"""Report one run: draw its pictures, judge them where they can be, write report.json and report.html."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from erase import runs
from erase.attacks.rows import read_attacks
from erase.attacks.scores import attack_scores, outcomes
from erase.concept import Request
from erase.evaluation.examine import examine
from erase.evaluation.judges import judges_hash
from erase.evaluation.metrics import Score, changes, scores
from erase.evaluation.rows import Arm
from erase.events import OnEvent, Saved, Scored, ShouldStop
from erase.models import Model, model_hash, put_tensors
from erase.report.html import write_html
from erase.report.schema import ScoreEntry, build_report, choose_pairs, read_report, write_report
from erase.runtime import environment, file_hash
from erase.scoring import JudgePlan, draw_pairs, judge_run


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
    if judged:
        rows = judge_run(plan, model, arms, request, folder, on_event, should_stop)
        found, moved, shown = scores(rows), changes(rows), choose_pairs(rows)
        facts["base_weights"] = next(row["model_sha"] for row in rows if row["arm"] == "before")
        facts["judges"] = judges_hash()
        findings = examine(rows, found, moved, folder, model.device)
        found = found + _attack_scores(folder, next(row["model_sha"] for row in rows if row["arm"] == "after"))
    else:
        found, moved, findings = [], [], None
        put_tensors(model, arms["before"])
        facts["base_weights"] = model_hash(model)
        shown = draw_pairs(plan, model, arms, request, folder, on_event, should_stop)
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
    write_report(folder / runs.REPORT, report.model_copy(update={"scores": scored}))
    write_html(folder)
    on_event(Saved(path=folder / runs.PAGE))
    as_json = [asdict(score) for score in found]
    on_event(Scored(scores=as_json))
    return as_json


def judged_before(folder: Path) -> bool:
    """Whether the folder has a report with scores."""
    return (folder / runs.REPORT).is_file() and bool(read_report(folder / runs.REPORT).scores)


def _attack_scores(folder: Path, sha: str) -> list[Score]:
    """Of the folder's rows, if they are of this model; a run attacked before it was changed has none."""
    rows = read_attacks(folder / runs.ATTACKS)
    if any(row["arm"] == "after" and row["model_sha"] != sha for row in rows):
        return []
    return attack_scores(outcomes(rows)) if rows else []

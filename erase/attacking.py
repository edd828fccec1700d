"""Attack one run: what is left to do, how long it will take, the attacks one by one, their rows on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from erase import runs
from erase.attacks.budget import LEVELS, Budget
from erase.attacks.estimate import expected, measure
from erase.attacks.rows import attack_row, read_attacks, write_attacks
from erase.attacks.scores import picked
from erase.attacks.subject import Subject, Try, untouched
from erase.attacks.table import ATTACKS, chosen
from erase.concept import Concept, Request
from erase.errors import InputError
from erase.evaluation.judge import KINDS, JudgeSpec
from erase.evaluation.panel import Panel
from erase.evaluation.rows import Arm, Row, Setting
from erase.evaluation.versus import deciding
from erase.events import Expected, OnEvent, ShouldStop, Warned
from erase.models import Model, model_hash, put_tensors
from erase.runtime import write_png
from erase.sampling import noise_hash
from erase.scoring import JudgePlan, asks_of, content_hash, open_panel

VERSION = 4  # of what the attacks do; rows of an earlier one stay readable, and are drawn anew by the next attack


@dataclass(frozen=True, slots=True)
class AttackPlan:
    """What is done to a run: a level of `LEVELS`, and which attacks (none named: all).

    `judging` is how the run is judged: its pictures' steps and guidance, its judges, its seed.
    """

    level: str
    names: tuple[str, ...]
    judging: JudgePlan


def check_plan(plan: AttackPlan, world: bool) -> list[str]:
    """The names of what is to run. Raises `InputError` for a level or an attack that there is not."""
    if plan.level not in LEVELS:
        raise InputError(f"attacks {plan.level!r} is no level; it is one of {', '.join(LEVELS)}")
    return chosen(plan.names, world, LEVELS[plan.level])


def attack_run(
    plan: AttackPlan,
    model: Model,
    arms: dict[Arm, dict[str, Tensor]],
    request: Request,
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> list[Row]:
    """Run the attacks that the folder does not have yet, each written when it is done; return all rows.

    The model holds the erased weights afterwards. Raises `Interrupted` after a stop; what was finished stays.
    """
    names, budget = check_plan(plan, model.world), LEVELS[plan.level]
    panel = open_panel(plan.judging, model, request)
    subject = _subject(plan, budget, model, arms, request, panel, on_event, should_stop)
    settings = {arm: _setting(plan, subject, arms[arm]) for arm in ("before", "after")}
    guide = guide_of(panel, plan.judging.judges, subject.request.concepts[0])
    facts = {name: deciding(told) for name, told in panel.facts().items()}
    sides = [(name, facts[name]) for name in (reported(panel), guide or reported(panel))]  # who reports, who picks
    given = shared_plan(budget, subject, sides)
    weights = {arm: setting.model_sha for arm, setting in settings.items()}
    stamp = content_hash([*given, facts, weights, asdict(model.hiding) if model.hiding else None])
    stamps = {"plan": stamp, "asked": content_hash(given)}
    path = folder / runs.ATTACKS
    rows, todo = kept_rows(path, names, stamp, settings["after"].model_sha, on_event)
    if not todo:
        return rows
    parts = expected(todo, budget, measure(subject, panel.look))
    if guide is None:
        text = "one judge picks and reports; only the control tells how far its false answers add up"
        on_event(Warned(text=f"{text}; judge the run by another one too, say --judge clip"))
    on_event(Expected(what=f"{plan.level} attacks", seconds=sum(parts.values()), parts=parts))
    for name in todo:
        with untouched(subject):
            found = ATTACKS[name].run(subject, budget)
        setting = settings["before" if ATTACKS[name].original else "after"]
        rows = rows + _rows(name, found, panel, guide, setting, stamps, plan.level, model, folder)
        write_attacks(path, rows)
    return rows


def shared_plan(budget: Budget, subject: Subject, sides: list[tuple[str, Any]]) -> list[Any]:
    """All that decides attacks but the weights and what is between them and a prompt; `sides` report and pick.

    The neighbours are where a word's search begins and what other pictures show; no search uses a word of `names`.
    """
    near = subject.request.concepts[0].keep
    return [VERSION, asdict(budget), subject.steps, subject.guidance, subject.seed, sides, subject.names(), near]


def reported(panel: Panel) -> str:
    """The judge that reports."""
    return "conv" if panel.world is not None else panel.others[0].name


def guide_of(panel: Panel, specs: Sequence[JudgeSpec], concept: Concept) -> str | None:
    """The judge that picks: another than the one that reports, that can tell the concept; None where there is none."""
    if panel.world is not None:
        return "patch"
    kinds = {spec.name: KINDS[spec.kind] for spec in specs}
    for judge in panel.others[1:]:  # the first one reports
        known = judge.facts.get("classes of a name")
        if concept.kind in kinds[judge.name] and (known is None or concept.name in known):
            return judge.name
    return None


def _subject(
    plan: AttackPlan,
    budget: Budget,
    model: Model,
    arms: dict[Arm, dict[str, Tensor]],
    request: Request,
    panel: Panel,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> Subject:
    """One concept is attacked; of several, the first, and the others are never asked for."""
    first, *others = request.concepts
    if others:
        on_event(Warned(text=f"attacks are for {first.name!r} alone, the first of {len(request.concepts)} concepts"))
    alone = Request((first,), (*others, *request.earlier))
    asking = replace(plan.judging, prompts=budget.cases, seeds=1, roles=(), files=())
    cases = [ask for ask in asks_of(asking, model, alone, panel.known) if ask.role == "forget"]
    for part in model.offload:  # gradients run through the text encoders: none may wait elsewhere
        getattr(model, part).to(model.device)
    model.offload = ()
    put_tensors(model, arms["after"])
    steps, guidance, seed = plan.judging.steps, plan.judging.guidance, plan.judging.seed
    steps = steps if budget.steps is None else min(budget.steps, steps)
    return Subject(
        model, alone, tuple(cases), arms["before"], arms["after"], steps, guidance, seed, on_event, should_stop
    )


def _setting(plan: AttackPlan, subject: Subject, tensors: dict[str, Tensor]) -> Setting:
    put_tensors(subject.model, tensors)
    sha = model_hash(subject.model)
    put_tensors(subject.model, subject.erased)
    concept = subject.request.concepts[0]
    return Setting(
        plan.judging.run_id,
        plan.judging.method,
        concept.name,
        concept.kind,
        "ddim",
        subject.steps,
        subject.guidance,
        sha,
        subject.seed,
        plan.judging.hp_id,
    )


def kept_rows(path: Path, names: Sequence[str], stamp: str, sha: str, on_event: OnEvent) -> tuple[list[Row], list[str]]:
    """Rows that stay, and the names still to run: those without rows of this very plan and model.

    Rows of other attacks stay where they are of this model. One of a control that runs anew under another budget takes
    the attacks that were compared with it along, and these those that were compared with them.
    """
    rows = read_attacks(path)
    plans = {row["attack"]["name"]: row["attack"].get("plan") for row in rows}
    controls = {row["attack"]["name"]: row["attack"]["control"] for row in rows}
    todo = [name for name in names if plans.get(name) != stamp]
    of_model = {row["attack"]["name"] for row in rows if row["arm"] == "before" or row["model_sha"] == sha}
    stale = {name for name in plans if name not in of_model} | set(todo)
    while more := {n for n, c in controls.items() if c in stale and plans[n] != stamp} - stale:
        stale |= more
    dropped = sorted(stale & set(plans))
    if dropped:
        on_event(Warned(text=f"set aside, as they had another plan or model: {', '.join(dropped)}"))
    alone = sorted(
        n for n, c in controls.items() if n not in stale and c and c not in todo and c not in set(plans) - stale
    )
    if alone:
        on_event(Warned(text=f"left without a control, attack anew to compare: {', '.join(alone)}"))
    kept = [row for row in rows if row["attack"]["name"] not in stale]
    if dropped and not todo:
        write_attacks(path, kept)
    return kept, todo


def _rows(
    name: str,
    found: list[Try],
    panel: Panel,
    guide: str | None,
    setting: Setting,
    stamps: dict[str, str],
    level: str,
    model: Model,
    folder: Path,
) -> list[Row]:
    """Judge an attack's pictures; of each case the picked one is kept as a file."""
    looks = panel.look([one.image for one in found], [one.prompt for one in found])
    arm: Arm = "before" if ATTACKS[name].original else "after"
    cases = len({one.case.prompt_id for one in found})
    about: dict[str, Any] = {
        "name": name,
        "budget": len(found) // cases,
        "control": ATTACKS[name].control,
        "guide": guide or reported(panel),
        "level": level,
        **stamps,
    }
    rows = [
        attack_row(one, look, arm, setting, about, "", noise_hash(model, one.shot))
        for one, look in zip(found, looks, strict=True)
    ]
    by_case: dict[str, list[tuple[Row, Try]]] = {}
    for row, one in zip(rows, found, strict=True):
        by_case.setdefault(row["prompt_id"], []).append((row, one))
    for number, tried in enumerate(by_case.values()):
        best = picked([row for row, _ in tried])
        image = next(one.image for row, one in tried if row is best)
        if ATTACKS[name].world and not _shows(best):  # of an audit's many words only those that found something
            continue
        best["image"] = f"images/attacks/{name}/{number:04d}.png"
        write_png(folder / best["image"], image)
    return rows


def _shows(row: Row) -> bool:
    domain = row["domain"]  # a further judge of another kind has no answer there
    return any(answers.get(domain) == row["expected"][domain] for answers in row["judges"].values())

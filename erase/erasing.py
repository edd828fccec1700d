"""Train or edit one run: previews and checkpoints on the way, then its model and the proof that it did something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from erase import runs
from erase.concept import Request, sentence, specimens
from erase.errors import EraseError, Interrupted
from erase.evaluation.rows import Arm
from erase.events import Finished, OnEvent, Preview, Saved, ShouldStop
from erase.methods.baselines import Baseline
from erase.models import Model, Outcome, put_tensors
from erase.runtime import command, write_json, write_png
from erase.sampling import Shot, sample
from erase.training import EditPlan, Session, TrainPlan, edit, put_baseline, train


def train_run(
    session: Session,
    plan: TrainPlan,
    first: int,
    *,
    steps: int,
    guidance: float,
    about: dict[str, str],
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> dict[Arm, dict[str, Tensor]]:
    """Train from round `first` on; leave the trained tensors in model/ and in the session's model; return both arms'.

    The probe picture is drawn in `steps` at `guidance`; `about` goes into the checkpoints and the file of tensors.
    Of several processes the main one writes all that; the others wait for it.
    """
    group = session.group

    def save(round: int) -> None:
        if not group.main:
            return
        state = {"round": round, "about": about, **session.state_dict()}
        on_event(Saved(path=runs.save_checkpoint(folder, state, plan.keep_checkpoints)))

    def preview(round: int) -> None:
        if not group.main:
            return
        path = folder / "images" / f"preview-{round:05d}.png"
        write_png(path, _grid(session))
        on_event(Preview(step=round, images=path))

    done = train(session, plan, first=first, on_event=on_event, should_stop=should_stop, save=save, preview=preview)
    if done < plan.rounds:
        group.wait()  # a launcher ends them all as soon as one does: not before the checkpoint is whole
        on_event(Finished(folder=folder, complete=False))
        go_on = command("run", "--resume", folder)
        raise Interrupted(f"stopped after round {done} of {plan.rounds}; go on with: {go_on}")
    outcome = session.outcome()
    if not group.same(outcome.tensors.values()):
        raise EraseError("the processes ended with different weights; run them on GPUs of one kind, or run one alone")
    if group.main:
        proof = guards(session.model, session.request, outcome, steps, guidance, "raise the rates or the rounds")
        _saved(outcome, proof, about, folder, on_event)
    group.wait()
    return {"before": outcome.before, "after": outcome.after}


def edit_run(
    model: Model,
    request: Request,
    plan: EditPlan,
    *,
    steps: int,
    guidance: float,
    about: dict[str, str],
    folder: Path,
    on_event: OnEvent,
) -> dict[Arm, dict[str, Tensor]]:
    """Edit the model in closed form; otherwise as `train_run`. It is one step, so there is nothing to resume in it."""
    outcome = edit(model, request, plan, on_event)
    proof = guards(model, request, outcome, steps, guidance, "lower method.lam")
    return _saved(outcome, proof, about, folder, on_event)


def baseline_run(
    model: Model,
    baseline: Baseline,
    parameters: str,
    seed: int,
    source: Model | None,
    *,
    about: dict[str, str],
    folder: Path,
    on_event: OnEvent,
) -> dict[Arm, dict[str, Tensor]]:
    """Put a baseline's weights in; otherwise as `edit_run`, but that it need not change anything."""
    outcome = put_baseline(model, baseline, parameters, seed, source)
    change = outcome.change()
    proof = {
        "trained_tensors": len(change),
        "changed_tensors": sum(value > 0 for value in change.values()),
        "baseline": baseline.name,
        "relative_change": by_scope(change),
    }
    return _saved(outcome, proof, about, folder, on_event)


def by_scope(change: dict[str, float]) -> dict[str, float]:
    """Mean relative change of the tensors of each part of the model."""
    scopes: dict[str, list[float]] = {}
    for name, value in change.items():
        scopes.setdefault(".".join(name.split(".")[:2]), []).append(value)
    return {scope: float(np.mean(values)) for scope, values in scopes.items()}


def _saved(
    outcome: Outcome, proof: dict[str, Any], about: dict[str, str], folder: Path, on_event: OnEvent
) -> dict[Arm, dict[str, Tensor]]:
    """Write guards.json and model/; return both arms' tensors."""
    write_json(folder / runs.GUARDS, proof)
    runs.save_tensors(folder / runs.MODEL, outcome.tensors, about)
    on_event(Saved(path=folder / runs.MODEL))
    return {"before": outcome.before, "after": outcome.after}


def guards(
    model: Model, request: Request, outcome: Outcome, steps: int, guidance: float, remedy: str
) -> dict[str, Any]:
    """Proof that the run did something; raises `EraseError` if not, so that it is not reported as done."""
    change = outcome.change()
    changed = sum(value > 0 for value in change.values())
    if not changed:
        raise EraseError(f"no tensor changed in this run; {remedy}")
    first = request.concepts[0]
    probe = [Shot(sentence(first.kind, first.name), "probe", 0)]
    after = sample(model, probe, steps=steps, guidance=guidance)[0]
    put_tensors(model, outcome.before)
    before = sample(model, probe, steps=steps, guidance=guidance)[0]
    put_tensors(model, outcome.after)
    if not (before != after).any():
        raise EraseError(f"the probe picture is the same as before, to the bit; {remedy}")
    return {
        "trained_tensors": len(change),
        "changed_tensors": changed,
        "probe_changed": True,
        "relative_change": by_scope(change),
    }


def _grid(session: Session) -> np.ndarray:
    """The concepts above what is kept and what earlier runs erased, at fixed noise: uint8, 4 by 2 pictures or more."""
    rows = specimens(session.request)
    shots = [Shot(shown.prompt, f"preview/{i}", 0) for i, shown in enumerate(sum(rows, []))]
    with session.accelerator.autocast():  # as it trains: frozen weights may be in half precision
        pictures, wide = sample(session.model, shots, steps=12), len(rows[0])
    return np.concatenate([np.concatenate(pictures[i : i + wide], axis=1) for i in range(0, len(pictures), wide)])

"""The verbs: erase, evaluate, generate, export. A config goes in, a run folder comes out, events on the way."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erase import runs
from erase.concept import FRAMES, Concept, phrase
from erase.config import Config, load_config, to_yaml, unused_settings
from erase.errors import EraseError, InputError, Interrupted
from erase.evaluation.judges import judges_hash
from erase.evaluation.metrics import changes, scores
from erase.evaluation.prompts import resolve, world_asks, world_concept
from erase.evaluation.rows import Arm
from erase.events import Finished, OnEvent, Preview, Saved, Scored, ShouldStop, Started, Warned, ignore, never
from erase.export import FORMATS, save_pipeline
from erase.methods import METHODS, Options
from erase.models import PRESETS, WORLD, Model, load_model, model_hash, put_tensors, select
from erase.report.card import write_card
from erase.report.html import write_html
from erase.report.schema import build_report, choose_pairs, write_report
from erase.runtime import (
    environment,
    file_hash,
    output_folder,
    pick_device,
    user_path,
    write_json,
    write_png,
)
from erase.sampling import Shot, sample
from erase.scoring import JudgePlan, content_hash, draw_pairs, judge_run
from erase.training import PoolPlan, RolePlan, Session, TrainPlan, neighbours, train
from erase.training.session import MethodPlan, accelerator_for
from erase.world.vocabulary import OBJECT_NAMES, STYLE_NAMES

RUNS = Path("runs")


def erase(
    config: Config,
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
    resume: Path | None = None,
    cache: Path | None = None,
) -> Path:
    """Train, judge and report one run; return its folder.

    Everything given is checked before the folder is made. `cache` is a folder that keeps the base model's pictures for
    other runs judged alike. Raises `InputError` for what cannot be used, `Interrupted` after a stop (the folder can be
    resumed), `EraseError` for a run that failed or changed nothing.
    """
    warnings: list[str] = []
    if resume is not None:
        resume = runs.require_run(user_path(resume))
        if (resume / runs.DONE).exists():
            on_event(Warned(text=f"{resume} is finished already; nothing to do"))
            return resume
        config = load_config(resume / runs.CONFIG, {})
        device, warnings = _stored_device(config)
    else:
        device = pick_device(config.device)
    if cache is not None:
        output_folder(user_path(cache))
    accelerator_for(config.train.precision, device)
    model = load_model(config.model, device)
    concept, said = prepare_concept(config, model)
    warnings += said + unused_settings(config)
    select(model.unet, config.method.parameters)
    if model.world and not config.evaluate.skip:
        world_asks(concept, config.evaluate.prompts, config.evaluate.seeds)
    output, config = config.output, _resolved(config, concept, device)
    if resume is not None:
        folder = resume
    elif output:
        folder = runs.claim_folder(user_path(output), to_yaml(config))
    else:
        folder = runs.new_folder(RUNS, concept.name, config.method.name, to_yaml(config))
    log = runs.EventLog(folder, on_event)
    for text in warnings:
        log(Warned(text=text))
    arms = _train(config, model, concept, folder, log, should_stop)
    if config.evaluate.skip:
        log(Warned(text=f"not judged, as asked; later: erase eval {folder}"))
    elif not model.world:
        log(Warned(text="only the bundled world can be judged so far; the report has pictures and no scores"))
    judged = model.world and not config.evaluate.skip
    _report(config, model, arms, concept, folder, log, should_stop, judged=judged, cache=cache)
    runs.finish(folder)
    log(Finished(folder=folder))
    return folder


def _resolved(config: Config, concept: Concept, device: torch.device) -> Config:
    """What config.yaml and the report keep: nothing is left to look up, and a run from it makes a folder of its own."""
    model = config.model if config.model == WORLD else str(user_path(config.model).resolve())
    named = {"name": concept.name, "kind": concept.kind, "keep": list(concept.keep), "anchor": concept.anchor}
    section = config.concept.model_copy(update=named)
    return config.model_copy(update={"model": model, "concept": section, "device": str(device), "output": None})


def _stored_device(config: Config) -> tuple[torch.device, list[str]]:
    """The device that a run began on, or what there is instead, with a warning."""
    try:
        return pick_device(config.device), []
    except InputError:
        device = pick_device()
        return device, [f"the run began on {config.device}, which is not here; on {device} its numbers round otherwise"]


def prepare_concept(config: Config, model: Model) -> tuple[Concept, list[str]]:
    """The concept with its kind looked up and its neighbours chosen, and what the user should be warned of."""
    given = config.concept
    named = () if given.keep == "auto" else tuple(given.keep)
    warnings = []
    if model.world:
        concept = world_concept(given.name, given.kind, given.anchor, named)
        for word in filter(None, (given.name, given.anchor, *named)):
            if resolve(word)[1] != " ".join(word.casefold().split()):
                warnings.append(f"{word!r} is trained and judged as {resolve(word)[1]!r}, its name in the world")
    else:
        concept = Concept(given.name, "object" if given.kind == "auto" else given.kind, given.anchor, named)
    if not concept.keep:
        concept = replace(concept, keep=neighbours(model, concept))
    for words in (concept.name, concept.anchor, *concept.keep):
        over = model.too_long(phrase(FRAMES[concept.kind][0], words))
        if over:
            warnings.append(f"prompt {words!r} is {over} tokens over the model's limit; the end is cut off")
    return concept, warnings


def _session(config: Config, model: Model, concept: Concept, on_event: OnEvent, should_stop: ShouldStop) -> Session:
    method, training = config.method, config.train
    options = {
        k: v for k in ("guidance", "mask_share", "ratio", "retain_weight") if (v := getattr(method, k)) is not None
    }
    forget, retain = (RolePlan(**role.model_dump()) for role in (training.forget, training.retain))
    return Session(
        model,
        concept,
        MethodPlan(method.name, method.parameters, Options(**options)),
        training.optimizer,
        (forget, retain),
        PoolPlan(**training.pool.model_dump()),
        precision=training.precision,
        rounds=training.rounds,
        batch=training.batch,
        seed=config.seed,
        on_event=on_event,
        should_stop=should_stop,
    )


def _train(
    config: Config, model: Model, concept: Concept, folder: Path, log: OnEvent, should_stop: ShouldStop
) -> dict[Arm, dict[str, Tensor]]:
    """Train from the last checkpoint on; leave the trained tensors in model/ and in `model`; return both arms'."""
    plan = TrainPlan(
        rounds=config.train.rounds,
        accumulate=config.train.accumulate,
        preview_every=config.train.preview_every,
        checkpoint_every=config.train.checkpoint_every,
    )
    state = runs.load_checkpoint(folder)
    first = 0 if state is None else state["round"]
    turns = 1 if config.train.optimizer == "joint" else 2
    # Before the pools are sampled, so that a front end knows the folder from the first second on.
    log(Started(folder=folder, total=turns * (plan.rounds - first), first=first))
    probe = [Shot(phrase(FRAMES[concept.kind][0], concept.name), "probe", 0)]
    before = sample(model, probe, steps=config.evaluate.steps, guidance=config.evaluate.guidance)[0]
    session = _session(config, model, concept, log, should_stop)
    if state is not None:
        session.load_state_dict(state)

    def save(round: int) -> None:
        runs.save_checkpoint(folder, {"round": round, **session.state_dict()})
        log(Saved(path=folder / runs.CHECKPOINT))

    def preview(round: int) -> None:
        _preview(model, concept, folder / "images" / f"preview-{round:05d}.png", round, log)

    done = train(session, plan, first=first, on_event=log, should_stop=should_stop, save=save, preview=preview)
    if done < plan.rounds:
        log(Finished(folder=folder, complete=False))
        raise Interrupted(f"stopped after round {done} of {plan.rounds}; go on with: erase run --resume {folder}")
    after = sample(model, probe, steps=config.evaluate.steps, guidance=config.evaluate.guidance)[0]
    guards = _guards(session, before, after)
    metadata = {"format": "pt", "base": Path(config.model).name, "concept": concept.name, "method": config.method.name}
    write_json(folder / runs.GUARDS, guards)
    runs.save_tensors(folder / runs.MODEL, session.trained.tensors(), metadata)
    for parameter in session.trained.parameters.values():
        parameter.requires_grad_(False)
    log(Saved(path=folder / runs.MODEL))
    trained = {name: value.clone() for name, value in session.trained.tensors().items()}
    return {"before": session.trained.originals, "after": trained}


def _guards(session: Session, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Proof that the run did something; raises `EraseError` if not, so that it is not reported as done."""
    change = session.trained.change()
    changed = sum(value > 0 for value in change.values())
    different = bool((before != after).any())
    if not changed:
        raise EraseError("no tensor changed in this run; raise the rates or the rounds")
    if not different:
        raise EraseError("the probe picture is the same as before, to the bit; raise the rates or the rounds")
    scopes: dict[str, list[float]] = {}
    for name, value in change.items():
        scopes.setdefault(".".join(name.split(".")[:2]), []).append(value)
    return {
        "trained_tensors": len(change),
        "changed_tensors": changed,
        "probe_changed": different,
        "relative_change": {scope: float(np.mean(values)) for scope, values in scopes.items()},
    }


def _preview(model: Model, concept: Concept, path: Path, round: int, log: OnEvent) -> None:
    """Four pictures of the concept above four of what is kept, at fixed seeds."""
    frame = FRAMES[concept.kind][0]
    words = [concept.name] * 4 + [concept.keep[i % len(concept.keep)] for i in range(4)]
    shots = [Shot(phrase(frame, w), f"preview/{i}", 0) for i, w in enumerate(words)]
    pictures = sample(model, shots, steps=12)
    rows = [np.concatenate(pictures[i : i + 4], axis=1) for i in (0, 4)]
    write_png(path, np.concatenate(rows))
    log(Preview(step=round, images=path))


def _report(
    config: Config,
    model: Model,
    arms: dict[Arm, dict[str, Tensor]],
    concept: Concept,
    folder: Path,
    log: OnEvent,
    should_stop: ShouldStop,
    *,
    judged: bool,
    cache: Path | None = None,
) -> list[dict[str, Any]]:
    """Judge both arms, or only draw them, and write report.json and report.html; return the scores."""
    started = time.perf_counter()
    put_tensors(model.unet, arms["before"])
    base = model_hash(model)
    asked = config.evaluate
    if judged:
        alike = content_hash(config.model_dump(include={"method", "train"}))
        counts = asked.prompts, asked.seeds, asked.steps, asked.guidance
        plan = JudgePlan(folder.name, config.method.name, config.seed, *counts, cache, alike)
        rows = judge_run(plan, model, arms, concept, folder, log, should_stop)
        found, moved, shown = scores(rows), changes(rows), choose_pairs(rows)
    else:
        found, moved = [], []
        shown = draw_pairs(model, arms, concept, asked.steps, asked.guidance, folder, log, should_stop)
    facts = {"seed": config.seed, "base_weights": base, "trained_weights": file_hash(folder / runs.MODEL)}
    if judged:
        facts["judges"] = judges_hash()
    report = build_report(
        run_id=folder.name,
        environment={**environment(model.device), **facts},
        config=config.model_dump(),
        guards=runs.read_guards(folder),
        scores=found,
        changes=moved,
        images=shown,
        timings={**runs.timings(folder), "judging_seconds": time.perf_counter() - started},
    )
    write_report(folder / runs.REPORT, report)
    write_html(folder)
    log(Saved(path=folder / runs.PAGE))
    as_json = [asdict(score) for score in found]
    if judged:
        log(Scored(scores=as_json))
    return as_json


def load_run(folder: Path, device: torch.device) -> tuple[Config, Model, dict[Arm, dict[str, Tensor]]]:
    """A finished run's config, its erased model, and the trained subset's tensors before and after.

    Raises `InputError` where the run's weights are not those that its configuration trains, or not finite.
    """
    config = load_config(runs.require_run(folder, finished=True) / runs.CONFIG, {})
    model, path = load_model(config.model, device), folder / runs.MODEL
    tensors, wanted = runs.load_tensors(path), select(model.unet, config.method.parameters)
    different = sorted(tensors.keys() ^ wanted.keys())
    if different:
        raise InputError(f"{path} does not fit the run: {len(different)} tensors too many or missing: {different[0]}")
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise InputError(f"{path}: tensor {name} holds NaN or infinity; run the erasure again")
    before = {name: value.detach().clone() for name, value in wanted.items()}
    put_tensors(model.unet, tensors)
    return config, model, {"before": before, "after": tensors}


def evaluate(folder: Path, on_event: OnEvent = ignore, should_stop: ShouldStop = never) -> list[dict[str, Any]]:
    """Judge a trained run again (or for the first time) and rewrite its report; return the scores."""
    runs.read_guards(runs.require_run(folder, finished=True))
    device, warnings = _stored_device(load_config(folder / runs.CONFIG, {}))
    config, model, arms = load_run(folder, device)
    if not model.world:
        raise InputError(f"{folder} is a run on {config.model!r}; only runs on the bundled world can be judged so far")
    concept, _ = prepare_concept(config, model)
    log = runs.EventLog(folder, on_event)
    for text in warnings:
        log(Warned(text=text))
    return _report(config, model, arms, concept, folder, log, should_stop, judged=True)


def generate(
    source: str,
    prompts: list[str],
    seeds: list[int],
    output: Path,
    steps: int = 25,
    guidance: float = 3.0,
    device: str = "auto",
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
) -> list[Path]:
    """Sample each prompt at each seed from a model or a run; return the PNG files in `output`."""
    output_folder(output)
    place = pick_device(device)
    run = user_path(source)
    model = load_run(run, place)[1] if (run / runs.CONFIG).is_file() else load_model(source, place)
    for prompt in prompts:
        over = model.too_long(prompt)
        if over:
            on_event(Warned(text=f"prompt {prompt!r} is {over} tokens over the model's limit; the end is cut off"))
    shots = [Shot(prompt, prompt, seed) for prompt in prompts for seed in seeds]
    pictures = sample(model, shots, steps=steps, guidance=guidance, on_event=on_event, should_stop=should_stop)
    paths = []
    for number, (shot, picture) in enumerate(zip(shots, pictures, strict=True)):
        path = output / f"{number:04d}-seed{shot.seed}.png"
        write_png(path, picture)
        paths.append(path)
    return paths


def export(folder: Path, format: str, output: Path) -> Path:
    """Write a finished run's model in `format` to `output`, with a model card."""
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown; use {', '.join(FORMATS)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output {output} exists and is not empty; name a new folder")
    _, model, _ = load_run(folder, torch.device("cpu"))

    def add_card(scratch: Path) -> None:
        write_card(folder, scratch)

    return save_pipeline(model, output, add_card)


def listing(kind: str) -> list[tuple[str, str]]:
    """What `erase list KIND` shows: names with one line each."""
    if kind == "methods":
        return [(m.name, m.summary) for m in METHODS.values()]
    if kind == "models":
        return [
            (WORLD, "bundled: 60 objects in 6 styles, 64 px"),
            ("FOLDER", "a folder in diffusers' layout"),
        ]
    if kind == "concepts":
        return [(n, "object of the world") for n in OBJECT_NAMES] + [(n, "style of the world") for n in STYLE_NAMES]
    model = load_model(WORLD)
    counts = {p: sum(v.numel() for v in select(model.unet, p).values()) for p in PRESETS}
    return [(p, f"{counts[p]:,} weights of the world; pattern {PRESETS[p] or '(everything)'}") for p in PRESETS]

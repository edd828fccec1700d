"""The verbs: erase, evaluate, generate, export. A config goes in, a run folder comes out, events on the way."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from erase import runs
from erase.concept import FRAMES, Concept, phrase
from erase.config import Config, load_config, to_yaml
from erase.errors import EraseError, InputError, Interrupted
from erase.evaluation.metrics import changes, scores
from erase.evaluation.prompts import resolve
from erase.events import Finished, OnEvent, Preview, Saved, Scored, ShouldStop, Started, Warned, ignore, never
from erase.export import FORMATS, save_pipeline
from erase.methods import METHODS, Options
from erase.models import PRESETS, WORLD, Model, load_model, put_tensors, select
from erase.report.card import write_card
from erase.report.html import write_html
from erase.report.schema import build_report, choose_pairs, read_report, write_report
from erase.runtime import environment, file_hash, pick_device, replacing
from erase.sampling import Shot, sample
from erase.scoring import judge_run
from erase.training import PoolPlan, RolePlan, Session, TrainPlan, neighbours, train
from erase.training.session import MethodPlan, accelerator_for
from erase.world.vocabulary import OBJECT_NAMES, STYLE_NAMES

RUNS = Path("runs")


def erase(
    config: Config, on_event: OnEvent = ignore, should_stop: ShouldStop = never, resume: Path | None = None
) -> Path:
    """Train, judge and report one run; return its folder.

    Everything given is checked before the folder is made. Raises `InputError` for what cannot be used, `Interrupted`
    after a stop (the folder can be resumed), `EraseError` for a run that failed or changed nothing.
    """
    device = pick_device(config.device)
    if resume is not None:
        config = load_config(runs.require_run(resume) / runs.CONFIG, {})
    if resume is not None and (resume / runs.DONE).exists():
        on_event(Warned(text=f"{resume} is finished already; nothing to do"))
        return resume
    accelerator_for(config.train.precision, device)
    model = load_model(config.model, device)
    concept, warnings = prepare_concept(config, model)
    select(model.unet, config.method.parameters)
    if resume is not None:
        folder = resume
    elif config.output:
        folder = runs.claim_folder(Path(config.output).expanduser())
    else:
        folder = runs.new_folder(RUNS, concept.name, config.method.name)
    with replacing(folder / runs.CONFIG) as temporary:
        temporary.write_text(to_yaml(config), encoding="utf-8")
    log = runs.EventLog(folder, on_event)
    for text in warnings:
        log(Warned(text=text))
    guards = _train(config, model, concept, folder, log, should_stop)
    if config.evaluate.skip:
        log(Warned(text=f"not judged, as asked; later: erase eval {folder}"))
    else:
        _judge_and_report(config, model, concept, folder, guards, log, should_stop)
    runs.finish(folder)
    log(Finished(folder=folder))
    return folder


def prepare_concept(config: Config, model: Model) -> tuple[Concept, list[str]]:
    """The concept with its kind looked up and its neighbours chosen, and what the user should be warned of."""
    given = config.concept
    kind, name = given.kind, given.name
    if model.world:
        kind, name = resolve(given.name)
        if given.kind not in ("auto", kind):
            raise InputError(f"concept.kind {given.kind}: {given.name!r} is an {kind} of the world; use kind: auto")
        if given.anchor:
            anchor_kind, _ = resolve(given.anchor)
            if anchor_kind != kind:
                raise InputError(f"concept.anchor {given.anchor!r} is a {anchor_kind}, {given.name!r} is a {kind}")
    concept = Concept(name, "object" if kind == "auto" else kind, given.anchor)
    if given.keep == "auto":
        keep = neighbours(model, concept)
    else:
        keep = tuple(resolve(k)[1] if model.world else k for k in given.keep)
    concept = Concept(concept.name, concept.kind, concept.anchor, keep)
    warnings = []
    for words in (concept.name, concept.anchor, *keep):
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
        batch=training.batch,
        seed=config.seed,
        on_event=on_event,
        should_stop=should_stop,
    )


def _train(
    config: Config, model: Model, concept: Concept, folder: Path, log: OnEvent, should_stop: ShouldStop
) -> dict[str, Any]:
    """Train from the last checkpoint on; leave the trained tensors in model/ and in `model`; return the guards."""
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
    metadata = {"format": "pt", "base": config.model, "concept": concept.name, "method": config.method.name}
    runs.save_tensors(folder / runs.MODEL, session.trained.tensors(), metadata)
    for parameter in session.trained.parameters.values():
        parameter.requires_grad_(False)
    log(Saved(path=folder / runs.MODEL))
    return guards


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
    with replacing(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary)
    log(Preview(step=round, images=path))


def _judge_and_report(
    config: Config,
    model: Model,
    concept: Concept,
    folder: Path,
    guards: dict[str, Any],
    log: OnEvent,
    should_stop: ShouldStop,
) -> list[dict[str, Any]]:
    if not model.world:
        log(Warned(text="only the bundled world can be judged so far; the run has pictures and weights but no scores"))
        return []
    started = time.perf_counter()
    rows = judge_run(config, model, runs.load_tensors(folder / runs.MODEL), concept, folder, log, should_stop)
    found = scores(rows)
    report = build_report(
        run_id=folder.name,
        environment={**environment(model.device), "seed": config.seed, "weights": file_hash(folder / runs.MODEL)},
        config=config.model_dump(),
        guards=guards,
        scores=found,
        changes=changes(rows),
        images=choose_pairs(rows),
        timings={**_timings(folder), "judging_seconds": time.perf_counter() - started},
    )
    write_report(folder / runs.REPORT, report)
    write_html(folder)
    log(Saved(path=folder / runs.PAGE))
    as_json = [asdict(score) for score in found]
    log(Scored(scores=as_json))
    return as_json


def _timings(folder: Path) -> dict[str, float]:
    steps = [e["seconds"] for e in runs.read_events(folder) if e["event"] == "step"]
    return {"training_seconds": float(sum(steps)), "seconds_per_step": float(np.mean(steps)) if steps else 0.0}


def load_run(folder: Path, device: torch.device) -> tuple[Config, Model]:
    """A finished run's config and its erased model."""
    config = load_config(runs.require_run(folder, finished=True) / runs.CONFIG, {})
    model = load_model(config.model, device)
    put_tensors(model.unet, runs.load_tensors(folder / runs.MODEL))
    return config, model


def evaluate(folder: Path, on_event: OnEvent = ignore, should_stop: ShouldStop = never) -> list[dict[str, Any]]:
    """Judge a trained run again (or for the first time) and rewrite its report; return the scores."""
    config = load_config(runs.require_run(folder, finished=True) / runs.CONFIG, {})
    model = load_model(config.model, pick_device(config.device))
    concept, _ = prepare_concept(config, model)
    guards = read_report(folder / runs.REPORT).guards if (folder / runs.REPORT).exists() else {}
    log = runs.EventLog(folder, on_event)
    return _judge_and_report(config, model, concept, folder, guards, log, should_stop)


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
    place = pick_device(device)
    run = Path(source).expanduser()
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
        with replacing(path) as temporary:
            Image.fromarray(picture).save(temporary)
        paths.append(path)
    return paths


def export(folder: Path, format: str, output: Path) -> Path:
    """Write a finished run's model in `format` to `output`, with a model card."""
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown; use {', '.join(FORMATS)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output {output} exists and is not empty; name a new folder")
    _, model = load_run(folder, torch.device("cpu"))

    def add_card(scratch: Path) -> None:
        if (folder / runs.REPORT).exists():
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

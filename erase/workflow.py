"""The verbs: erase, resume, evaluate, generate, export. A config goes in, a run folder comes out, events on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase import __version__, runs
from erase.attacking import attack_run
from erase.check import anywhere, check_judging, check_variant, named_request
from erase.concept import title
from erase.config import Config, first_model, is_world, run_folders, to_yaml
from erase.distributed import ALONE, Group
from erase.erasing import baseline_run, edit_run, train_run
from erase.errors import InputError, Interrupted
from erase.evaluation.rows import Arm
from erase.events import Finished, OnEvent, ShouldStop, Started, Warned, ignore, never
from erase.export import Erased, plan_export, save
from erase.judged import attacked_config, judged_before
from erase.judging import attack_plan, check_attacks, is_judged, judge_plan
from erase.methods import BASELINES
from erase.models import hub_id, load_model, model_hash
from erase.plans import edit_plan, edits, lora_plan, train_plan
from erase.prepare import (
    Job,
    load_run,
    open_gold,
    open_model,
    open_session,
    origin,
    prepare,
    prepare_request,
    put_trained,
    stored_config,
    stored_device,
    too_long,
)
from erase.report.card import write_card
from erase.report.html import without_paths
from erase.reporting import add_attacks, assist, report_run, rescore_run
from erase.runtime import command, output_folder, sweep, user_path, write_png
from erase.sampling import Shot, sample

RUNS = Path("runs")


def erase(
    config: Config,
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
    cache: Path | None = None,
    group: Group = ALONE,
) -> Path:
    """Train, judge and report one run; return its folder.

    Everything given is checked before the folder is made. `cache` is a folder that keeps the base model's pictures for
    other runs judged alike. Of a `group` every process calls this alike; the main one writes and tells. Raises
    `InputError` for what cannot be used, `Interrupted` after a stop (the folder can be resumed), `EraseError` for a run
    that failed or changed nothing.
    """
    on_event = on_event if group.main else ignore
    job = prepare(config, group.device(config.device), cache, on_event, should_stop, group)
    stored = to_yaml(job.config)
    if config.output:
        folder = group.on_main(lambda: runs.claim_folder(user_path(str(config.output)), stored))
    else:
        folder = group.on_main(lambda: runs.new_folder(RUNS, job.request.title, job.config.method.name, stored))
    return _complete(job, folder, on_event, should_stop)


def resume(
    folder: Path,
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
    cache: Path | None = None,
    group: Group = ALONE,
) -> Path:
    """Go on with a run that was stopped, from its last checkpoint and with its own settings; raises as `erase` does.

    As many processes as divide its batch may go on with it, however many began it.
    """
    on_event = on_event if group.main else ignore
    folder = user_path(folder)
    config = stored_config(folder)
    if group.on_main((folder / runs.DONE).exists):
        on_event(Warned(text=f"{folder} is finished already; nothing to do"))
        return folder
    group.on_main(lambda: sweep(folder))
    device, warnings = stored_device(config, group)
    job = prepare(config, device, cache, on_event, should_stop, group)
    return _complete(replace(job, warnings=warnings + job.warnings), folder, on_event, should_stop)


def _complete(job: Job, folder: Path, on_event: OnEvent, should_stop: ShouldStop) -> Path:
    """All that a run's folder is still to get, `DONE` last."""
    config, model, group = job.config, job.model, job.group
    log = runs.EventLog(folder, on_event) if group.main else ignore
    for text in job.warnings:
        log(Warned(text=text))
    arms = _weights(job, folder, log, should_stop)
    judged = is_judged(config, model)
    if config.evaluate.skip:
        log(Warned(text=f"not judged, as asked; later: {command('eval', folder)}"))
    elif not judged:
        text = "no judge is named for this model, so the report has pictures and no scores; later: "
        log(Warned(text=text + command("eval", folder, "--judge", "clip")))
    plan = replace(judge_plan(config, folder.name, job.cache), group=group)
    if group.main:
        report_run(plan, config.model_dump(), model, arms, job.request, folder, log, should_stop, judged=judged)
        runs.finish(folder)
        log(Finished(folder=folder))
    else:
        assist(plan, model, arms, job.request, should_stop, judged=judged)
    group.wait()
    return folder


def _title(job: Job) -> str:
    """What the base was taken for, and what is erased from it already."""
    earlier = title([concept.name for concept in job.request.earlier])
    return f"{job.model.title}, without {earlier}" if earlier else job.model.title


def _weights(job: Job, folder: Path, log: OnEvent, should_stop: ShouldStop) -> dict[Arm, dict[str, Tensor]]:
    """The changed subset's tensors before and after: those that the folder has, or edited, or trained now."""
    config = job.config
    if job.group.on_main((folder / runs.MODEL).is_file):  # all that was left is to judge
        rounds = 0 if edits(config) else config.turns.rounds
        log(Started(folder=folder, total=0, first=rounds, model=_title(job)))
        runs.read_guards(folder)
        return put_trained(folder, config, job.model)
    of = origin(config, job.model)
    base = config.model if hub_id(config.model) else Path(config.model).name
    about = {"base": base, "concept": job.request.title, "method": config.method.name, **of}
    if not edits(config):
        return _train(job, folder, about, of, log, should_stop)
    log(Started(folder=folder, total=0, model=_title(job)))
    asked, method = config.evaluate, config.method
    if not job.group.main:  # a closed form is solved once, and takes seconds
        job.group.wait()
        return put_trained(folder, config, job.model)
    if method.name in BASELINES:
        source = open_gold(config, job.model) if method.source else None
        made = BASELINES[method.name], method.parameters, config.seed, source
        arms = baseline_run(job.model, *made, about=about, folder=folder, on_event=log)
        job.group.wait()
        return arms
    arms = edit_run(
        job.model,
        job.request,
        edit_plan(config),
        steps=asked.steps,
        guidance=asked.guidance,
        about=about,
        folder=folder,
        on_event=log,
    )
    job.group.wait()
    return arms


def _train(
    job: Job, folder: Path, about: dict[str, str], of: dict[str, str], log: OnEvent, should_stop: ShouldStop
) -> dict[Arm, dict[str, Tensor]]:
    """Train from the last checkpoint on, which must be `of` this run."""
    config, plan = job.config, train_plan(job.config)
    path, state = runs.load_checkpoint(folder, log) or (folder, None)
    if state is not None:
        runs.check_origin(path, state.get("about"), of)
    first = 0 if state is None else state["round"]
    turns = 1 if config.turns.optimizer == "joint" else 2
    # Before the pools are sampled, so that a front end knows the folder from the first second on.
    log(Started(folder=folder, total=turns * (plan.rounds - first), first=first, model=_title(job)))
    session = open_session(job, log, should_stop)
    if state is not None:
        session.load_state_dict(state)
    return train_run(
        session,
        plan,
        first,
        steps=config.evaluate.steps,
        guidance=config.evaluate.guidance,
        about=about,
        folder=folder,
        on_event=log,
        should_stop=should_stop,
    )


def evaluate(
    folder: Path,
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
    cache: Path | None = None,
    asked: Mapping[str, Any] | None = None,
    group: Group = ALONE,
) -> list[dict[str, Any]]:
    """Judge a trained run again (or for the first time) and rewrite its report; return the scores.

    `asked` changes settings of judging for this time, by dotted path ("evaluate.judges"); `cache` as for `erase`.
    Of a `group` every process calls this alike, and the main one alone has the scores.
    """
    on_event = on_event if group.main else ignore
    config = stored_config(folder, finished=True, asked={"evaluate.skip": False, **(asked or {})})
    runs.read_guards(folder)
    first = first_model(config.model)
    if not is_world(first) and not config.evaluate.judges:
        raise InputError(
            f"{folder} is a run on {first!r}, which has no judges of its own; name one: "
            f"{command('eval', folder, '--judge', 'clip')}"
        )
    config = config.model_copy(update={"evaluate": anywhere(config)})  # the report's paths are to hold elsewhere too
    told = check_judging(config, named_request(config))
    cache = None if cache is None else output_folder(user_path(cache))
    device, warnings = stored_device(config, group)
    model, arms = load_run(folder, config, device, on_event)
    request = prepare_request(config, model)
    plan, scores = replace(judge_plan(config, folder.name, cache), group=group), []
    if group.main:
        log = runs.EventLog(folder, on_event)
        for text in told + warnings:
            log(Warned(text=text))
        scores = report_run(plan, config.model_dump(), model, arms, request, folder, log, should_stop, judged=True)
    else:
        assist(plan, model, arms, request, should_stop, judged=True)
    group.wait()
    return scores


def attack(
    folder: Path,
    level: str = "quick",
    names: Sequence[str] = (),
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
    cache: Path | None = None,
) -> list[dict[str, Any]]:
    """Try to bring back what a run erased, all attacks or those named; return their scores, which join the report.

    A run that has no scores yet is judged first, with the base model's pictures out of `cache`; one that has them is
    attacked with the judges that gave them. What was attacked before with the same budget is not done again. Raises
    `Interrupted` after a stop: attacks that were finished are kept and in the report.
    """
    config = attacked_config(folder)
    check_attacks(config, level, names, folder)
    if not judged_before(folder):
        evaluate(folder, on_event, should_stop, cache)
    device, _ = stored_device(config)
    model, arms = load_run(folder, config, device, on_event)
    request, log, sha = prepare_request(config, model), runs.EventLog(folder, on_event), model_hash(model)
    try:
        attack_run(attack_plan(config, folder.name, level, names), model, arms, request, folder, log, should_stop)
    except Interrupted:
        add_attacks(folder, sha, log)
        raise
    return add_attacks(folder, sha, log)


def rescore(folder: Path, on_event: OnEvent = ignore) -> list[dict[str, Any]]:
    """Compute a judged run's scores again from rows.jsonl, attacks.jsonl and features.safetensors; rewrite its report.

    Returns them. Gaps to gold stay as they were.
    Raises `InputError` where the run was not judged, or its rows are not those of one run in full.
    """
    return rescore_run(runs.require_run(user_path(folder)), runs.EventLog(user_path(folder), on_event))


def generate(
    source: str,
    prompts: list[str],
    seeds: list[int],
    output: Path,
    steps: int = 25,
    guidance: float = 3.0,
    device: str = "auto",
    variant: str | None = None,
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
    group: Group = ALONE,
) -> list[Path]:
    """Sample each prompt at each seed from a model or a run; return the PNG files in `output`.

    Of a `group` each process draws its part, and the main one writes them all.
    """
    on_event = on_event if group.main else ignore
    check_variant(source, variant)
    output_folder(output)
    named = [(p, s) for p in prompts for s in seeds]
    paths = [output / f"{number:04d}-seed{seed}.png" for number, (_, seed) in enumerate(named)]
    taken = group.on_main(lambda: [path for path in paths if path.exists()])
    if taken:
        raise InputError(f"output {taken[0]} exists; name a new folder, or remove the pictures in it")
    place, run = group.device(device), user_path(source)
    if run_folders(source):
        model, _ = load_run(run, stored_config(run, finished=True), place, on_event)
    else:
        model = load_model(source, place, variant, on_event, should_stop)
    for text in too_long(model, prompts):
        on_event(Warned(text=text))
    shots = [Shot(prompt, prompt, seed) for prompt, seed in named]
    pictures = sample(
        model, shots, steps=steps, guidance=guidance, group=group, on_event=on_event, should_stop=should_stop
    )
    for path, picture in zip(paths, pictures if group.main else [], strict=group.main):
        write_png(path, picture)
    group.wait()
    return paths


def export(
    folder: Path,
    format: str,
    output: Path,
    dtype: str | None = None,
    rank: int | None = None,
    on_event: OnEvent = ignore,
) -> Path:
    """Write a finished run's model in `format` to `output`, with a model card.

    `dtype` is fp32, fp16 or bf16, None: fp32, or a base file's own; `rank` is that of a LoRA, None: 16, or what
    holds all of a LoRA that was trained and of a closed form. What a LoRA cannot hold is warned of. Of a run on a run,
    all that both changed is in it, beside the model that the first began from: the one that people have.
    """
    plan, folder = plan_export(format, output, dtype, rank), user_path(folder)
    config = stored_config(folder, finished=True)
    request, place = named_request(config), folder.resolve()
    configs = [stored_config(run) for run in run_folders(str(place))]
    model, arms = open_model(str(place), torch.device("cpu"), on_event=on_event)
    lora = lora_plan(config) if len(configs) == 1 else None
    erased = Erased(
        model,
        arms["before"],
        arms["after"],
        request.title,
        _recipe(place),
        factors=runs.load_tensors(folder / runs.MODEL)[0] if lora else {},
        alpha=lora.alpha if lora else 0.0,
        low_rank=all(edits(one) or lora_plan(one) for one in configs),
    )
    for text in save(plan, erased, partial(write_card, folder, earlier=[c.name for c in request.earlier])):
        on_event(Warned(text=text))
    return output


def _recipe(folder: Path) -> dict[str, Any]:
    """What a run did, and the runs before it, to the base of the first of them: for the metadata of an export."""
    chain = run_folders(str(folder))
    about = [runs.read_about(run / runs.MODEL) for run in chain]
    config, *earlier = (without_paths(stored_config(run).model_dump()) for run in chain)
    base = {key: about[-1][key] for key in ("base", "base weights")}
    recipe = {"version": __version__, **about[0], **base, "config": config}
    return recipe | ({"earlier": earlier[::-1]} if earlier else {})

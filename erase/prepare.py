"""From a configuration to what the layers below take: device, model, concept, plans. They see no configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase import runs
from erase.check import anywhere, check_config, less_memory, named_request
from erase.concept import FRAMES, Request, phrase
from erase.config import BASELINES, Config, load_config, run_folders
from erase.distributed import ALONE, Group
from erase.errors import AFRESH, InputError, Unresumable
from erase.estimate import COUNTED, GIB, Need, Weights, bytes_of_states, estimate, rounded
from erase.evaluation.rows import Arm
from erase.events import OnEvent, ShouldStop, ignore, never
from erase.judging import check_judges, deciding, hiding_of
from erase.methods import METHODS, Options, baselines
from erase.models import (
    ENCODER,
    WORLD,
    Model,
    hub_id,
    layers,
    load_model,
    merge,
    model_hash,
    put_tensors,
    select,
)
from erase.plans import edits, lora_plan, method_options, role_plan
from erase.runtime import file_hash, output_folder, user_path
from erase.scoring import content_hash
from erase.training import (
    MemoryPlan,
    PoolPlan,
    Session,
    check_gold,
    neighbours,
    projections,
)
from erase.training.session import MethodPlan, accelerator_for
from erase.training.shares import share


@dataclass(frozen=True, slots=True)
class Job:
    """A run that can begin. `config` is resolved: a run from it alone is the same run.

    `warnings` are lines for the user; `cache` is a folder that keeps the base model's pictures for other runs;
    `group` are the processes that do the run.
    """

    config: Config
    model: Model
    request: Request
    warnings: list[str]
    cache: Path | None = None
    group: Group = ALONE


def prepare(
    config: Config,
    device: torch.device,
    cache: Path | None = None,
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
    group: Group = ALONE,
) -> Job:
    """Check everything that a run needs and load its model, fetching it where it is to be. Writes nothing else.

    Raises `InputError`, and `Interrupted` after a stop while fetching.
    """
    warnings = check_config(config)
    cache = None if cache is None else output_folder(user_path(cache))
    if not edits(config):
        share(config.turns.batch, config.turns.accumulate, group, in_order=METHODS[config.method.name].adversary)
        accelerator_for(config.turns.precision, device)
    model = _loaded(config, device, on_event, should_stop)
    if edits(config) and config.method.name not in BASELINES:
        projections(model, config.method.parameters)
    if config.method.name == "retrained":
        open_gold(config, model)
    request = prepare_request(config, model)
    check_judges(config, model, request)
    for concept in request.concepts:
        for words in (concept.name, concept.anchor, *concept.keep):
            frames = [phrase(frame, words) for frame in FRAMES[concept.kind]]
            warnings += too_long(model, [max(frames, key=lambda text: model.too_long(text))])
    warnings = list(dict.fromkeys(warnings))  # concepts may share what they keep
    warnings += memory_warnings(config, model)
    kept = torch.device(device.type) if group.size > 1 else device  # each process has a GPU of its own
    return Job(_resolved(config, request, model, kept), model, request, warnings, cache, group)


def memory_warnings(config: Config, model: Model) -> list[str]:
    """A line where training is estimated to need more than the GPU has, or than the preset is for."""
    cards = [float(config.memory.removesuffix("gb"))] if config.memory else []
    if model.device.type == "cuda":
        cards.append(torch.cuda.get_device_properties(model.device).total_memory / GIB)
    if config.train is None or not cards or model.family not in COUNTED:
        return []
    need, card = needed(config, model).total, min(cards)
    if need <= card:
        return []
    return [
        f"this run is estimated to need {rounded(need):.1f} GiB of GPU memory, and {card:.1f} are there; "
        f"{less_memory(config)}"
    ]


def needed(config: Config, model: Model) -> Need:
    """The estimate of GPU memory for a run that trains."""
    training, method, lora = config.turns, config.method, lora_plan(config)
    picked = select(model, method.parameters)
    inside = sum(p.numel() for name, p in picked.items() if not name.startswith(ENCODER))
    within = sum(p.numel() for p in picked.values()) - inside
    unet, parts = _count(model.unet), [part for part in model.weighted.values() if part is not model.unet]
    waiting = sum(_count(getattr(model, name)) for name in model.offload)
    changed = trained = inside + within
    if lora is not None:
        on = [picked[f"{layer}.weight"] for layer in layers(model, method.parameters)]
        changed = sum(p.numel() for p in on)
        trained, inside, within = sum(lora.rank * (len(p) + p[0].numel()) for p in on), 0, 0
    return estimate(
        Weights(unet, unet - inside, trained, changed, sum(map(_count, parts)) - waiting - within),
        model.family,
        (model.latent_shape[1] * model.latent_shape[2]) ** 0.5,
        states=bytes_of_states(
            training.optimizer, (training.forget.optimizer, training.retain.optimizer), training.states
        ),
        batch=training.batch,
        mixed=training.precision != "fp32",
        half=training.frozen == "half",
        checkpointing=training.checkpointing,
        offload=training.offload,
        masked=METHODS[method.name].mask is not None,
    )


def _count(part: torch.nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def prepare_request(config: Config, model: Model) -> Request:
    """The concepts with their kinds looked up and their neighbours chosen."""
    request = named_request(config)
    if all(concept.keep for concept in request.concepts):
        return request
    near = neighbours(model, request)
    chosen = tuple(replace(c, keep=c.keep or found) for c, found in zip(request.concepts, near, strict=True))
    if not all(concept.keep for concept in chosen):
        raise InputError("nothing is left to keep beside all that is erased; name something in concept.keep")
    return replace(request, concepts=chosen)


def too_long(model: Model, prompts: list[str]) -> list[str]:
    """A warning for each prompt that the model cuts."""
    over = {prompt: model.too_long(prompt) for prompt in prompts}
    shown = {p: p if len(p) <= 80 else f"{p[:77]}..." for p in over}
    return [
        f"prompt {shown[p]!r} is {n} tokens over the model's limit; the end is cut off" for p, n in over.items() if n
    ]


def _resolved(config: Config, request: Request, model: Model, device: torch.device) -> Config:
    """What config.yaml and the report keep: nothing is left to look up, and a run from it makes a folder of its own."""
    update: dict[str, Any] = {"device": str(device), "output": None, "evaluate": anywhere(config)}
    if run_folders(config.model):
        update["model"] = str(user_path(config.model).resolve())
    else:
        kept = model.source == WORLD or hub_id(model.source) is not None
        update["model"] = model.source if kept else str(user_path(model.source).resolve())
        update["variant"] = model.variant
    if config.method.source:
        gold = str(user_path(config.method.source).resolve())
        update["method"] = config.method.model_copy(update={"source": gold})
    sections = [
        section.model_copy(update={"name": c.name, "kind": c.kind, "keep": list(c.keep), "anchor": c.anchor})
        for section, c in zip(config.concepts, request.concepts, strict=True)
    ]
    update["concept"] = sections if isinstance(config.concept, list) else sections[0]
    return config.model_copy(update=update | ({"train": None} if edits(config) else {}))


def stored_config(folder: Path, *, finished: bool = False, asked: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a run (and a finished one); `asked` is laid over it, by dotted path."""
    return load_config(runs.require_run(folder, finished=finished) / runs.CONFIG, asked)


def stored_device(config: Config, group: Group = ALONE) -> tuple[torch.device, list[str]]:
    """The device that a run began on, or what there is instead, with a warning."""
    try:
        return group.device(config.device), []
    except InputError:
        device = group.device("auto")
        return device, [f"the run began on {config.device}, which is not here; on {device} its numbers round otherwise"]


def open_model(
    source: str,
    device: torch.device,
    variant: str | None = None,
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
) -> tuple[Model, dict[Arm, dict[str, Tensor]]]:
    """A model, or that which finished runs made, and the tensors that runs have changed, before the first and now.

    Raises `InputError` as `load_model` and `load_run` do, and for a run that is not finished.
    """
    folders = run_folders(source)
    if not folders:
        return load_model(source, device, variant, on_event, should_stop), {"before": {}, "after": {}}
    config = stored_config(folders[0], finished=True)
    baseline = baselines.BASELINES.get(config.method.name)
    if baseline and baseline.hides:
        raise InputError(
            f"{source} is a run of {baseline.name}, which hides the concept in prompts and changes no weights: there "
            "is nothing to export or to go on from; erase generate draws with it"
        )
    model, first = open_model(config.model, device, config.variant, on_event, should_stop)
    arms = put_trained(folders[0], config, model)
    return model, {"before": arms["before"] | first["before"], "after": first["after"] | arms["after"]}


def load_run(
    folder: Path, config: Config, device: torch.device, on_event: OnEvent = ignore
) -> tuple[Model, dict[Arm, dict[str, Tensor]]]:
    """A finished run's erased model, and the trained subset's tensors before and after that run.

    Raises `InputError` where the weights are not those that its configuration trains from its base, or not finite.
    """
    model = _loaded(config, device, on_event)
    return model, put_trained(folder, config, model)


def _loaded(config: Config, device: torch.device, on_event: OnEvent = ignore, should_stop: ShouldStop = never) -> Model:
    """The model, checked for what the run trains; what training does not read waits on the CPU under `offload`."""
    model, _ = open_model(config.model, device, config.variant, on_event, should_stop)
    if config.train is None or edits(config):
        return model
    picked = _check_trainable(model, config)
    if config.train.offload:
        reads = METHODS[config.method.name].adversary or any(name.startswith(ENCODER) for name in picked)
        model.rest("vae", *(() if reads else model.text_encoders))
    return model


def put_trained(folder: Path, config: Config, model: Model) -> dict[Arm, dict[str, Tensor]]:
    """Put a finished run's tensors into its base model; return the trained subset before and after."""
    path, wanted, lora = folder / runs.MODEL, select(model, config.method.parameters), lora_plan(config)
    try:
        tensors, about = runs.load_tensors(path)
    except InputError as error:
        raise Unresumable(f"{error}; {AFRESH}") from None
    if lora is not None:
        names = [f"{layer}.weight" for layer in layers(model, config.method.parameters)]
        wanted = {name: wanted[name] for name in names}
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise Unresumable(f"{path}: tensor {name} holds NaN or infinity; {AFRESH}")
    before = {name: value.detach().clone() for name, value in wanted.items()}
    try:
        after = tensors if lora is None else merge(before, tensors, lora)
    except InputError as error:
        raise InputError(f"{path} does not fit the run: {error}") from None
    different = sorted(after.keys() ^ wanted.keys())
    if different:
        raise InputError(f"{path} does not fit the run: {len(different)} tensors too many or missing: {different[0]}")
    of = origin(config, model)
    runs.check_origin(path, about, of)
    put_tensors(model, after)
    model.hiding = hiding_of(config)
    model.made_of = content_hash([of["base weights"], file_hash(path)])
    return {"before": before, "after": after}


def origin(config: Config, model: Model) -> dict[str, str]:
    """What trained weights depend on: the settings' format, and hashes of the settings and of the base's weights.

    A base that runs made is known by what is stored: its weights come out of a product, which devices round otherwise.
    """
    settings = deciding(config, {"concept", "method", "train", "seed"})
    base = model.made_of or model_hash(model)
    return {"format": runs.FORMAT, "settings": content_hash(settings), "base weights": base}


def open_session(job: Job, on_event: OnEvent, should_stop: ShouldStop) -> Session:
    """The model made ready to train, which samples its pools."""
    method, training = job.config.method, job.config.turns
    return Session(
        job.model,
        job.request,
        MethodPlan(method.name, method.parameters, Options(**method_options(job.config)), lora_plan(job.config)),
        training.optimizer,
        (role_plan(training, "forget"), role_plan(training, "retain")),
        PoolPlan(**training.pool.model_dump()),
        precision=training.precision,
        rounds=training.rounds,
        batch=training.batch,
        seed=job.config.seed,
        memory=MemoryPlan(training.checkpointing, training.channels_last, training.frozen),
        group=job.group,
        on_event=on_event,
        should_stop=should_stop,
    )


def open_gold(config: Config, model: Model) -> Model:
    """The model that a run of `retrained` takes its weights from. Raises `InputError` for one that is no gold of it."""
    if config.method.source is None:
        raise InputError("method retrained needs method.source: the folder of a model trained without the concept")
    gold, _ = open_model(config.method.source, model.device)
    check_gold(model, gold, config.method.parameters)
    return gold


def _check_trainable(model: Model, config: Config) -> dict[str, torch.nn.Parameter]:
    """What its `parameters` pick, which the method must be able to train."""
    method = config.method
    picked = select(model, method.parameters)
    if method.rank is not None:
        layers(model, method.parameters)
    if METHODS[method.name].anchoring and any(name.startswith(ENCODER) for name in picked):
        raise InputError(
            f"{method.name} holds the {model.network} to what it did on random embeddings, which no text encoder "
            f"reads; parameters {method.parameters!r} pick one: use xattn"
        )
    if METHODS[method.name].adversary:
        readers = model.tokenizers[: len(model.clips)]  # theirs come first
        room = min(map(model.length, readers)) - 3  # for a start, a word and an end
        if (method.attack_tokens or 0) > room:
            raise InputError(
                f"method.attack_tokens: {method.attack_tokens} leave no room for a prompt; this model takes {room} at "
                "most"
            )
    return picked

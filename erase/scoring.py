"""Judge a run: the same prompts and noise before and after, one row a picture."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erase import runs
from erase.concept import Request, specimens
from erase.distributed import ALONE, Group
from erase.errors import InputError
from erase.evaluation.cache import read_pictures, write_pictures
from erase.evaluation.file_prompts import file_asks, take_place, told_names
from erase.evaluation.judge import JudgeSpec, check_kind
from erase.evaluation.looking import Looking
from erase.evaluation.open_prompts import offered_names, one_kind, open_asks
from erase.evaluation.open_roles import choose_open_roles, open_role_asks
from erase.evaluation.panel import Panel, check_names, load_panel
from erase.evaluation.prompt_files import PromptFile
from erase.evaluation.prompts import Ask, pictures, world_asks
from erase.evaluation.roles import role_asks
from erase.evaluation.rows import Arm, Row, Setting, distances, image_sha, make_row, write_rows
from erase.events import OnEvent, ShouldStop, Warned
from erase.models import Hiding, Model, model_hash, put_tensors
from erase.report.schema import Pair, Picture
from erase.runtime import environment, write_png
from erase.sampling import Seen, Shot, noise_hash, sample
from erase.world.vocabulary import FULL

# What of `environment` can move a picture's last bits; `erase` is there for the sampler's own code.
MOVES_BITS = ("erase", "torch", "diffusers", "transformers", "device", "threads", "cpu_capability")


Drawn = dict[tuple[str, int], tuple[np.ndarray, np.ndarray | None]]
"""(prompt id, seed) -> the picture and CLIP's embedding of it, where a judge has one."""


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """How a run is judged. `cache`, a folder, keeps pictures of the base model for the next run with the same plan.

    `hp_id` names the run's method and settings in its rows (`content_hash` of them). `roles` are further ones, on a
    model other than the world as the user asked for them ("all" among them), `files` prompts that take their role's
    place, `judges` those beside the world's. `inception`, a checked file, adds FID and KID. `hiding` is what a baseline
    does to prompts after. The processes of a `group` share the drawing and the looking; each has all rows in the end,
    and writes what it is told to.
    """

    run_id: str
    method: str
    seed: int
    prompts: int
    seeds: int
    steps: int
    guidance: float
    cache: Path | None = None
    hp_id: str = ""
    roles: tuple[str, ...] = ()
    files: tuple[PromptFile, ...] = ()
    judges: tuple[JudgeSpec, ...] = ()
    inception: Path | None = None
    hiding: Hiding | None = None
    group: Group = ALONE


def open_panel(plan: JudgePlan, model: Model, request: Request) -> Panel:
    """Load the run's judges. Raises `InputError` for one that is missing or cannot judge such concepts."""
    kind = request.concepts[0].kind if model.world else one_kind(request)
    if model.world:
        world = model.vocabulary or FULL
        names = {"object": world.object_names, "style": world.style_names}
    else:
        check_kind(plan.judges, kind, request.title)
        names = {kind: offered_names(request, kind, told_names(plan.files))}
    panel = load_panel(plan.judges, names, model.device, model.world)
    if kind == "object":
        check_names(panel, [concept.name for concept in request.concepts])
    return panel


def asks_of(plan: JudgePlan, model: Model, request: Request, known: Sequence[str] | None = None) -> list[Ask]:
    """Every picture of the run's evaluation; `known` as for `open_asks`."""
    if model.world:
        world = model.vocabulary or FULL
        asks = world_asks(request, plan.prompts, plan.seeds, world=world)
        asks += role_asks(request, plan.roles, plan.prompts, plan.seeds, world)
    else:
        asks = open_asks(request, plan.prompts, plan.seeds, known)
        asks += open_role_asks(request, plan.roles, plan.prompts, plan.seeds, known, _tokenizers(model))
    kind, words = request.concepts[0].kind, (model.vocabulary or FULL) if model.world else None
    told = [ask for file in plan.files for ask in file_asks(request, file, kind, words, known)]
    return take_place(asks, told)


def role_notes(plan: JudgePlan, model: Model, request: Request, known: Sequence[str] | None = None) -> list[str]:
    """Lines on the roles of a model other than the world that only its tokenizers and judge could tell: what is left
    out, and the languages that are asked. `check_judging` has the others."""
    if model.world:
        return []
    before = choose_open_roles(plan.roles, request)[1]
    told = choose_open_roles(plan.roles, request, known, _tokenizers(model))[1]
    return [text for text in told if text not in before]


def _tokenizers(model: Model) -> list[Any]:
    return [getattr(model, name) for name in model.tokenizers]


def judge_run(
    plan: JudgePlan,
    model: Model,
    arms: dict[Arm, dict[str, Tensor]],
    request: Request,
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
    panel: Panel | None = None,
) -> list[Row]:
    """Sample and judge both arms, write images/ and rows.jsonl, return the rows.

    `arms` holds the trained subset's tensors before and after; afterwards the model holds the latter. `panel` None:
    that of `open_panel`.
    """
    judges = panel or open_panel(plan, model, request)
    asks = asks_of(plan, model, request, judges.known)
    rows: list[Row] = []
    drawn: dict[Arm, Drawn] = {}
    for arm in ("before", "after"):
        put_tensors(model, arms[arm])
        model.hiding = plan.hiding if arm == "after" else None
        setting = Setting(
            plan.run_id,
            plan.method,
            request.title,
            request.concepts[0].kind,  # one, since a run is judged by one kind
            "ddim",
            plan.steps,
            plan.guidance,
            model_hash(model),
            plan.seed,
            plan.hp_id,
        )
        found, drawn[arm] = _judge_arm(model, judges, asks, arm, setting, plan, folder, on_event, should_stop)
        rows += found
    for row in rows:
        if row["arm"] == "after":
            (before, was), (after, now) = (drawn[arm][row["prompt_id"], row["seed"]] for arm in ("before", "after"))
            row["distances"] = distances(before, after, (was, now))
    write_rows(folder / runs.ROWS, rows)
    return rows


def draw_pairs(
    plan: JudgePlan,
    model: Model,
    arms: dict[Arm, dict[str, Tensor]],
    request: Request,
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> list[Pair]:
    """Pictures of the concepts and of what is kept, before and after, where nothing can or shall be judged."""
    named = sum(specimens(request), [])
    shots = [Shot(shown.prompt, f"pair/{shown.words}", i) for i, shown in enumerate(named)]
    for arm in ("before", "after"):
        put_tensors(model, arms[arm])
        model.hiding = plan.hiding if arm == "after" else None
        drawn = sample(
            model,
            shots,
            steps=plan.steps,
            guidance=plan.guidance,
            broken="blank",
            on_event=on_event,
            should_stop=should_stop,
            what=f"sampling {arm}",
            group=plan.group,
        )
        for number, image in enumerate(drawn):
            write_png(folder / _place(arm, number), image)
    return [
        Pair(
            role=shown.role,
            prompt=shot.prompt,
            seed=shot.seed,
            expected=shown.words,
            before=Picture(path=_place("before", i)),
            after=Picture(path=_place("after", i)),
        )
        for i, (shown, shot) in enumerate(zip(named, shots, strict=True))
    ]


def _place(arm: Arm, number: int) -> str:
    """Where in the run folder a picture lies."""
    return f"images/{arm}/{number:04d}.png"


def _judge_arm(
    model: Model,
    judges: Panel,
    asks: list[Ask],
    arm: Arm,
    setting: Setting,
    plan: JudgePlan,
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> tuple[list[Row], Drawn]:
    drawn = pictures(asks)
    shots = [Shot(a.prompt, a.prompt_id, a.seed) for a in drawn]
    own, group, cache = [a.guidance for a in drawn], plan.group, plan.cache
    kept = (
        None if cache is None or arm != "before" else cache / f"{pictures_key(model, setting, shots, own)}.safetensors"
    )
    known = None
    if kept is not None:
        known = group.on_main(lambda: read_pictures(kept, len(shots), model.picture_shape))
    each = -(-len(drawn) // group.size)
    part = slice(group.rank * each, (group.rank + 1) * each)
    with Looking(judges, [a.prompt for a in drawn[part]], _beside(model)) as looking:
        if known is None:
            put = looking.put if group.size == 1 else None  # of several, none draws the part that it looks at
            images, lost = _draw(model, shots, own, arm, setting, group, put, on_event, should_stop)
            if kept is not None and group.main:
                _keep(kept, images, lost, on_event)
        else:
            images, lost = known
        for place, image in enumerate(images[part]):
            looking.put(place, image)
        looks = sum(group.gather(looking.looks()), [])
    seen: dict[tuple[str, int], tuple[dict[str, Any], str, str, str]] = {}
    by_ask: Drawn = {}
    for number, (ask, shot, image, look) in enumerate(zip(drawn, shots, images, looks, strict=True)):
        name = _place(arm, number)
        write_png(folder / name, image)
        look["flags"]["nan"] = number in lost
        by_ask[ask.prompt_id, ask.seed] = image, look["embedding"]
        seen[ask.prompt_id, ask.seed] = look, name, image_sha(image), noise_hash(model, shot)
    rows = []
    for ask in asks:
        look, *facts = seen[ask.prompt_id, ask.seed]
        rows.append(make_row(ask, look, arm, setting, *facts))
    return rows, by_ask


def _beside(model: Model) -> bool:
    """Whether judging leaves drawing as fast as it is: two teams of threads that fill a CPU each only wait for it."""
    return model.device.type == "cuda" or torch.get_num_threads() < (os.cpu_count() or 1)


def _draw(
    model: Model,
    shots: list[Shot],
    own: list[float | None],
    arm: Arm,
    setting: Setting,
    group: Group,
    seen: Seen | None,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> tuple[list[np.ndarray], set[int]]:
    """The pictures, and the places of those that the model broke on; prompts with a guidance of their own apart."""
    images: dict[int, np.ndarray] = {}
    lost: set[int] = set()
    for guidance in dict.fromkeys(own):
        places = [i for i, other in enumerate(own) if other == guidance]
        broke: set[int] = set()

        def put(place: int, image: np.ndarray, places: list[int] = places) -> None:
            if seen is not None:
                seen(places[place], image)

        drawn = sample(
            model,
            [shots[i] for i in places],
            steps=setting.steps,
            guidance=setting.cfg if guidance is None else guidance,
            broken="blank",
            lost=broke,
            seen=put,
            on_event=on_event,
            should_stop=should_stop,
            what=f"sampling {arm}",
            group=group,
        )
        images |= dict(zip(places, drawn, strict=True))
        lost |= {places[i] for i in broke}
    return [images[i] for i in range(len(shots))], lost


def _keep(path: Path, images: list[np.ndarray], lost: set[int], on_event: OnEvent) -> None:
    try:
        write_pictures(path, images, lost)
    except InputError as error:  # the run has its pictures all the same
        on_event(Warned(text=f"the base model's pictures are not kept for other runs: {error}"))


def content_hash(value: Any) -> str:
    """SHA-256 of a value's JSON, whatever the order of its keys; what JSON lacks counts by its text."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def pictures_key(model: Model, setting: Setting, shots: list[Shot], own: Sequence[float | None] = ()) -> str:
    """Everything that a picture depends on; `own` are guidances of single prompts."""
    here = environment(model.device)
    guided = {} if all(guidance is None for guidance in own) else {"guidances": list(own)}
    parts = {name: part.config for name, part in {**model.weighted, "scheduler": model.scheduler}.items()}
    configs = {name: dict(c) if isinstance(c, dict) else c.to_dict() for name, c in parts.items()}
    return content_hash(
        {
            "weights": setting.model_sha,
            "configs": {n: {k: v for k, v in c.items() if not k.startswith("_")} for n, c in configs.items()},
            "prompts": [shot.prompt for shot in shots],  # another tokenizer may read what this one cuts off
            "tokens": model.ids([shot.prompt for shot in shots] + [""]).tolist(),
            "shots": [(shot.prompt_id, shot.seed) for shot in shots],
            "sampler": (setting.sampler, setting.steps, setting.cfg),
            "environment": {name: here[name] for name in MOVES_BITS},
            **guided,
        }
    )

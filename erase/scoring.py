"""Judge a run: the same prompts and noise before and after, one row a picture."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from erase import runs
from erase.concept import Request, specimens
from erase.errors import InputError
from erase.evaluation.cache import read_pictures, write_pictures
from erase.evaluation.judges import Judges, load_judges
from erase.evaluation.prompts import Ask, pictures, world_asks
from erase.evaluation.rows import Arm, Row, Setting, distances, image_sha, make_row, write_rows
from erase.events import OnEvent, ShouldStop, Warned
from erase.models import Model, model_hash, put_tensors
from erase.report.schema import Pair, Picture
from erase.runtime import environment, write_png
from erase.sampling import Shot, noise_hash, sample
from erase.world.vocabulary import FULL

# What of `environment` can move a picture's last bits; `erase` is there for the sampler's own code.
MOVES_BITS = ("erase", "torch", "diffusers", "transformers", "device", "threads", "cpu_capability")


Drawn = dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]
"""(prompt id, seed) -> the picture and CLIP's embedding of it."""


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """How a run is judged. `cache`, a folder, keeps pictures of the base model for the next run with the same plan.

    `hp_id` names the run's method and settings in its rows (`content_hash` of them).
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


def judge_run(
    plan: JudgePlan,
    model: Model,
    arms: dict[Arm, dict[str, Tensor]],
    request: Request,
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> list[Row]:
    """Sample and judge both arms, write images/ and rows.jsonl, return the rows.

    `arms` holds the trained subset's tensors before and after; afterwards the model holds the latter.
    """
    asks = world_asks(request, plan.prompts, plan.seeds, world=model.vocabulary or FULL)
    judges = load_judges(model.device)
    rows: list[Row] = []
    drawn: dict[Arm, Drawn] = {}
    for arm in ("before", "after"):
        put_tensors(model, arms[arm])
        setting = Setting(
            plan.run_id,
            plan.method,
            request.title,
            request.concepts[0].kind,  # one in the world, where a run erases one kind
            "ddim",
            plan.steps,
            plan.guidance,
            model_hash(model),
            plan.seed,
            plan.hp_id,
        )
        found, drawn[arm] = _judge_arm(model, judges, asks, arm, setting, plan.cache, folder, on_event, should_stop)
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
        drawn = sample(
            model,
            shots,
            steps=plan.steps,
            guidance=plan.guidance,
            broken="blank",
            on_event=on_event,
            should_stop=should_stop,
            what=f"sampling {arm}",
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
    judges: Judges,
    asks: list[Ask],
    arm: Arm,
    setting: Setting,
    cache: Path | None,
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> tuple[list[Row], Drawn]:
    drawn = pictures(asks)
    shots = [Shot(a.prompt, a.prompt_id, a.seed) for a in drawn]
    kept = None if cache is None or arm != "before" else cache / f"{pictures_key(model, setting, shots)}.safetensors"
    known = None if kept is None else read_pictures(kept, len(shots), model.picture_shape)
    if known is None:
        lost: set[int] = set()
        images = sample(
            model,
            shots,
            steps=setting.steps,
            guidance=setting.cfg,
            broken="blank",
            lost=lost,
            on_event=on_event,
            should_stop=should_stop,
            what=f"sampling {arm}",
        )
        if kept is not None:
            _keep(kept, images, lost, on_event)
    else:
        images, lost = known
    looks = judges.look(images, [a.prompt for a in drawn])
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


def _keep(path: Path, images: list[np.ndarray], lost: set[int], on_event: OnEvent) -> None:
    try:
        write_pictures(path, images, lost)
    except InputError as error:  # the run has its pictures all the same
        on_event(Warned(text=f"the base model's pictures are not kept for other runs: {error}"))


def content_hash(value: Any) -> str:
    """SHA-256 of a value's JSON, whatever the order of its keys; what JSON lacks counts by its text."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def pictures_key(model: Model, setting: Setting, shots: list[Shot]) -> str:
    """Everything that a picture depends on."""
    here = environment(model.device)
    parts = {name: part.config for name, part in {**model.weighted, "scheduler": model.scheduler}.items()}
    configs = {name: dict(c) if isinstance(c, dict) else c.to_dict() for name, c in parts.items()}
    return content_hash(
        {
            "weights": setting.model_sha,
            "configs": {n: {k: v for k, v in c.items() if not k.startswith("_")} for n, c in configs.items()},
            "tokens": model.ids([shot.prompt for shot in shots] + [""]).tolist(),
            "shots": [(shot.prompt_id, shot.seed) for shot in shots],
            "sampler": (setting.sampler, setting.steps, setting.cfg),
            "environment": {name: here[name] for name in MOVES_BITS},
        }
    )

"""Judge a run: the same prompts and noise before and after, one row a picture."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from erase import runs
from erase.concept import FRAMES, Concept, phrase
from erase.evaluation.judges import Judges, load_judges
from erase.evaluation.prompts import Ask, pictures, world_asks
from erase.evaluation.rows import Arm, Row, Setting, image_sha, make_row, write_rows
from erase.events import OnEvent, ShouldStop
from erase.models import Model, model_hash, put_tensors
from erase.report.schema import Pair, Picture
from erase.runtime import replacing
from erase.sampling import Shot, sample


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """How a run is judged. `cache`, a folder, keeps pictures of the base model for the next run with the same plan."""

    run_id: str
    method: str
    seed: int
    prompts: int
    seeds: int
    steps: int
    guidance: float
    cache: Path | None = None


def judge_run(
    plan: JudgePlan,
    model: Model,
    arms: dict[Arm, dict[str, Tensor]],
    concept: Concept,
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> list[Row]:
    """Sample and judge both arms, write images/ and rows.jsonl, return the rows.

    `arms` holds the trained subset's tensors before and after; afterwards the model holds the latter.
    """
    asks = world_asks(concept, plan.prompts, plan.seeds)
    judges = load_judges(model.device)
    rows: list[Row] = []
    for arm in ("before", "after"):
        put_tensors(model.unet, arms[arm])
        setting = Setting(
            plan.run_id,
            plan.method,
            concept.name,
            concept.kind,
            "ddim",
            plan.steps,
            plan.guidance,
            model_hash(model),
            plan.seed,
        )
        rows += _judge_arm(model, judges, asks, arm, setting, plan.cache, folder, on_event, should_stop)
    write_rows(folder / runs.ROWS, rows)
    return rows


def draw_pairs(
    model: Model,
    arms: dict[Arm, dict[str, Tensor]],
    concept: Concept,
    steps: int,
    guidance: float,
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> list[Pair]:
    """Pictures of the concept and of what is kept, before and after, where nothing can or shall be judged."""
    frame = FRAMES[concept.kind][0]
    named = [("forget", concept.name)] * 4 + [("neighbour", concept.keep[i % len(concept.keep)]) for i in range(4)]
    shots = [Shot(phrase(frame, words), f"pair/{words}", i) for i, (_, words) in enumerate(named)]
    for arm in ("before", "after"):
        put_tensors(model.unet, arms[arm])
        what = f"sampling {arm}"
        drawn = sample(
            model,
            shots,
            steps=steps,
            guidance=guidance,
            batch=8,
            broken="blank",
            on_event=on_event,
            should_stop=should_stop,
            what=what,
        )
        for number, image in enumerate(drawn):
            _save(image, folder / f"images/{arm}/{number:04d}.png")
    return [
        Pair(
            role=role,
            prompt=shot.prompt,
            seed=shot.seed,
            expected=words,
            before=Picture(path=f"images/before/{i:04d}.png"),
            after=Picture(path=f"images/after/{i:04d}.png"),
        )
        for i, ((role, words), shot) in enumerate(zip(named, shots, strict=True))
    ]


def _save(image: np.ndarray, path: Path) -> None:
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary)


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
) -> list[Row]:
    drawn = pictures(asks)
    shots = [Shot(a.prompt, a.prompt_id, a.seed) for a in drawn]
    kept = None if cache is None or arm != "before" else cache / f"{_key(setting, shots)}.npz"
    images = None if kept is None else _read(kept, len(shots))
    if images is None:
        images = sample(
            model,
            shots,
            steps=setting.steps,
            guidance=setting.cfg,
            broken="blank",
            on_event=on_event,
            should_stop=should_stop,
            what=f"sampling {arm}",
        )
        if kept is not None:
            with replacing(kept) as temporary:
                np.savez_compressed(temporary, images=np.stack(images))
    looks = judges.look(images, [a.prompt for a in drawn])
    seen: dict[tuple[str, int], tuple[dict[str, Any], str, str]] = {}
    for number, (ask, image, look) in enumerate(zip(drawn, images, looks, strict=True)):
        name = f"images/{arm}/{number:04d}.png"
        _save(image, folder / name)
        seen[ask.prompt_id, ask.seed] = look, name, image_sha(image)
    rows = []
    for ask in asks:
        look, name, sha = seen[ask.prompt_id, ask.seed]
        rows.append(make_row(ask, look, arm, setting, name, sha))
    return rows


def _key(setting: Setting, shots: list[Shot]) -> str:
    """Everything that a picture depends on; the device and torch's version too, as they move the last bits."""
    import torch

    parts = [setting.model_sha, setting.sampler, setting.steps, setting.cfg, torch.__version__, torch.get_num_threads()]
    return hashlib.sha256(repr((parts, shots)).encode()).hexdigest()[:32]


def _read(path: Path, count: int) -> list[np.ndarray] | None:
    """The pictures kept under this name, or None where there are none that can be used."""
    try:
        with np.load(path, allow_pickle=False) as opened:
            images = opened["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return list(images) if images.dtype == np.uint8 and images.ndim == 4 and len(images) == count else None

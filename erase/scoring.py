"""Judge a run: the same prompts and noise before and after, one row a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from erase import runs
from erase.concept import Concept
from erase.evaluation.judges import Judges, load_judges
from erase.evaluation.prompts import Ask, pictures, resolve, world_asks
from erase.evaluation.rows import Arm, Row, Setting, image_sha, make_row, write_rows
from erase.events import OnEvent, ShouldStop
from erase.models import Model, load_model, put_tensors
from erase.runtime import replacing
from erase.sampling import Shot, sample


def judge_run(
    config: Any,
    model: Model,
    trained: dict[str, Tensor],
    concept: Concept,
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> list[Row]:
    """Sample and judge both arms, write images/ and rows.jsonl, return the rows.

    `model` may hold either arm's weights; afterwards it holds the trained ones.
    """
    settings = config.evaluate
    asks = world_asks(concept, settings.prompts, settings.seeds)
    judges = load_judges(model.device)
    domain, target = resolve(concept.name)
    setting = Setting(folder.name, config.method.name, target, domain, "ddim", settings.steps, settings.guidance)
    base = _base_weights(config, trained)
    rows: list[Row] = []
    arms: tuple[tuple[Arm, dict[str, Tensor]], ...] = (("before", base), ("after", trained))
    for arm, weights in arms:
        put_tensors(model.unet, weights)
        rows += _judge_arm(model, judges, asks, arm, setting, folder, on_event, should_stop)
    write_rows(folder / runs.ROWS, rows)
    return rows


def _base_weights(config: Any, trained: dict[str, Tensor]) -> dict[str, Tensor]:
    state = load_model(config.model).unet.state_dict()
    return {name: state[name] for name in trained}


def _judge_arm(
    model: Model,
    judges: Judges,
    asks: list[Ask],
    arm: Arm,
    setting: Setting,
    folder: Path,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> list[Row]:
    drawn = pictures(asks)
    shots = [Shot(a.prompt, a.prompt_id, a.seed) for a in drawn]
    images = sample(
        model,
        shots,
        steps=setting.steps,
        guidance=setting.cfg,
        on_event=on_event,
        should_stop=should_stop,
        what=f"sampling {arm}",
    )
    looks = judges.look(images, [a.prompt for a in drawn])
    seen: dict[tuple[str, int], tuple[dict[str, Any], str, str]] = {}
    for number, (ask, image, look) in enumerate(zip(drawn, images, looks, strict=True)):
        name = f"images/{arm}/{number:04d}.png"
        with replacing(folder / name) as temporary:
            Image.fromarray(image).save(temporary)
        seen[ask.prompt_id, ask.seed] = look, name, image_sha(image)
    rows = []
    for ask in asks:
        look, name, sha = seen[ask.prompt_id, ask.seed]
        rows.append(make_row(ask, look, arm, setting, name, sha))
    return rows

"""`erase world --small`: a smaller world by the same recipe, in minutes on two cores, also without one concept.

It shares the bundled world's text encoder, autoencoder and judges, so only a denoiser is trained, on latents encoded
once. A world trained without a concept is the gold that erasing it is measured against: its pictures dropped, or its
captions kept and drawn as the anchor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from erase.errors import InputError, Interrupted
from erase.events import ShouldStop, never
from erase.resources import asset
from erase.runtime import WORLD_FILE, command, sweep, write_json
from erase.world import generator
from erase.world.fitting import Plan, fit
from erase.world.scenes import Scenes
from erase.world.text_encoder import WIDTH
from erase.world.vocabulary import FULL, SMALL, Vocabulary, describe

PLAN = Plan("unet", steps=3000, lr=2.5e-3, warmup=150, ema=0.999, weight_decay=0.01)
BATCH = 24
SAVE_EVERY = 100
BUILD = "build"  # what is not finished, inside the folder
RECIPE = "recipe.json"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides a small world's bits on one machine. `without` is as the user typed it: "", "cat", "cat=fox"."""

    without: str = ""
    seed: int = 0
    steps: int = PLAN.steps
    batch: int = BATCH


def build() -> UNet2DConditionModel:
    """Untrained: the bundled world's layout at about two thirds of its widths; 3.98 M parameters."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(48, 64, 64, 64),
        layers_per_block=2,
        norm_num_groups=16,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # heads, as in the bundled world
    )


def train_small(
    output: Path, recipe: Recipe, device: torch.device, should_stop: ShouldStop = never, deadline: float = float("inf")
) -> Vocabulary:
    """Train a small world, or go on with one that was stopped, and write it to `output`; return what it draws.

    The folder is a model in diffusers' layout with a world.json; until it is complete it holds only `build/`. One that
    is complete already, by the same recipe, is left as it is. Raises `InputError` for an unknown name and a folder
    with anything else in it, `Interrupted` after a stop or at the `deadline` (time.time()).
    """
    vocabulary = SMALL.leaving_out(recipe.without) if recipe.without else SMALL
    work, settings = output / BUILD, asdict(recipe)
    if _finished(output, work, settings):
        return vocabulary
    work.mkdir(parents=True, exist_ok=True)
    sweep(output)
    write_json(work / RECIPE, settings)
    told, shown = scenes_of(vocabulary)
    torch.manual_seed(recipe.seed)
    unet: Any = build()
    tokenizer, text = _bundled("tokenizer", CLIPTokenizer), _bundled("text_encoder", CLIPTextModel)
    model: Any = Reading(unet, text.to(device)).to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # as for the bundled world
    # On AVX2 bf16 took eight times as long as float32: 10.3 and 1.4 s for 64 latents.
    precision = "fp32" if device.type == "cpu" else "bf16"
    plan = Plan(**{**asdict(PLAN), "steps": recipe.steps, "seed": recipe.seed, "precision": precision})
    loss = generator.loss(model, tokenizer, generator.encode_scenes(shown).to(device), told, recipe.batch)
    if not fit(model, loss, plan, work, save_every=SAVE_EVERY, stop_at=deadline, should_stop=should_stop):
        raise Interrupted("stopped; the same command goes on from there")
    _write(output, work, unet.cpu(), text.cpu(), tokenizer, {**describe(vocabulary), "recipe": settings})
    return vocabulary


def scenes_of(vocabulary: Vocabulary) -> tuple[Scenes, Scenes]:
    """All scenes of a world, as captions tell them and as pictures show them; they differ where a word is relabelled.

    Indices are those of the bundled world, whose captions and glyphs they choose.
    """
    scenes = generator.every_scene()
    things, ways = ([FULL.names(d).index(n) for n in vocabulary.names(d)] for d in ("object", "style"))
    extra_things, extra_ways = [], []
    if vocabulary.becomes:
        kind = "object" if vocabulary.without in FULL.object_names else "style"
        (extra_things if kind == "object" else extra_ways).append(FULL.names(kind).index(vocabulary.without))
    kept = torch.isin(scenes.object, torch.tensor(things + extra_things))
    kept &= torch.isin(scenes.style, torch.tensor(ways + extra_ways))
    told = generator.take(scenes, kept.nonzero().flatten())
    objects, styles = told.object.clone(), told.style.clone()
    for indices, extra, names in ((objects, extra_things, FULL.object_names), (styles, extra_ways, FULL.style_names)):
        for index in extra:
            indices[indices == index] = names.index(vocabulary.becomes)
    return told, Scenes(objects, styles, told.colour, told.row, told.column)


class Reading(nn.Module):
    """A UNet that reads captions through a frozen text encoder, each caption once.

    The encoder is kept out of the module's parameters: only the UNet is trained, averaged and saved.
    """

    def __init__(self, unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self._read: Callable[[Tensor], Tensor] = lambda ids: text(input_ids=ids).last_hidden_state
        self._known: dict[bytes, Tensor] = {}

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        keys = [row.tobytes() for row in ids.cpu().numpy()]
        new = {key: row for key, row in zip(keys, ids, strict=True) if key not in self._known}
        if new:
            with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
                self._known |= zip(new, self._read(torch.stack(list(new.values()))), strict=True)
        return self.unet(noisy, times, torch.stack([self._known[key] for key in keys])).sample


def _bundled(part: str, kind: Any) -> Any:
    """A part of the bundled world, frozen, in float32."""
    loaded = kind.from_pretrained(asset("world/pipeline") / part, local_files_only=True)
    return loaded.float().eval().requires_grad_(False) if isinstance(loaded, nn.Module) else loaded


def _finished(output: Path, work: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder holds this very world; raises `InputError` where it holds another, or anything else."""
    known = _stored(output / WORLD_FILE) or _stored(work / RECIPE)
    if known is None and output.is_dir() and any(output.iterdir()):
        raise InputError(f"{output} holds other files; name a new folder")
    if known is not None and known.get("recipe", known) != settings:
        differing = [key for key in settings if known.get("recipe", known).get(key) != settings[key]]
        raise InputError(f"{output} was begun with other settings ({', '.join(differing)}); name a new folder")
    return (output / WORLD_FILE).is_file()


def _stored(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found.get("recipe", found), dict) else {}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove the folder and start again") from None


def _write(
    output: Path, work: Path, unet: Any, text: CLIPTextModel, tokenizer: CLIPTokenizer, about: dict[str, Any]
) -> None:
    """The pipeline in float16 like the bundled one, world.json last; then the checkpoint goes."""
    autoencoder: Any = _bundled("vae", AutoencoderKL)
    pipeline: StableDiffusionPipeline = generator.assemble(unet, autoencoder, text, tokenizer)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.to(torch.float16)
    try:
        pipeline.save_pretrained(output, safe_serialization=True)
        curve = work / f"{PLAN.name}.csv"
        if curve.is_file():  # a training of a few steps has none
            curve.replace(output / "curve.csv")
    except OSError as error:
        raise InputError(
            f"cannot write {output}: {error.strerror or error}; {command('world', '--small')} goes on"
        ) from None
    write_json(output / WORLD_FILE, about)
    shutil.rmtree(work, ignore_errors=True)

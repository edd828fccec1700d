"""`erase world`: rebuild the bundled world from its glyphs, stage by stage, resumable.

    glyphs -> tokenizer -> vae, text_encoder -> unet; conv, patch, clip (the judges, apart from these) -> assemble

Work in progress lies in a build folder (weights, optimizer states, curves, sample grids); `assemble` writes what the
package ships: a diffusers pipeline in float16 with shards of at most 15 MiB, and the judges.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import nn
from transformers import CLIPTokenizer

from erase.errors import InputError, Interrupted
from erase.runtime import write_json
from erase.world import generator, judges, text_encoder, vae
from erase.world.captions import FULL, build_tokenizer, caption
from erase.world.fitting import Plan, averaged, fit
from erase.world.glyphs import rebuild as rebuild_glyphs
from erase.world.vocabulary import COLOUR_NAMES, OBJECT_NAMES, STYLE_NAMES

SHARD = "15MB"
GUIDANCE, STEPS = 3.0, 25


@dataclass(frozen=True, slots=True)
class Build:
    """Where and how a rebuild runs. `deadline` (time.time()) stops it at the next step, with a checkpoint."""

    folder: Path
    device: torch.device
    deadline: float = math.inf
    steps: int = 0  # overrides every training stage's length, for trials and tests

    def plan(self, plan: Plan) -> Plan:
        return replace(plan, steps=self.steps) if self.steps else plan

    def fit(self, module: nn.Module, loss: object, plan: Plan, on_save: Callable[[int], None] | None = None) -> None:
        """Run or resume one training stage; raise `Interrupted` when the deadline cuts it."""
        done = fit(module, loss, self.plan(plan), self.folder, stop_at=self.deadline, on_save=on_save)  # type: ignore[arg-type]
        if not done:
            raise Interrupted(f"stage {plan.name} stopped at its deadline; the same command goes on from there")

    @property
    def tokenizer(self) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(self.folder / "tokenizer")


def rebuild(
    output: Path,
    *,
    build: Path,
    stages: list[str] | None,
    device: torch.device,
    deadline: float = math.inf,
    steps: int = 0,
) -> None:
    """Run the stages (all but `glyphs` when None) in order and write the world to `output`.

    Raises `InputError` for an unknown stage or one whose forerunners did not run, `Interrupted` at the deadline.
    """
    unknown = sorted(set(stages or ()) - set(STAGES))
    if unknown:
        raise InputError(f"stage {unknown[0]!r} is unknown; use {', '.join(STAGES)}")
    work = Build(build, device, deadline, steps)
    build.mkdir(parents=True, exist_ok=True)
    for name, stage in STAGES.items():
        if name in stages if stages else name != "glyphs":
            for needed in NEEDS.get(name, ()):
                _check_made(work, name, needed)
            started = time.time()
            try:
                stage(work, output)
            finally:  # one that was interrupted goes on from a checkpoint: its minutes count
                _note_duration(build, name, time.time() - started)


def _check_made(work: Build, stage: str, needed: str) -> None:
    if needed == "tokenizer":
        if not (work.folder / "tokenizer" / "tokenizer.json").exists():
            raise InputError(f"stage {stage!r} needs the stage 'tokenizer' in {work.folder}; run that one first")
        return
    plan, path = work.plan(PLANS[needed]), work.folder / f"{needed}.pt"
    done = torch.load(path, weights_only=True, map_location="cpu", mmap=True)["step"] if path.exists() else 0
    if done < plan.steps:
        raise InputError(
            f"stage {stage!r} needs the stage {needed!r} in {work.folder}, which is at step {done} of {plan.steps}; "
            "finish that one first"
        )


def _note_duration(build: Path, stage: str, seconds: float) -> None:
    path = build / "durations.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[stage] = round(known.get(stage, 0) + seconds, 1)
    write_json(path, known)


def _glyphs(work: Build, output: Path) -> None:
    rebuild_glyphs(output / "glyphs")


def _tokenizer(work: Build, output: Path) -> None:
    build_tokenizer(work.folder / "tokenizer")


def _vae(work: Build, output: Path) -> None:
    torch.manual_seed(0)
    autoencoder: Any = vae.build()
    decoding = vae.Decoding(autoencoder.to(work.device, memory_format=torch.channels_last))
    work.fit(decoding, vae.loss(decoding), vae.PLAN)


def _text_encoder(work: Build, output: Path) -> None:
    torch.manual_seed(1)
    model = text_encoder.Contrast(text_encoder.build(work.tokenizer)).to(work.device)
    work.fit(model, text_encoder.loss(model, work.tokenizer), text_encoder.PLAN)


def _unet(work: Build, output: Path) -> None:
    """The denoiser starts from the contrastive text encoder and trains on it further."""
    tokenizer = work.tokenizer
    torch.manual_seed(2)
    contrast = text_encoder.Contrast(text_encoder.build(tokenizer))
    averaged(work.folder / "text_encoder.pt", contrast)
    model = generator.Denoiser(generator.build(), contrast.text)
    model = model.to(work.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if work.device.type == "cpu":
        # The fused attention's backward pass took a third of a step at these sizes; plain products do not.
        model.unet.set_attn_processor(AttnProcessor())
        model.text.set_attn_implementation("eager")
    scenes = generator.every_scene()
    latents = generator.encode_scenes(scenes).to(work.device)
    loss = generator.loss(model, tokenizer, latents, scenes)

    def grid(step: int) -> None:
        if step % 1000 == 0 or step == work.plan(generator.PLAN).steps:
            sample_grid(work, step)

    work.fit(model, loss, generator.PLAN, grid)


def _judge(family: str) -> Callable[[Build, Path], None]:
    def stage(work: Build, output: Path) -> None:
        torch.manual_seed(3 + len(family))
        model = judges.Classifier(family).to(work.device)
        work.fit(model, judges.loss(model), judges.PLANS[family])
        judges.set_temperature(model)
        judges.save_half(output / "judges" / f"{family}.safetensors", model)

    return stage


def _clip(work: Build, output: Path) -> None:
    tokenizer = work.tokenizer
    torch.manual_seed(5)
    model = judges.build_clip(tokenizer).to(work.device)
    work.fit(model, judges.clip_loss(model, tokenizer), judges.CLIP_PLAN)
    judges.save_clip(output / "judges" / "clip", model, tokenizer)


def trained_pipeline(work: Build) -> StableDiffusionPipeline:
    """The averaged weights as far as they are trained, as a pipeline on the CPU."""
    model = generator.Denoiser(generator.build(), text_encoder.build(work.tokenizer))
    averaged(work.folder / "unet.pt", model)
    autoencoder = vae.build()
    averaged(work.folder / "vae.pt", vae.Decoding(autoencoder))
    return generator.assemble(model.unet, autoencoder, model.text, work.tokenizer)


def _assemble(work: Build, output: Path) -> None:
    pipeline = trained_pipeline(work)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.to(torch.float16)
    pipeline.save_pretrained(output / "pipeline", safe_serialization=True, max_shard_size=SHARD)


def sample_grid(work: Build, step: int) -> None:
    """A picture of every sixth object in every style, for the eye, beside the curve."""
    pipeline = trained_pipeline(work).to(work.device)
    pipeline.set_progress_bar_config(disable=True)
    names = OBJECT_NAMES[::6]
    prompts = [
        caption(FULL[0], thing, style, COLOUR_NAMES[(i + j) % len(COLOUR_NAMES)])
        for j, style in enumerate(STYLE_NAMES)
        for i, thing in enumerate(names)
    ]
    seeds = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    drawn: Any = pipeline(prompts, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=seeds)
    canvas = Image.new("RGB", (66 * len(names), 66 * len(STYLE_NAMES)), "white")
    for k, picture in enumerate(drawn.images):
        canvas.paste(picture, (k % len(names) * 66 + 1, k // len(names) * 66 + 1))
    canvas.save(work.folder / f"grid-{step}.png")


STAGES: dict[str, Callable[[Build, Path], None]] = {
    "glyphs": _glyphs,
    "tokenizer": _tokenizer,
    "vae": _vae,
    "text_encoder": _text_encoder,
    "unet": _unet,
    "conv": _judge("conv"),
    "patch": _judge("patch"),
    "clip": _clip,
    "assemble": _assemble,
}
# What a stage reads of the others' work, and how long those train.
NEEDS = {
    "text_encoder": ("tokenizer",),
    "unet": ("tokenizer", "vae", "text_encoder"),
    "clip": ("tokenizer",),
    "assemble": ("tokenizer", "vae", "unet"),
}
PLANS = {"vae": vae.PLAN, "text_encoder": text_encoder.PLAN, "unet": generator.PLAN}

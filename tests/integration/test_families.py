"""Stable Diffusion 1, 2 and XL in diffusers' layout: found out, read, drawn as diffusers draws them, written back.

Tiny untrained pipelines. Run: pytest tests/integration/test_families.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from erase.errors import InputError
from erase.export import Erased, plan_export, save
from erase.models import FAMILIES, load_model, model_hash
from erase.models.families import detect
from erase.sampling import Shot, first_noise, sample
from tests.integration.conftest import build_tiny

SHOTS = [Shot("a cat", "cat", 0), Shot("a dog on a red background", "dog", 1)]


@pytest.fixture(params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A saved pipeline of each family."""
    build_tiny(request.param).pipeline().save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def draw(folder: Path, family: str, shot: Shot, noise: torch.Tensor, **parts: Any) -> np.ndarray:
    """What plain diffusers makes of a folder, with parts that it does not look up there."""
    pipe: Any = getattr(diffusers, FAMILIES[family].pipeline).from_pretrained(folder, **parts)
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        shot.prompt, latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="np", height=16, width=16
    )
    return (drawn.images[0] * 255).round().astype(np.uint8)


def test_a_folder_is_known_and_drawn_as_diffusers_draws_it(folder: Path) -> None:
    model = load_model(str(folder))
    assert model.family == folder.name
    ours = sample(model, SHOTS, steps=4, guidance=3.0, batch=1)
    assert np.abs(ours[0].astype(int) - ours[1].astype(int)).max() > 5
    for shot, picture in zip(SHOTS, ours, strict=True):
        assert np.array_equal(draw(folder, model.family, shot, first_noise(model, [shot])), picture)


def test_an_export_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    model = load_model(str(folder))
    save(plan_export("diffusers", tmp_path / "out"), Erased(model, {}, {}, "cat", {}), lambda *_: None)
    again = load_model(str(tmp_path / "out"))
    assert (again.family, model_hash(again)) == (model.family, model_hash(model))
    for old, new in zip(sample(model, SHOTS, steps=2), sample(again, SHOTS, steps=2), strict=True):
        assert np.array_equal(old, new)


def test_every_part_with_weights_is_checked_and_counts(folder: Path) -> None:
    whole = model_hash(load_model(str(folder)))
    for part in FAMILIES[folder.name].parts:
        (file,) = (folder / part).glob("*.safetensors")
        held = load_file(file)
        name = sorted(held)[-1]
        good = file.read_bytes()
        save_file({**held, name: held[name] + 1}, file)
        assert model_hash(load_model(str(folder))) != whole
        save_file({**held, name: held[name] * float("nan")}, file)
        with pytest.raises(InputError, match="holds NaN or infinity"):
            load_model(str(folder))
        save_file({k: v for k, v in held.items() if k != name}, file)
        with pytest.raises(InputError, match=f"lacks 1 of .* tensors, first {name.removeprefix('text_model.')}"):
            load_model(str(folder))
        file.write_bytes(good)


def test_an_empty_prompt_is_what_diffusers_makes_of_none() -> None:
    model = build_tiny("sdxl")
    text = model.encode(["", "a cat"])
    assert text.pooled is not None
    assert not text.states[0].any() and not text.pooled[0].any()
    assert text.states[1].any() and text.pooled[1].any()
    model.blank_is_zero = False
    assert model.encode([""]).states.any()


def test_the_sizes_that_sdxl_is_told_are_its_own() -> None:
    model = build_tiny("sdxl")
    told = {}

    def unet(noisy: torch.Tensor, times: torch.Tensor, states: torch.Tensor, added_cond_kwargs: Any) -> Any:
        told.update(added_cond_kwargs)
        return type("Out", (), {"sample": noisy})

    model.__dict__["unet"] = type("Net", (), {"__call__": staticmethod(unet), "config": model.unet.config})()
    model.predict(torch.zeros(2, 4, 8, 8), torch.tensor(3), model_text := build_tiny("sdxl").encode(["a", "b"]))
    assert told["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2
    assert told["text_embeds"] is model_text.pooled


@pytest.mark.parametrize(
    ("index", "unet", "wanted"),
    [
        ({"_class_name": "StableDiffusionPipeline"}, {}, "sd1"),
        ({"_class_name": "StableDiffusionPipeline"}, {"use_linear_projection": True}, "sd2"),
        ({"_class_name": "StableDiffusionXLPipeline"}, {"use_linear_projection": True}, "sdxl"),
        ({"_class_name": "StableDiffusion3Pipeline"}, {"in_channels": 16, "out_channels": 16}, "sd3"),
    ],
)
def test_a_family_is_told_with_its_reason(index: dict[str, Any], unet: dict[str, Any], wanted: str) -> None:
    found, reason = detect(index, unet)
    assert found == wanted
    assert index["_class_name"] in reason


@pytest.mark.parametrize(
    ("kind", "unet", "words"),
    [
        ("StableDiffusionInpaintPipeline", {"in_channels": 9}, "is a StableDiffusionInpaintPipeline; only"),
        ("StableDiffusionPipeline", {"in_channels": 9}, "takes 9 channels and predicts 4, as for inpainting"),
        ("FluxPipeline", {}, "is a FluxPipeline; only StableDiffusionPipeline, StableDiffusionXLPipeline and"),
    ],
)
def test_models_of_no_family_are_refused_by_name(kind: str, unet: dict[str, Any], words: str, tmp_path: Path) -> None:
    build_tiny().pipeline().save_pretrained(tmp_path)
    for file, changes in (
        (tmp_path / "model_index.json", {"_class_name": kind}),
        (tmp_path / "unet/config.json", unet),
    ):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(InputError, match=words):
        load_model(str(tmp_path))

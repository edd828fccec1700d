"""Checkpoints of one file: what they are taken for, whether they draw the same, and what is refused.

Tiny untrained models with CLIP's words, written as single files by the export. Run: pytest
tests/integration/test_single_file.py
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from erase import runs, workflow
from erase.config import load_config
from erase.errors import InputError
from erase.export import Erased, plan_export, save
from erase.export.ldm import to_ldm
from erase.models import FAMILIES, Model, load_model, model_hash, put_tensors
from erase.models.file_parts import clip_tokenizer
from erase.models.parameters import named
from erase.models.single_file import Reader, predicts, side_of, unet_config
from erase.prepare import load_run, stored_config
from erase.sampling import Shot, sample
from tests.integration.conftest import build_tiny
from tests.integration.test_workflow import SHORT

SHOTS = [Shot("a cat", "cat", 0), Shot("a dog on a red background", "dog", 1)]
ABOUT = {"modelspec.resolution": "16x16"}


@pytest.fixture(scope="module", params=[name for name, family in FAMILIES.items() if family.prefixes])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """A tiny model of each family, and the file of it."""
    model = build_tiny(request.param, usual=True)
    path = tmp_path_factory.mktemp("files") / f"{request.param}.safetensors"
    save_file(to_ldm(model), path, metadata=ABOUT)
    return model, path


def test_a_file_is_the_model_that_it_was_made_of(made: tuple[Model, Path]) -> None:
    model, path = made
    found = load_model(str(path))
    assert found.family == model.family and found.reason.startswith("it has ")
    assert found.scheduler.config.prediction_type == model.scheduler.config.prediction_type
    assert model_hash(found) == model_hash(model)
    for old, new in zip(sample(model, SHOTS, steps=3), sample(found, SHOTS, steps=3), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize("rescales", [True, False])
def test_a_scheduler_that_xl_files_mark_comes_back(rescales: bool, tmp_path: Path) -> None:
    model = build_tiny("sdxl", usual=True)
    config = {name: value for name, value in model.scheduler.config.items() if not name.startswith("_")}
    config |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": rescales}
    model.scheduler = DDIMScheduler(**config)
    plan = plan_export("single-file", tmp_path / "x.safetensors", "fp16")
    save(plan, Erased(model, {}, {}, "cat", {}), lambda *_: None)
    held = load_file(tmp_path / "x.safetensors")
    assert held["v_pred"].shape == (0,) and held["v_pred"].dtype == torch.float32 and ("ztsnr" in held) == rescales
    save_file(held, tmp_path / "bare.safetensors")  # without the metadata
    found = load_model(str(tmp_path / "bare.safetensors")).scheduler
    assert found.config.prediction_type == "v_prediction"
    assert torch.equal(found.alphas_cumprod, model.scheduler.alphas_cumprod)
    assert (float(found.alphas_cumprod[-1]) == 0) == rescales


def test_a_pickle_of_weights_is_read_and_one_with_code_is_not_run(made: tuple[Model, Path], tmp_path: Path) -> None:
    model, path = made
    torch.save({"state_dict": load_file(path), "global_step": 1}, tmp_path / "x.ckpt")
    assert load_model(str(tmp_path / "x.ckpt")).family == model.family

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "bomb.ckpt").write_bytes(pickle.dumps({"state_dict": Bomb()}))
    torch.save({"state_dict": {"a": Bomb()}}, tmp_path / "zipped.ckpt")
    for name in ("bomb.ckpt", "zipped.ckpt"):
        with pytest.raises(InputError, match="holds more than weights, which is not run"):
            load_model(str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model.diffusion_model.out.2.bias": None}, "its unet lacks 1 of .* tensors, first conv_out.bias"),
        ({"first_stage_model.decoder.conv_in.weight": None}, "lacks first_stage_model.decoder.conv_in.weight"),
        (
            {"model.diffusion_model.out.0.bias": torch.zeros(7)},
            "unet has 1 tensors of other shapes: conv_norm_out.bias",
        ),
        ({"model.diffusion_model.out.0.bias": torch.full((64,), torch.nan)}, "holds NaN or infinity"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(64, 9, 3, 3)}, "9 channels .* inpainting"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(3)}, "is .3,., which is no shape for it"),
    ],
)
def test_a_damaged_file_is_refused_by_name(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    held = to_ldm(build_tiny("sd1", usual=True)) | change
    save_file({k: v for k, v in held.items() if v is not None}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=says) as caught:
        load_model(str(tmp_path / "x.safetensors"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["lora_unet_down_blocks_0.alpha"], "it looks like a LoRA;"),
        (["model.diffusion_model.joint_blocks.0.x"], "it looks like Stable Diffusion 3;"),
        (["double_blocks.0.img_attn.qkv.weight"], "it looks like FLUX without its text encoders;"),
        (["conditioner.embedders.0.model.token_embedding.weight"], "it looks like the SDXL refiner;"),
        (["down_blocks.0.resnets.0.conv1.weight"], "a UNet alone, in diffusers' layout"),
        (["a", "b"], "its 2 tensors are of no model known here"),
    ],
)
def test_other_files_are_told_what_they_are(names: list[str], says: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=says):
        load_model(str(tmp_path / "x.safetensors"))


def test_a_model_with_words_of_its_own_is_sent_to_its_folder(tmp_path: Path) -> None:
    save_file(to_ldm(build_tiny("sd1")), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="knows .* words, CLIP's has 49,408; give the model as a diffusers folder"):
        load_model(str(tmp_path / "x.safetensors"))


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("cat")
    with pytest.raises(InputError, match="no checkpoint by its name"):
        load_model(str(tmp_path / "notes.txt"))


def test_a_tensor_that_claims_more_than_the_pickle_holds_is_refused(tmp_path: Path) -> None:
    held = to_ldm(build_tiny("sd1", usual=True))
    name = "model.diffusion_model.out.0.bias"
    torch.save({"state_dict": held | {name: torch.zeros(1).expand(10**9)}}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=f"tensor '{name}' of shape .1000000000,. is no plain array"):
        load_model(str(tmp_path / "x.ckpt"))


def test_integers_are_no_weights(tmp_path: Path) -> None:
    held = to_ldm(build_tiny("sd1", usual=True))
    name = "model.diffusion_model.out.0.bias"
    save_file(held | {name: torch.zeros(64, dtype=torch.int8)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="its unet tensor conv_norm_out.bias is of torch.int8; only floating-point"):
        load_model(str(tmp_path / "x.safetensors"))


def test_the_words_are_clips() -> None:
    theirs, ours = open_clip.get_tokenizer("ViT-B-32"), clip_tokenizer("!")
    for text in ("a photo of a cat", "Van Gogh's Starry-Night, 1889.", "ünïcødé 🦊", "", "x" * 400):
        found = ours([text], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        assert torch.equal(found, theirs([text]))


def test_sizes_of_the_real_ones_are_read_off_their_tensors() -> None:
    """Stable Diffusion 1.5, 2.1 and XL, by the shapes that their published configurations have."""
    from diffusers import UNet2DConditionModel

    from erase.export.ldm import _unet, places

    real = {
        "sd1": {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
        "sd2": {
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
            "sample_size": 96,
        },
        "sdxl": {
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": (1, 2, 10),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "sample_size": 128,
        },
    }
    counts = {"sd1": 859_520_964, "sd2": 865_910_724, "sdxl": 2_567_463_684}
    for family, config in real.items():
        with torch.device("meta"):
            unet = UNet2DConditionModel(**config)
        assert sum(p.numel() for p in unet.parameters()) == counts[family]
        held = {ldm: unet.state_dict()[name] for ldm, (name,) in places(_unet(unet)).items()}
        side = side_of({}, family, "v_prediction" if family == "sd2" else "epsilon", 8)
        found = unet_config(held, family, 1280, side)
        with torch.device("meta"):
            again = UNet2DConditionModel(**found)
        assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in unet.state_dict().items()}
        for key in ("attention_head_dim", "cross_attention_dim", "sample_size", "addition_time_embed_dim"):
            wanted, value = unet.config[key], again.config[key]
            assert value == (tuple(wanted) if isinstance(wanted, list) else wanted), key


def test_what_is_predicted_is_told_by_metadata_marks_or_family() -> None:
    assert predicts({}, {}, "sd1") == predicts({}, {}, "sdxl") == "epsilon"
    assert predicts({}, {}, "sd2") == "v_prediction"
    assert predicts({}, {"global_step": "875000"}, "sd2") == "epsilon"
    assert predicts({}, {"modelspec.prediction_type": "epsilon"}, "sd2") == "epsilon"
    assert predicts({"v_pred": torch.zeros(0)}, {}, "sdxl") == "v_prediction"
    sides = [side_of({}, f, p, 8) for f, p in (("sd1", "epsilon"), ("sd2", "epsilon"), ("sdxl", "epsilon"))]
    assert sides == [64, 64, 128] and side_of({}, "sd2", "v_prediction", 8) == 96
    assert side_of({"modelspec.resolution": "1024x1024"}, "sd1", "epsilon", 8) == 128
    assert Reader({"a.1.x": torch.zeros(1), "a.0.x": torch.zeros(1)}, "").count(r"a\.(\d+)") == 2


def test_a_base_of_one_file_is_patched_and_the_rest_stays_to_the_byte(made: tuple[Model, Path], tmp_path: Path) -> None:
    model, path = made
    key = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    averaged = "model_ema.diffusion_modelmiddle_block1transformer_blocks0attn2to_kweight"
    base = {name: value.half() for name, value in load_file(path).items()}
    base |= {averaged: base[key].clone(), "alphas_cumprod": torch.rand(1000), "position_ids": torch.arange(77)[None]}
    save_file(base, tmp_path / "base.safetensors", metadata={**ABOUT, "modelspec.author": "someone"})
    given = {"model": str(tmp_path / "base.safetensors"), "concept": "cat", "concept.keep": ["dog"]}
    given |= {"method.parameters": "xattn", "train.forget.lr": 1e-2, "train.retain.lr": 1e-2}
    run = workflow.erase(load_config(None, {**SHORT, **given, "output": str(tmp_path / "run")}))
    workflow.export(run, "single-file", tmp_path / "out.safetensors")
    found, trained = load_file(tmp_path / "out.safetensors"), load_file(run / runs.MODEL)
    assert found.keys() == base.keys()
    moved = {name for name in base if not torch.equal(found[name], base[name])}
    assert {key, averaged} <= moved and len(moved) == len(trained) + 1
    assert all(".attn2." in name for name in moved - {averaged})
    assert torch.equal(found[key], trained["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].half())
    assert torch.equal(found[averaged], found[key])
    assert {name: value.dtype for name, value in found.items()} == {name: value.dtype for name, value in base.items()}
    with safe_open(tmp_path / "out.safetensors", "pt") as opened:
        assert opened.metadata()["modelspec.author"] == "someone" and "cat" in opened.metadata()["modelspec.title"]
    again = load_model(str(tmp_path / "out.safetensors"))
    erased = load_run(run, stored_config(run), torch.device("cpu"))[0]
    for old, new in zip(sample(erased, SHOTS, steps=2), sample(again, SHOTS, steps=2), strict=True):
        assert np.abs(old.astype(int) - new.astype(int)).max() <= 2  # fp16 weights
    workflow.export(run, "single-file", tmp_path / "half.safetensors", "bf16")
    halved = load_file(tmp_path / "half.safetensors")
    assert (halved[key].dtype, halved["position_ids"].dtype) == (torch.bfloat16, torch.int64)
    workflow.export(run, "single-file", tmp_path / "whole.safetensors", "fp32")
    whole = load_file(tmp_path / "whole.safetensors")
    exact = trained["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
    assert torch.equal(whole[key], exact) and not torch.equal(exact.half().float(), exact)


def test_an_early_file_without_text_model_is_read_and_patched_under_its_own_names(tmp_path: Path) -> None:
    model = build_tiny("sd1", usual=True)
    held = {name.replace("transformer.text_model.", "transformer."): value for name, value in to_ldm(model).items()}
    assert "cond_stage_model.transformer.embeddings.token_embedding.weight" in held
    save_file(held, tmp_path / "base.safetensors", metadata=ABOUT)
    found = load_model(str(tmp_path / "base.safetensors"))
    assert found.family == "sd1" and model_hash(found) == model_hash(model)
    name = next(name for name, value in named(found).items() if "fc1.weight" in name)
    old = named(found)[name].detach().clone()
    found.file = tmp_path / "base.safetensors"
    put_tensors(found, {name: old + 1})
    plan = plan_export("single-file", tmp_path / "out.safetensors")
    save(plan, Erased(found, {name: old}, {name: old + 1}, "cat", {}), lambda *_: None)
    out = load_file(tmp_path / "out.safetensors")
    assert out.keys() == held.keys()
    moved = [name for name in held if not torch.equal(out[name], held[name])]
    assert moved == ["cond_stage_model.transformer.encoder.layers.0.mlp.fc1.weight"]

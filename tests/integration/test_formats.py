"""Exports read back by the tools that are to read them: diffusers' loaders of single files and of LoRAs.

Run: pytest tests/integration/test_formats.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextModel

from erase import runs, workflow
from erase.config import load_config
from erase.errors import InputError
from erase.evaluation.rows import read_rows
from erase.events import Event, Warned
from erase.export import Erased, plan_export, save
from erase.export.ldm import _unet, _vae, places, to_ldm
from erase.models import FAMILIES, Model, load_model, model_hash
from erase.prepare import load_run, stored_config
from erase.resources import asset
from erase.sampling import Shot, first_noise
from tests.integration.conftest import build_tiny
from tests.integration.test_workflow import SHORT, short

# Linear, 1 x 1 and 3 x 3 weights, and no biases, so that a LoRA can carry the run whole. Of at most rank 128.
WEIGHTS = r"(\.attn2\.to_[kv]|\.proj_in|\.conv1|\.conv_shortcut)\.weight$"
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = {"method.parameters": WEIGHTS, "train.forget.lr": 3e-3, "train.retain.lr": 3e-3}
    return workflow.erase(short(tmp_path_factory.mktemp("runs") / "frog", **given))


@pytest.fixture(scope="module")
def erased(run: Path) -> Model:
    return load_run(run, stored_config(run), torch.device("cpu"))[0]


def tensors_of(model: Any) -> dict[str, torch.Tensor]:
    parts = [part for part in PARTS if getattr(model, part, None) is not None]
    return {f"{part}.{name}": v for part in parts for name, v in getattr(model, part).state_dict().items()}


def about(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """A file's metadata, and its entry `erase` read as JSON."""
    with safe_open(path, "pt") as file:
        found = file.metadata()
    return found, json.loads(found["erase"])


def weightless(folder: Path, copy: Path) -> Path:
    """A pipeline folder without its weights: what a loader of single files needs beside them."""
    return Path(shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors*")))


def from_file(path: Path, config: Path, pipeline: str = "StableDiffusionPipeline") -> Any:
    options: dict[str, Any] = {"config": str(config), "local_files_only": True}
    if pipeline == "StableDiffusionPipeline":
        options |= {"safety_checker": None, "feature_extractor": None}
    return getattr(diffusers, pipeline).from_single_file(str(path), torch_dtype=torch.float32, **options)


def assert_draws_the_after_pictures(pipe: Any, run: Path, model: Model) -> None:
    """Within one grey level: the run drew them in a batch, whose sums round otherwise."""
    pipe.set_progress_bar_config(disable=True)
    rows = read_rows(run / runs.ROWS)
    befores = {(r["prompt_id"], r["seed"]): r["image"] for r in rows if r["arm"] == "before"}
    for row in [r for r in rows if r["arm"] == "after"][:3]:
        noise = first_noise(model, [Shot(row["prompt"], row["prompt_id"], row["seed"])])
        options = {"num_inference_steps": row["steps"], "guidance_scale": row["cfg"], "output_type": "np"}
        drawn = (pipe(row["prompt"], latents=noise, **options).images[0] * 255).round().astype(int)
        kept, before = (
            np.array(Image.open(run / image)).astype(int)
            for image in (row["image"], befores[row["prompt_id"], row["seed"]])
        )
        assert np.abs(drawn - kept).max() <= 1
        assert np.abs(drawn - before).max() > 8  # the base alone would not do


def test_a_single_file_comes_back_to_the_bit_and_draws_the_after_pictures(
    run: Path, erased: Model, tmp_path: Path
) -> None:
    seen: list[Event] = []
    path = workflow.export(run, "single-file", tmp_path / "frog free.safetensors", on_event=seen.append)
    assert seen == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frog free.md", "frog free.png", "frog free.safetensors"]
    assert "](frog%20free.png)" in (tmp_path / "frog free.md").read_text()
    held = load_file(path)
    assert {name.split(".")[0] for name in held} == {"model", "first_stage_model", "cond_stage_model"}
    assert held["first_stage_model.encoder.mid.attn_1.q.weight"].ndim == 4  # a convolution, though diffusers takes both
    pipe = from_file(path, weightless(asset("world/pipeline"), tmp_path / "config"))
    wanted, found = tensors_of(erased), tensors_of(pipe)
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    assert_draws_the_after_pictures(pipe, run, erased)


def test_a_single_file_says_what_it_is(run: Path, tmp_path: Path) -> None:
    entries, recipe = about(workflow.export(run, "single-file", tmp_path / "x.safetensors", "fp16"))
    assert entries["modelspec.sai_model_spec"] == "1.0.1"
    assert entries["modelspec.architecture"] == "stable-diffusion-v1"
    assert entries["modelspec.prediction_type"] == "v"
    assert (entries["modelspec.title"], entries["modelspec.resolution"]) == ("frog, erased", "64x64")
    assert recipe["base weights"] == model_hash(load_model("world"))
    assert (recipe["base"], recipe["config"]["method"]["name"], recipe["concept"]) == ("world", "esd", "frog")
    assert recipe["config"]["method"]["parameters"] == WEIGHTS
    assert {v.dtype for v in load_file(tmp_path / "x.safetensors").values()} == {torch.float16}


ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-768-v",
    "sdxl": "stable-diffusion-xl-v1-base",
}


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.prefixes])
def test_models_of_every_layout_come_back_to_the_bit(family: str, tmp_path: Path) -> None:
    model = build_tiny(family)
    save(plan_export("single-file", tmp_path / "x.safetensors"), Erased(model, {}, {}, "cat", {}), lambda *_: None)
    model.pipeline().save_pretrained(tmp_path / "folder")
    config = weightless(tmp_path / "folder", tmp_path / "config")
    pipe = from_file(tmp_path / "x.safetensors", config, FAMILIES[family].pipeline)
    wanted, found = tensors_of(model), tensors_of(pipe)
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    names = set(load_file(tmp_path / "x.safetensors"))
    for kind, prefix in (("sd2", "cond_stage_model.model."), ("sdxl", "conditioner.embedders.1.model.")):
        assert (f"{prefix}transformer.resblocks.1.attn.in_proj_weight" in names) == (kind == family)
    entries, _ = about(tmp_path / "x.safetensors")
    assert entries["modelspec.architecture"] == ARCHITECTURES[family]
    assert entries["modelspec.prediction_type"] == ("v" if family == "sd2" else "epsilon")


def test_a_second_one_that_predicts_the_noise_says_so(tmp_path: Path) -> None:
    model = build_tiny("sd2")
    model.scheduler.register_to_config(prediction_type="epsilon")
    save(plan_export("single-file", tmp_path / "x.safetensors"), Erased(model, {}, {}, "cat", {}), lambda *_: None)
    assert about(tmp_path / "x.safetensors")[0]["modelspec.architecture"] == "stable-diffusion-v2-512"


# As Stable Diffusion 1.5's file names them; one of every kind.
NAMED = {
    "input_blocks.0.0.weight": "conv_in.weight",
    "time_embed.2.bias": "time_embedding.linear_2.bias",
    "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
    "input_blocks.4.0.skip_connection.weight": "down_blocks.1.resnets.0.conv_shortcut.weight",
    "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight": (
        "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight"
    ),
    "input_blocks.10.0.in_layers.2.weight": "down_blocks.3.resnets.0.conv1.weight",
    "middle_block.1.proj_in.weight": "mid_block.attentions.0.proj_in.weight",
    "middle_block.2.emb_layers.1.weight": "mid_block.resnets.1.time_emb_proj.weight",
    "output_blocks.2.1.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
    "output_blocks.5.2.conv.bias": "up_blocks.1.upsamplers.0.conv.bias",
    "output_blocks.11.1.norm.weight": "up_blocks.3.attentions.2.norm.weight",
    "out.2.weight": "conv_out.weight",
}
NAMED_VAE = {
    "encoder.down.1.block.0.nin_shortcut.weight": "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
    "encoder.mid.attn_1.q.weight": "encoder.mid_block.attentions.0.to_q.weight",
    "decoder.up.3.block.2.conv1.weight": "decoder.up_blocks.0.resnets.2.conv1.weight",
    "decoder.up.1.upsample.conv.weight": "decoder.up_blocks.2.upsamplers.0.conv.weight",
    "post_quant_conv.bias": "post_quant_conv.bias",
}


def test_the_names_are_those_of_stable_diffusion_1() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **blocks)
    for part, prefix, named, count in (
        (_unet(unet), "model.diffusion_model.", NAMED, 686),
        (_vae(vae), "first_stage_model.", NAMED_VAE, 248),
    ):
        found = places(part)
        assert len(found) == count
        assert sorted(name for (name,) in found.values()) == sorted(part.tensors)
        for ldm, ours in named.items():
            assert found[prefix + ldm] == [ours]


def test_a_model_that_the_layout_has_no_place_for_is_refused() -> None:
    model = build_tiny()
    model.unet.register_parameter("extra", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(
        InputError, match=r"the UNet has 1 of \d+ tensors that a single file .* first extra; use another"
    ):
        to_ldm(model)
    model = build_tiny("sd2")
    config = model.text_encoder.config
    config.num_hidden_layers = 24  # diffusers passes over the last: Stable Diffusion 2 leaves it out
    model.text_encoder = CLIPTextModel(config)
    with pytest.raises(InputError, match="the text encoder has 16 of 388 tensors .*layers.23"):
        to_ldm(model)
    model = build_tiny()
    model.unet = UNet2DConditionModel.from_config({**model.unet.config, "layers_per_block": [1, 1]})
    with pytest.raises(InputError, match="layers_per_block"):
        to_ldm(model)


@pytest.mark.parametrize("format", ["lora", "lora-peft"])
def test_a_lora_of_full_rank_is_the_run(format: str, run: Path, erased: Model, tmp_path: Path) -> None:
    seen: list[Event] = []
    path = workflow.export(run, format, tmp_path / "frog.safetensors", rank=1000, on_event=seen.append)
    assert seen == []
    entries, recipe = about(path)
    assert (recipe["rank"], recipe["left out"]) == (128, [])
    assert recipe["share of the squared change"] == pytest.approx(1, abs=1e-6)
    assert entries["modelspec.architecture"] == "stable-diffusion-v1/lora"
    names = load_file(path).keys()
    if format == "lora":
        assert entries["ss_v2"] == "False"
        layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
        assert {f"{layer}.{kind}" for kind in ("lora_down.weight", "lora_up.weight", "alpha")} <= names
        held = load_file(path)
        ranks = {len(value) for name, value in held.items() if "lora_down" in name}
        assert len(ranks) > 1 and max(ranks) == 128  # a small layer has a rank of its own
        assert {float(value) for name, value in held.items() if "alpha" in name} == {128}  # else diffusers loses some
    else:
        assert "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight" in names
    base = load_model("world")
    pipe = base.pipeline()
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    wanted, found = (dict(unet.named_parameters()) for unet in (erased.unet, pipe.unet))
    assert wanted.keys() == found.keys()
    assert [n for n in wanted if not torch.allclose(wanted[n], found[n], rtol=0, atol=1e-6)] == []
    assert_draws_the_after_pictures(pipe, run, base)


def test_what_a_lora_lacks_is_said(run: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    shares = {}
    for rank in (1, 8):
        path = workflow.export(run, "lora", tmp_path / f"{rank}.safetensors", rank=rank, on_event=seen.append)
        shares[rank] = about(path)[1]["share of the squared change"]
    assert 0 < shares[1] < shares[8] < 1
    texts = [event.text for event in seen if isinstance(event, Warned)]
    said = f"the LoRA of rank 1 carries {100 * shares[1]:.1f} % of the squared change of the weights"
    assert texts[0] == said and len(texts) == 2
    assert f"- {said}\n" in (tmp_path / "1.md").read_text().split("## Limits")[1]


def test_a_run_on_another_model_is_exported_without_a_path_of_this_machine(tmp_path: Path) -> None:
    build_tiny().pipeline().save_pretrained(tmp_path / "tiny")
    given = {"model": str(tmp_path / "tiny"), "concept": "Van Gogh", "method.parameters": "xattn"}
    folder = workflow.erase(
        load_config(None, {**SHORT, "output": str(tmp_path / "run"), "train.forget.lr": 1e-3, **given})
    )
    seen: list[Event] = []
    for format in ("single-file", "lora", "lora-peft", "delta"):
        workflow.export(folder, format, tmp_path / "out" / f"{format}.safetensors", on_event=seen.append)
    assert [p.name for p in (tmp_path / "out").iterdir() if str(tmp_path).encode() in p.read_bytes()] == []
    assert about(tmp_path / "out/delta.safetensors")[1]["base"] == "tiny"
    texts = [event.text for event in seen if isinstance(event, Warned)]
    assert any("it has no place for 4 of the trained tensors (biases, norms), first" in text for text in texts)
    delta, trained = load_file(tmp_path / "out/delta.safetensors"), load_file(folder / runs.MODEL)
    assert delta.keys() == trained.keys()
    assert all(torch.equal(delta[name], trained[name]) for name in delta)
    assert about(tmp_path / "out/delta.safetensors")[1]["base weights"] == model_hash(build_tiny())


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_folder_has_the_precision_asked_for(dtype: str, kind: torch.dtype, tmp_path: Path) -> None:
    plan = plan_export("diffusers", tmp_path / "out", dtype)
    save(plan, Erased(build_tiny(), {}, {}, "cat", {}), lambda *_: None)
    files = sorted((tmp_path / "out").rglob("*.safetensors"))
    assert len(files) == 3
    assert {v.dtype for file in files for v in load_file(file).values()} == {kind}
    assert load_model(str(tmp_path / "out")).unet.dtype == torch.float32


@pytest.mark.parametrize("format", ["diffusers", "single-file"])
def test_a_value_that_the_precision_cannot_hold_leaves_nothing(format: str, tmp_path: Path) -> None:
    model = build_tiny()
    model.vae.get_parameter("decoder.conv_in.bias").data[0] = 1e6
    plan = plan_export(format, tmp_path / "out.safetensors", "fp16")
    with pytest.raises(InputError, match=r"decoder\.conv_in\.bias has values that fp16 cannot hold"):
        save(plan, Erased(model, {}, {}, "cat", {}), lambda *_: None)
    assert not list(tmp_path.iterdir())

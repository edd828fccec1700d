"""A tiny untrained Stable Diffusion, and a session on it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from erase.models import Model
from erase.models.file_parts import clip_tokenizer
from erase.resources import asset


def build_tiny(family: str = "sd1", usual: bool = False) -> Model:
    """Random weights at fixed seed: 8 x 8 latents of 4 channels, two levels, in a family's layout.

    "sd2" predicts v, projects linearly and reads OpenCLIP's text encoder; "sdxl" has two of these and added conditions;
    "sd3" follows a flow with a transformer, and reads a T5 as well.
    `usual`: CLIP's words, and what a single file does not tell (heads, groups, scale) as all models of the family have.
    """
    torch.manual_seed(0)
    if family == "sd3":
        return _build_flow(usual)
    width = 64 if usual else 32
    linear, text_width, layers = family != "sd1", width, 1 if family == "sd1" else 2
    tokenizer = clip_tokenizer("!" if family == "sd2" else "<|endoftext|>") if usual else _world_tokenizer()
    text = CLIPTextModel(_text_config(tokenizer, layers, width, hidden_act="gelu" if family == "sd2" else "quick_gelu"))
    options: dict[str, Any] = {}
    second: dict[str, Any] = {}
    if family == "sdxl":
        summary, sizes = 24, 8
        other = clip_tokenizer("!") if usual else tokenizer
        config = _text_config(other, layers, 128 if usual else 48, hidden_act="gelu", projection_dim=summary)
        encoder = CLIPTextModelWithProjection(config)
        second = {"tokenizer_2": other, "text_encoder_2": encoder.eval().requires_grad_(False), "blank_is_zero": True}
        text_width += config.hidden_size
        options = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": sizes,
            "projection_class_embeddings_input_dim": 6 * sizes + summary,
        }
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(width, width),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=(1 if linear else 8) if usual else 2,
        use_linear_projection=linear,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **options,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=32 if usual else 8,
        scaling_factor=0.13025 if family == "sdxl" else 0.18215,
        sample_size=16,
    )
    noise = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if family == "sd2" else "epsilon",
    )
    for part in (text, unet, vae):
        part.eval().requires_grad_(False)
    return Model("tiny", tokenizer, text, unet, vae, noise, family=family, **second)


def _build_flow(usual: bool) -> Model:
    """Two joint blocks of width 16, CLIPs of widths 32 and 48, a T5 as wide as what both blocks read."""
    tokenizer = clip_tokenizer("!") if usual else _world_tokenizer()
    first, second = (
        CLIPTextModelWithProjection(_text_config(tokenizer, 2, width, hidden_act="gelu", projection_dim=24))
        for width in (32, 48)
    )
    words = _t5_tokenizer()
    third = T5EncoderModel(T5Config(vocab_size=len(words), d_model=96, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=96,
        caption_projection_dim=16,
        pooled_projection_dim=48,
        pos_embed_max_size=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=16,
    )
    for part in (first, second, third, transformer, vae):
        part.eval().requires_grad_(False)
    return Model(
        "tiny",
        tokenizer,
        first,
        transformer,
        vae,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        family="sd3",
        tokenizer_2=tokenizer,
        text_encoder_2=second,
        tokenizer_3=words,
        text_encoder_3=third,
    )


def _t5_tokenizer() -> T5Tokenizer:
    pieces = ["\u2581", *map(chr, range(ord("a"), ord("z") + 1)), "\u2581cat", "\u2581dog", "\u2581a"]
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -float(len(piece) < 2)) for piece in pieces)]
    return T5Tokenizer(vocab=words, extra_ids=0)


def _world_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(asset("world/pipeline/tokenizer"))


def _text_config(tokenizer: CLIPTokenizer, layers: int, width: int, **more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2 if width % 64 else width // 64,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


@pytest.fixture
def tiny_model() -> Model:
    return build_tiny()


MATRIX = """
base:
  model: {model}
  device: cpu
  train: {{rounds: 20, batch: 2, pool: {{forget: 2, retain: 2, steps: 2}}, checkpoint_every: 1, preview_every: 0}}
  evaluate: {{steps: 2}}
concepts: [{{name: cat, keep: [owl]}}, {{name: dog, keep: [owl]}}, {{name: fox, keep: [owl]}}]
methods: [{{name: esd, parameters: xattn-kv}}]
"""


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix file of three small runs on a tiny model."""
    folder = tmp_path_factory.mktemp("batch")
    build_tiny().pipeline().save_pretrained(folder / "tiny")
    (folder / "matrix.yaml").write_text(MATRIX.format(model=folder / "tiny"))
    return folder / "matrix.yaml"


def begin_batch(matrix: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    """`erase batch` with the local engine, one thread a worker, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "erase", "batch", str(matrix), "--output", str(output), *flags]
    return subprocess.Popen(
        [*command, "--cpus-per-job", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(true: Callable[[], object], seconds: float = 240) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def stopped_batch(
    matrix: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a batch of the local engine that was stopped in the middle, and what it said."""
    output = tmp_path_factory.mktemp("local") / "out"
    begun = begin_batch(matrix, output, "--workers", "2")
    until(lambda: begun.poll() is not None or list(output.glob("*/checkpoint/*.pt")))
    begun.send_signal(signal.SIGINT)
    out, err = begun.communicate(timeout=240)
    return output, subprocess.CompletedProcess([], begun.returncode, out, err)

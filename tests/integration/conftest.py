"""A tiny untrained Stable Diffusion, and a session on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from erase.models import Model
from erase.models.file_parts import clip_tokenizer
from erase.resources import asset


def build_tiny(family: str = "sd1", usual: bool = False) -> Model:
    """Random weights at fixed seed: 8 x 8 latents of 4 channels, two levels, in a family's layout.

    "sd2" predicts v, projects linearly and reads OpenCLIP's text encoder; "sdxl" has two of these and added conditions.
    `usual`: CLIP's words, and what a single file does not tell (heads, groups, scale) as all models of the family have.
    """
    torch.manual_seed(0)
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

"""A tiny untrained Stable Diffusion, and a session on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from erase.models import Model
from erase.resources import asset


def build_tiny(family: str = "sd1") -> Model:
    """Random weights at fixed seed: 8 x 8 latents of 4 channels, two levels of width 32, in a family's layout.

    "sd2" predicts v and projects linearly; "sdxl" has two text encoders and added conditions.
    """
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(asset("world/pipeline/tokenizer"))
    options: dict[str, Any] = {"attention_head_dim": 2, "cross_attention_dim": 32}
    second: dict[str, Any] = {}
    if family == "sd1":
        text = CLIPTextModel(_text_config(tokenizer, layers=1))
    else:
        text = CLIPTextModel(_text_config(tokenizer, layers=2))
        options["use_linear_projection"] = True
    if family == "sdxl":
        width, summary, sizes = 48, 24, 8
        encoder = CLIPTextModelWithProjection(_text_config(tokenizer, layers=2, width=width, projection_dim=summary))
        second = {
            "tokenizer_2": tokenizer,
            "text_encoder_2": encoder.eval().requires_grad_(False),
            "blank_is_zero": True,
        }
        options |= {
            "cross_attention_dim": 32 + width,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": sizes,
            "projection_class_embeddings_input_dim": 6 * sizes + summary,
        }
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **options,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=16,
    )
    noise = DDIMScheduler(
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if family == "sd2" else "epsilon",
    )
    for part in (text, unet, vae):
        part.eval().requires_grad_(False)
    return Model("tiny", tokenizer, text, unet, vae, noise, family=family, **second)


def _text_config(tokenizer: CLIPTokenizer, layers: int, width: int = 32, **more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


@pytest.fixture
def tiny_model() -> Model:
    return build_tiny()

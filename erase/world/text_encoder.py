"""The world's CLIPTextModel, trained against a throw-away image tower, then on with the UNet.

So its embeddings know which words mean alike things before the UNet sees them: synonyms and a shared
superclass land close together, and text similarity can choose the neighbours to retain.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from erase.world.captions import TOKENS, draw_captions, encode
from erase.world.fitting import Loss, Plan
from erase.world.scenes import augment, draw_scenes, render

PLAN = Plan("text_encoder", steps=600, lr=1e-3, warmup=50, ema=0.99, weight_decay=0.01)
BATCH = 128
WIDTH = 192


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Untrained: 3 layers of width 192."""
    special: dict[str, Any] = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=WIDTH,
        bos_token_id=special["bos"],
        eos_token_id=special["eos"],
        pad_token_id=special["pad"],
    )
    return CLIPTextModel(config)


class Contrast(nn.Module):
    """The text model beside a small image network; only `text` outlives the training."""

    def __init__(self, text: CLIPTextModel) -> None:
        super().__init__()
        self.text = text
        self.image = image_tower(WIDTH)
        self.scale = nn.Parameter(torch.tensor(2.6))  # log of 13.5: CLIP's start, 1 / 0.07


def image_tower(outputs: int, width: int = 48) -> nn.Sequential:
    """A plain convolutional network, (N, 3, 64, 64) to (N, outputs); about 1 M parameters at width 48."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=4)]
    for level, channels in enumerate((width, 2 * width, 4 * width)):
        if level:
            layers.append(nn.Conv2d(channels // 2, channels, 2, stride=2))
        layers += [nn.GroupNorm(8, channels), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1)]
        layers += [nn.GroupNorm(8, channels), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1)]
    layers += [nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, outputs)]
    return nn.Sequential(*layers)


def contrastive(images: Tensor, texts: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE on unit vectors (N, D); pairs with equal captions (`same`) are not negatives."""
    logits = scale.exp().clamp(max=100) * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    logits = logits.float().masked_fill(same & ~torch.eye(len(same), dtype=torch.bool, device=same.device), -1e4)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def loss(model: Contrast, tokenizer: CLIPTokenizer, batch: int = BATCH) -> Loss:
    """Contrast fresh scenes with their captions; no empty ones here."""

    def compute(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        device = model.scale.device
        scenes = draw_scenes(batch, generator)
        images = augment(render(scenes), generator, 0.5).to(device)
        ids = encode(tokenizer, draw_captions(scenes, generator, empty=0.0)).to(device)
        same = (ids[:, None] == ids[None]).all(-1)
        pooled = model.text(input_ids=ids).pooler_output
        return {"loss": contrastive(model.image(images), pooled, model.scale, same)}

    return compute

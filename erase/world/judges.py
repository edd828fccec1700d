"""The world's judges: two families of object-and-style classifiers, and a small open_clip model.

They see renders, never the generator's pictures. Every classifier has a last class in both heads, "none of
the above", learned from noise, blends, blanks, blobs, blur and scrambled pictures, so that a destroyed model
is not mistaken for one that forgot.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from erase.runtime import replacing, write_json
from erase.world.captions import TOKENS, draw_captions, encode
from erase.world.fitting import Loss, Plan
from erase.world.scenes import SIZE, Scenes, augment, draw_scenes, render
from erase.world.text_encoder import contrastive, image_tower
from erase.world.vocabulary import OBJECTS, STYLES

# `conv` is the reported judge; `patch` serves tuning and attacks, so that no result is chosen by its own judge.
PLANS = {
    "conv": Plan("judge_conv", steps=6000, lr=2e-3, ema=0.995, weight_decay=0.02),
    "patch": Plan("judge_patch", steps=14000, lr=1e-3, ema=0.995, weight_decay=0.02),
}
CLIP_PLAN = Plan("clip", steps=4000, lr=1e-3, ema=0.995, weight_decay=0.02)
BATCH = 64
GARBAGE = ("noise", "blank", "blur", "blend", "blobs", "scrambled")
CLIP_FILES = ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json")
CLIP_CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIZE, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": TOKENS, "vocab_size": 0, "width": 128, "heads": 4, "layers": 3},
}


class PatchNet(nn.Module):
    """A small vision transformer: 8 x 8 patches, 4 layers of width 112."""

    def __init__(self, outputs: int, width: int = 112, layers: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.position = nn.Parameter(torch.randn(1, (SIZE // 8) ** 2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class Classifier(nn.Module):
    """Object and style logits, each with "none of the above" last, divided by the fitted temperatures.

    Takes images (N, 3, 64, 64) in [-1, 1]; returns (N, objects + 1) and (N, styles + 1).
    """

    temperature: Tensor

    def __init__(self, family: str) -> None:
        super().__init__()
        outputs = len(OBJECTS) + 1 + len(STYLES) + 1
        self.body = image_tower(outputs, width=32) if family == "conv" else PatchNet(outputs)
        self.register_buffer("temperature", torch.ones(2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        both = self.body(images).float()
        objects, styles = both.split([len(OBJECTS) + 1, len(STYLES) + 1], dim=1)
        return objects / self.temperature[0], styles / self.temperature[1]


def garbage(images: Tensor, generator: torch.Generator, kind: str | None = None) -> Tensor:
    """Turn pictures (N, 3, H, W) into pictures of nothing; each of a random kind unless `kind` is given."""
    n = len(images)
    chosen = torch.randint(len(GARBAGE), (n,), generator=generator)
    if kind is not None:
        chosen[:] = GARBAGE.index(kind)
    out = torch.empty_like(images)
    makers = (_noise, _blank, _blur, _blend, _blobs, _scrambled)
    for index, maker in enumerate(makers):
        rows = (chosen == index).nonzero().flatten()
        if len(rows):
            out[rows] = maker(images, rows, generator)
    return out.clamp(-1, 1)


def _noise(images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    base = _blank(images, rows, generator)
    level = 0.3 + 0.9 * torch.rand(len(rows), 1, 1, 1, generator=generator)
    return base + level * torch.randn(base.shape, generator=generator)


def _blank(images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    colour = torch.rand(len(rows), 3, 1, 1, generator=generator) * 2 - 1
    faint = 0.06 * torch.rand(len(rows), 1, 1, 1, generator=generator)
    noise = torch.randn((len(rows), *images.shape[1:]), generator=generator)
    return colour + faint * noise


def _blur(images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Down to 2 to 5 pixels a side and back: colours stay, shape goes."""
    side = int(torch.randint(2, 6, (1,), generator=generator))
    small = F.adaptive_avg_pool2d(images[rows], side)
    return F.interpolate(small, size=images.shape[-2:], mode="bicubic", align_corners=False)


def _blend(images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """The mean of three different pictures."""
    n = len(images)
    first, second = (torch.randperm(max(n - 1, 2), generator=generator)[:2] + 1).tolist()
    return (images[rows] + images[(rows + first) % n] + images[(rows + second) % n]) / 3


def _blobs(images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    side = int(torch.randint(3, 11, (1,), generator=generator))
    low = torch.randn(len(rows), 3, side, side, generator=generator) * 0.6
    smooth = F.interpolate(low, size=images.shape[-2:], mode="bicubic", align_corners=False)
    return _blank(images, rows, generator) * 0.5 + smooth


def _scrambled(images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """8 x 8 tiles of several pictures in random order."""
    tiles = F.unfold(images[rows], 8, stride=8).transpose(1, 2).reshape(-1, images.shape[1] * 64)
    mixed = tiles[torch.randperm(len(tiles), generator=generator)]
    back = mixed.reshape(len(rows), -1, images.shape[1] * 64).transpose(1, 2)
    return F.fold(back, images.shape[-2:], 8, stride=8)


def examples(batch: int, generator: torch.Generator, strength: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Scenes]:
    """Augmented renders, a quarter of them turned to garbage, with object and style labels."""
    scenes = draw_scenes(batch, generator)
    images = augment(render(scenes), generator, strength)
    spoiled = batch // 4
    images[:spoiled] = garbage(images, generator)[:spoiled]
    objects, styles = scenes.object.clone(), scenes.style.clone()
    objects[:spoiled], styles[:spoiled] = len(OBJECTS), len(STYLES)
    return images, objects, styles, scenes


def loss(model: Classifier, batch: int = BATCH) -> Loss:
    """Cross-entropy of both heads."""

    def compute(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        device = model.temperature.device
        images, objects, styles, _ = examples(batch, generator, 1.2)
        by_object, by_style = model(images.to(device))
        right = (by_object.argmax(1).cpu() == objects).float().mean()
        total = F.cross_entropy(by_object, objects.to(device)) + 0.5 * F.cross_entropy(by_style, styles.to(device))
        return {"loss": total, "accuracy": right}

    return compute


@torch.no_grad()
def set_temperature(model: Classifier, count: int = 2048) -> None:
    """Choose each head's temperature by likelihood on fresh renders (Guo et al. 2017), on a log grid.

    At twice the training's augmentation: where a judge makes no mistake at all, likelihood sharpens without end.
    """
    images, objects, styles, _ = examples(count, torch.Generator().manual_seed(77), 2.0)
    model.temperature.fill_(1.0)
    device = model.temperature.device
    grid = torch.logspace(math.log10(0.05), math.log10(5), 121)
    for head, (logits, labels) in enumerate(zip(model(images.to(device)), (objects, styles), strict=True)):
        scores = [float(F.cross_entropy(logits.cpu() / t, labels)) for t in grid]
        model.temperature[head] = grid[scores.index(min(scores))]


def clip_config(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """What open_clip builds the model, its preprocessing and its tokenizer from."""
    return {
        "model_cfg": {
            **CLIP_CONFIG,
            # A tokenizer's name says that there is one; "local-dir:" looks for it beside the weights.
            "text_cfg": {**CLIP_CONFIG["text_cfg"], "vocab_size": len(tokenizer), "hf_tokenizer_name": "."},
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bilinear",
            "resize_mode": "squash",
        },
    }


def build_clip(tokenizer: CLIPTokenizer) -> open_clip.CLIP:
    """An untrained model of open_clip's own class."""
    return open_clip.CLIP(**clip_config(tokenizer)["model_cfg"])


def save_clip(folder: Path, model: open_clip.CLIP, tokenizer: CLIPTokenizer) -> None:
    """Write a folder that `open_clip.create_model("local-dir:FOLDER")` and `get_tokenizer` read."""
    save_half(folder / CLIP_FILES[1], model)
    write_json(folder / CLIP_FILES[0], clip_config(tokenizer))
    tokenizer.save_pretrained(folder)


def save_half(path: Path, model: nn.Module) -> None:
    """Write a judge's weights in float16, all or nothing."""
    tensors = {
        k: v.half().cpu().contiguous() if v.is_floating_point() else v.cpu() for k, v in model.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def clip_loss(model: open_clip.CLIP, tokenizer: CLIPTokenizer, batch: int = BATCH) -> Loss:
    """Contrast augmented renders with their captions, on a random stream of its own."""

    def compute(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        device = model.logit_scale.device
        scenes = draw_scenes(batch, generator)
        images = augment(render(scenes), generator).to(device)
        ids = encode(tokenizer, draw_captions(scenes, generator, empty=0.0)).to(device)
        same = (ids[:, None] == ids[None]).all(-1)
        seen, read = model.encode_image(images), model.encode_text(ids)
        return {"loss": contrastive(seen, read, model.logit_scale, same)}

    return compute

"""Compose training pictures: a glyph on a coloured background, 64 x 64, values in [-1, 1].

A scene's glyph is 48 px and sits on the 8 px grid of the VAE's latents, so a shift of the glyph is a
shift of the latents and the UNet has one picture a glyph to learn, not one a pixel offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from erase.resources import asset
from erase.world.glyphs import COLUMNS, GLYPH
from erase.world.vocabulary import COLOURS, OBJECTS, STYLES

SIZE = 64
SHOWN = 48
CELL = 8
PLACES = (SIZE - SHOWN) // CELL + 1  # 3 a side


@dataclass(frozen=True, slots=True)
class Scenes:
    """A batch of scene descriptions, one index a picture in every field. Shapes: (N,)."""

    object: Tensor
    style: Tensor
    colour: Tensor
    row: Tensor
    column: Tensor

    def __len__(self) -> int:
        return len(self.object)


@lru_cache(maxsize=4)
def glyphs(size: int = SHOWN) -> Tensor:
    """All glyphs with premultiplied colour: (styles, objects, 4, size, size) in [0, 1]."""
    found = []
    for style in STYLES:
        with Image.open(asset(f"world/glyphs/{style.name.replace(' ', '-')}.png")) as atlas:
            pixels = torch.from_numpy(np.array(atlas.convert("RGBA"))).float() / 255
        for place in range(len(OBJECTS)):
            top, left = place // COLUMNS * GLYPH, place % COLUMNS * GLYPH
            found.append(pixels[top : top + GLYPH, left : left + GLYPH].permute(2, 0, 1))
    stack = torch.stack(found)
    stack[:, :3] *= stack[:, 3:]
    small = F.interpolate(stack, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return small.clamp(0, 1).reshape(len(STYLES), len(OBJECTS), 4, size, size)


def backgrounds() -> Tensor:
    """The palette: (colours, 3) in [0, 1]."""
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32) / 255


def draw_scenes(count: int, generator: torch.Generator) -> Scenes:
    """Uniform random scenes; every (object, style) pair is equally likely."""

    def pick(n: int) -> Tensor:
        return torch.randint(n, (count,), generator=generator)

    return Scenes(pick(len(OBJECTS)), pick(len(STYLES)), pick(len(COLOURS)), pick(PLACES), pick(PLACES))


def render(scenes: Scenes) -> Tensor:
    """Pictures of the scenes: (N, 3, 64, 64) in [-1, 1]."""
    canvas = backgrounds()[scenes.colour][:, :, None, None].expand(-1, -1, SIZE, SIZE).clone()
    chosen = glyphs()[scenes.style, scenes.object]
    for i in range(len(scenes)):
        top, left = int(scenes.row[i]) * CELL, int(scenes.column[i]) * CELL
        patch = canvas[i, :, top : top + SHOWN, left : left + SHOWN]
        patch.mul_(1 - chosen[i, 3]).add_(chosen[i, :3])
    return canvas * 2 - 1


def to_uint8(images: Tensor) -> list[np.ndarray]:
    """What `render` made, as judges take it: uint8 (H, W, 3) each."""
    return list(((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def augment(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Small random shift, zoom, rotation, brightness, contrast, noise and blur; for the judges.

    Shapes stay (N, 3, H, W). `strength` 1 is what judges train on; the judges' gate uses more.
    """
    n = len(images)

    def spread(width: float) -> Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * width * strength

    angle, zoom = spread(0.14), torch.exp(spread(0.12))
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift_x, shift_y = spread(0.14), spread(0.14)
    theta = torch.stack([torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    contrast, brightness = torch.exp(spread(0.15)), spread(0.10)
    moved = moved * contrast[:, None, None, None] + brightness[:, None, None, None]
    blurred = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = (torch.rand(n, generator=generator) * strength).clamp(max=1)[:, None, None, None]
    moved = moved + amount * (blurred - moved)
    noise = torch.randn(moved.shape, generator=generator)
    level = torch.rand(n, generator=generator)[:, None, None, None] * 0.08 * strength
    return (moved + level * noise).clamp(-1, 1)

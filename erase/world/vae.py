"""The world's AutoencoderKL: 64 x 64 pixels to 8 x 8 latents of 16 channels.

The encoder is set, not trained: its convolutions compute the 16 principal components of 8 x 8 patches
(24.8 dB by themselves). So the latents are known before any training, shift exactly with the glyph, and the
decoder alone is learned. A jointly trained encoder of this size reached 15.7 dB after 1,000 steps; a decoder on
these latents passes 19 dB after 150.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from erase.world.fitting import Loss, Plan
from erase.world.scenes import draw_scenes, render

PLAN = Plan("vae", steps=5000, lr=2e-3, warmup=50, ema=0.998)
BATCH = 8
CHANNELS = 16
PATCH = 8
# Constant channels this much larger than the latents keep the encoder's last group norm linear to 0.1 %.
LEVEL = 40.0


def build() -> AutoencoderKL:
    """Stable Diffusion's blocks at narrow widths, with the encoder already set."""
    levels = (32, 48, 64, 96)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=CHANNELS,
        block_out_channels=levels,  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        norm_num_groups=1,
        sample_size=64,
        scaling_factor=1.0,
        down_block_types=("DownEncoderBlock2D",) * len(levels),  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * len(levels),  # pyright: ignore[reportArgumentType]
    )
    set_encoder(vae, *principal_components())
    return vae


@lru_cache(maxsize=1)  # nobody changes the two tensors
def principal_components(count: int = 2048) -> tuple[Tensor, Tensor]:
    """Filters (16, 3, 8, 8) and offsets (16,) so that conv(x, filters) + offsets are the latents.

    Component k is divided by the root of its deviation: between raw (all noise levels spent on the background) and
    whitened (faint detail as loud as shape). The whole is scaled to mean variance 1.
    """
    images = render(draw_scenes(count, torch.Generator().manual_seed(0)))
    patches = F.unfold(images, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH * PATCH).double()
    mean = patches.mean(0)
    centred = patches - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    deviation = values.flip(0)[:CHANNELS].sqrt()
    filters = (vectors.flip(1)[:, :CHANNELS] / deviation.sqrt()).T / deviation.mean().sqrt()
    return filters.float().reshape(CHANNELS, 3, PATCH, PATCH), -(filters @ mean).float()


@torch.no_grad()
def set_encoder(vae: AutoencoderKL, filters: Tensor, offsets: Tensor) -> None:
    """Write a linear map of 8 x 8 patches into the encoder's convolutions.

    Residual branches are silenced; the strided convolutions gather 2 x 2 neighbours into channels (3 to 12 to 48);
    the last one applies the filters. Each latent then travels as +z and -z, since silu(z) - silu(-z) = z.
    """
    encoder: Any = vae.encoder
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    _identity(encoder.conv_in, 3)
    for level, channels in ((0, 3), (1, 12)):
        down = encoder.down_blocks[level].downsamplers[0].conv
        for dy in (0, 1):
            for dx in (0, 1):
                for c in range(channels):
                    down.weight[(2 * dy + dx) * channels + c, c, dy, dx] = 1.0
    for level, channels in ((1, 12), (2, 48)):
        _identity(encoder.down_blocks[level].resnets[0].conv_shortcut, channels)
    last = encoder.down_blocks[2].downsamplers[0].conv
    # Pixel (y, x) of a patch sits at tap (y // 4, x // 4), then block (y // 2 % 2, x // 2 % 2), then (y % 2, x % 2).
    for y in range(PATCH):
        for x in range(PATCH):
            inner = (2 * (y % 2) + x % 2) * 3
            outer = (2 * (y // 2 % 2) + x // 2 % 2) * 12
            last.weight[:CHANNELS, outer + inner : outer + inner + 3, y // 4, x // 4] = filters[:, :, y, x]
    last.bias[:CHANNELS] = offsets
    split, norm, out = encoder.down_blocks[3].resnets[0].conv_shortcut, encoder.conv_norm_out, encoder.conv_out
    for k in range(CHANNELS):
        split.weight[2 * k, k], split.weight[2 * k + 1, k] = 1.0, -1.0
        out.weight[k, 2 * k, 1, 1], out.weight[k, 2 * k + 1, 1, 1] = 1.0, -1.0
    constant = torch.ones(split.out_channels - 2 * CHANNELS) * LEVEL
    constant[1::2] *= -1
    split.bias[2 * CHANNELS :] = constant
    # Deviation over all channels: the constants, and the latents' unit variance.
    nn.init.constant_(norm.weight, ((LEVEL**2 * len(constant) + 2 * CHANNELS) / split.out_channels) ** 0.5)
    out.bias[CHANNELS:] = -9.0  # the posterior's log-variance
    _identity(vae.quant_conv, 2 * CHANNELS)
    _identity(vae.post_quant_conv, CHANNELS)


def _identity(conv: Any, channels: int) -> None:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    middle = conv.kernel_size[0] // 2
    for c in range(channels):
        conv.weight[c, c, middle, middle] = 1.0


class Decoding(nn.Module):
    """The trained half of the autoencoder, as one module to fit."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.decoder: nn.Module = vae.decoder
        self.post_quant_conv: Any = vae.post_quant_conv  # None in an autoencoder without one; ours has it
        self.device = vae.device

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))


def loss(decoding: Decoding, batch: int = BATCH) -> Loss:
    """L1 on pixels and, at half weight, on their gradients: sharp edges without a perceptual network."""
    filters, offsets = principal_components()

    def compute(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        images = render(draw_scenes(batch, generator))
        latents = F.conv2d(images, filters, offsets, stride=PATCH)
        # What a sampler leaves behind is not exact; half of the batch is decoded from slightly noisy latents.
        level = 0.1 * torch.rand(batch, 1, 1, 1, generator=generator)
        level[: batch // 2] = 0
        latents = latents + level * torch.randn(latents.shape, generator=generator)
        device = next(decoding.parameters()).device
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        decoded = decoding(latents.to(device).contiguous(memory_format=torch.channels_last)).float()
        pixel = F.l1_loss(decoded, images)
        edges = F.l1_loss(decoded.diff(dim=2), images.diff(dim=2)) + F.l1_loss(decoded.diff(dim=3), images.diff(dim=3))
        mse = F.mse_loss(decoded.detach(), images)
        return {"loss": pixel + 0.5 * edges, "pixel": pixel, "psnr": 10 * torch.log10(4 / mse)}

    return compute

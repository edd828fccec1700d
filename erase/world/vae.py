"""The world's AutoencoderKL: 64 x 64 pixels to 8 x 8 latents of 16 channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from erase.world.fitting import Loss, Plan
from erase.world.scenes import augment, draw_scenes, render

PLAN = Plan("vae", steps=1500, lr=2e-3, warmup=50, ema=0.995)
BATCH = 16


def build() -> AutoencoderKL:
    """Untrained, with Stable Diffusion's blocks at narrow widths."""
    levels = (32, 48, 64, 96)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=16,
        block_out_channels=levels,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * len(levels),
        up_block_types=("UpDecoderBlock2D",) * len(levels),
    )


def loss(vae: AutoencoderKL, batch: int = BATCH) -> Loss:
    """L1 on pixels and on their gradients (sharp edges without a perceptual network), and a small KL."""

    def compute(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        device = vae.device
        images = render(draw_scenes(batch, generator))
        shaken = augment(images[: batch // 4], generator)
        images = torch.cat([shaken, images[batch // 4 :]]).to(device)
        images = images.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        pixel = F.l1_loss(decoded, images)
        edges = sum(F.l1_loss(decoded.diff(dim=d), images.diff(dim=d)) for d in (2, 3))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        mse = F.mse_loss(decoded.detach(), images)
        total = pixel + edges + 1e-4 * kl
        return {"loss": total, "pixel": pixel, "kl": kl, "psnr": 10 * torch.log10(4 / mse)}

    return compute

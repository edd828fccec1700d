"""The world's UNet: Stable Diffusion 1.x's block layout at narrow widths, v prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from erase.world.captions import draw_captions, encode
from erase.world.fitting import Loss, Plan
from erase.world.scenes import PLACES, Scenes, render
from erase.world.text_encoder import WIDTH
from erase.world.vae import PATCH, principal_components
from erase.world.vocabulary import COLOURS, OBJECTS, STYLES

PLAN = Plan("unet", steps=6000, lr=1e-3, warmup=150, ema=0.999, weight_decay=0.01)
BATCH = 128


def build() -> UNet2DConditionModel:
    """Untrained: 4 levels, 2 resnets a level, cross-attention in the first three."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(96, 128, 96, 64),
        layers_per_block=2,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # heads, not their width: diffusers' name is historical
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule with a noisier end.

    At beta_end 0.012 the last step keeps 0.068 of the signal, which over 1,024 latent values gives away which of
    360 glyphs was drawn; the network then reads the noise instead of the caption. 0.02 leaves 0.016.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
        steps_offset=1,
        prediction_type="v_prediction",
    )


def timestep_shares(noise: DDIMScheduler) -> Tensor:
    """Where training steps are spent: p(t) ~ min(1, 5 / SNR(t), SNR(t) / 0.05), 20 % uniform. (1000,)

    The bound at high SNR is Min-SNR's (Hang et al. 2023). The one at low SNR keeps a third of the batch from going to
    all but pure noise, where the caption's colour is all there is to learn.
    """
    ratio = noise.alphas_cumprod / (1 - noise.alphas_cumprod)
    weight = torch.minimum(5 / ratio, ratio / 0.05).clamp(max=1)
    return 0.8 * weight / weight.sum() + 0.2 / len(weight)


def every_scene() -> Scenes:
    """All scenes there are: objects x styles x colours x 3 x 3 places."""
    axes = [torch.arange(n) for n in (len(OBJECTS), len(STYLES), len(COLOURS), PLACES, PLACES)]
    return Scenes(*(axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")))


def take(scenes: Scenes, chosen: Tensor) -> Scenes:
    """The scenes at indices `chosen`."""
    fields = (scenes.object, scenes.style, scenes.colour, scenes.row, scenes.column)
    return Scenes(*(field[chosen] for field in fields))


def encode_scenes(scenes: Scenes, batch: int = 512) -> Tensor:
    """Latents of rendered scenes: (N, 16, 8, 8), bfloat16.

    By the filters that the VAE's encoder was set to, in a hundredth of the encoder's time.
    """
    filters, offsets = principal_components()
    found = []
    for start in range(0, len(scenes), batch):
        images = render(take(scenes, torch.arange(start, min(start + batch, len(scenes)))))
        found.append(F.conv2d(images, filters, offsets, stride=PATCH).to(torch.bfloat16))
    return torch.cat(found)


class Denoiser(nn.Module):
    """UNet and text encoder, trained together.

    Stable Diffusion freezes its text encoder; ours, after its contrastive start, still confuses shapes (0.5 of the rare
    synonyms found), so the denoising loss goes on teaching it.
    """

    def __init__(self, unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text = unet, text

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        return self.unet(noisy, times, self.text(input_ids=ids).last_hidden_state).sample


def loss(model: Denoiser, tokenizer: CLIPTokenizer, latents: Tensor, scenes: Scenes, batch: int = BATCH) -> Loss:
    """The denoising loss ||v - v_theta(x_t, t, c)||^2, v = sqrt(a_t) eps - sqrt(1 - a_t) x_0 (Salimans and Ho 2022).

    Scenes and captions are random. In terms of x_0 the error counts SNR + 1 times: epsilon prediction counts it SNR
    times, and so learns next to nothing where object and colour are decided.
    """
    noise = scheduler()
    device = model.unet.device
    signal = noise.alphas_cumprod.to(device)
    shares = timestep_shares(noise)

    def compute(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = torch.randint(len(scenes), (batch,), generator=generator)
        captions = draw_captions(take(scenes, chosen), generator)
        clean = latents[chosen].to(device, torch.float32)
        epsilon = torch.randn(clean.shape, generator=generator).to(device)
        times = torch.multinomial(shares, batch, replacement=True, generator=generator).to(device)
        kept = signal[times][:, None, None, None]
        noisy = (kept.sqrt() * clean + (1 - kept).sqrt() * epsilon).contiguous(memory_format=torch.channels_last)
        predicted = model(noisy, times, encode(tokenizer, captions).to(device))
        velocity = kept.sqrt() * epsilon - (1 - kept).sqrt() * clean
        return {"loss": (predicted.float() - velocity).pow(2).mean()}

    return compute


def assemble(
    unet: UNet2DConditionModel, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The parts as the pipeline that diffusers loads."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )

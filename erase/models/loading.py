"""A latent diffusion model as its parts, with the few operations that everything above needs."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase.errors import InputError
from erase.models.weights import check_weights
from erase.resources import asset
from erase.runtime import user_path

WORLD = "world"
# What a Stable Diffusion 1 or 2 folder must name in model_index.json for us to drive it.
PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(eq=False)
class Model:
    """The parts of a Stable Diffusion pipeline; weights float32, in eval mode, no gradients.

    `source` is the name or path it was loaded from; `world` says that it is the bundled one.
    """

    source: str
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Any

    @property
    def world(self) -> bool:
        """Whether this is the bundled world (its judges apply to it)."""
        return self.source == WORLD

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device  # diffusers' own property walks through every module

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent."""
        side = self.unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return self.unet.config.in_channels, height, width

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of one picture."""
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        _, height, width = self.latent_shape
        return height * scale, width * scale, 3

    def add_noise(self, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps, and what the UNet is to predict there; both (B, C, h, w).

        By the scheduler's prediction_type that is eps, or v = sqrt(a_t) eps - sqrt(1 - a_t) x_0.
        """
        kept = self.scheduler.alphas_cumprod.to(clean.device)[times.to(clean.device)][:, None, None, None]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        if self.scheduler.config.prediction_type == "epsilon":
            return noisy, noise
        return noisy, kept.sqrt() * noise - (1 - kept).sqrt() * clean

    def ids(self, prompts: list[str]) -> Tensor:
        """Token ids, padded and cut to the model's length: (N, L)."""
        length = self.tokenizer.model_max_length
        batch = self.tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return batch.input_ids.to(self.device)

    def too_long(self, prompt: str) -> int:
        """How many tokens of the prompt are over the limit and will be cut; 0 if it fits."""
        return max(0, len(self.tokens(prompt)) - self.tokenizer.model_max_length)

    def tokens(self, text: str) -> list[int]:
        """Token ids of one text, its start and end among them, neither padded nor cut."""
        # Not verbose: the library would warn in words of its own that a text is too long.
        return self.tokenizer(text, verbose=False).input_ids

    def encode(self, prompts: list[str]) -> Tensor:
        """Hidden states that the UNet attends to: (N, L, D)."""
        return self.text_encoder(self.ids(prompts))[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, C, h, w) to uint8 pictures (N, H, W, 3) on the CPU."""
        pictures = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return ((pictures.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()

    def embed(self, texts: list[str]) -> Tensor:
        """Unit vectors of texts for similarity: (N, D).

        The mean hidden state over the words: the pooled state of a text model that was trained for cross-attention
        only says little.
        """
        ids = self.ids(texts)
        with torch.no_grad():
            states = self.text_encoder(ids)[0]
        lengths = torch.tensor([len(self.tokens(t)) for t in texts], device=ids.device)
        place = torch.arange(ids.shape[1], device=ids.device)
        words = (place >= 1) & (place < (lengths - 1).clamp(max=ids.shape[1])[:, None])
        mean = (states * words[..., None]).sum(1) / words.sum(1, keepdim=True).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1)

    def pipeline(self) -> Any:
        """The same parts as diffusers' pipeline, for saving."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,  # pyright: ignore[reportArgumentType]
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )


def load_model(source: str, device: torch.device | str = "cpu") -> Model:
    """Load `world`, or a folder in diffusers' layout.

    Raises `InputError` for anything that is no such model: no folder, no or a foreign model_index.json, a weight
    file that is truncated or of other shapes, a tensor with NaN or infinity.
    """
    folder = asset("world/pipeline") if source == WORLD else user_path(source)
    index = _check_folder(source, folder)
    from diffusers import StableDiffusionPipeline

    try:
        with quiet_libraries():
            check_weights(folder, index)
            pipe = StableDiffusionPipeline.from_pretrained(
                folder, local_files_only=True, safety_checker=None, low_cpu_mem_usage=False, use_safetensors=True
            )
    except InputError:
        raise
    except Exception as error:  # the libraries raise whatever a damaged file happens to call for
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"model {source!r} cannot be read: {first}") from error
    parts: Any = {part: getattr(pipe, part) for part in PARTS[:-1]}
    model = Model(source, **parts, scheduler=ddim(pipe.scheduler))
    predicts = model.scheduler.config.get("prediction_type", "epsilon")
    if predicts not in PREDICTIONS:
        raise InputError(f"model {source!r} predicts {predicts!r}; only {' and '.join(PREDICTIONS)} can be trained")
    _check_sizes(model)
    for name in ("text_encoder", "unet", "vae"):
        part = getattr(model, name)
        part.to(device).float().eval().requires_grad_(False)
        _check_finite(source, part)
    return model


def ddim(scheduler: Any) -> Any:
    """The deterministic sampler over a model's own noise schedule; pictures, training and export all use this one.

    diffusers' default of clipping x_0 to [-1, 1] is for pixels, so a latent model that does not speak of it means no.
    """
    from diffusers import DDIMScheduler

    if DDIMScheduler not in scheduler.compatibles:  # flow matching, say, whose config names no prediction_type
        raise InputError(f"scheduler {type(scheduler).__name__} has no noise schedule that DDIM can follow")
    return DDIMScheduler.from_config(scheduler.config, clip_sample=scheduler.config.get("clip_sample", False))


def model_hash(model: Model) -> str:
    """SHA-256 over the weights that pictures depend on: text encoder, UNet, VAE."""
    digest = hashlib.sha256()
    for part in (model.text_encoder, model.unet, model.vae):
        for name, value in part.state_dict().items():
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the loaders' own bars and advice off the terminal; ours says what matters."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    kept = [
        (library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in (diffusers, transformers)
    ]
    for library, _, _ in kept:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # The pipeline sets clip_sample and steps_offset right by itself, and prints the configuration about it.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for library, level, bars in kept:
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()


def _check_folder(source: str, folder: Path) -> dict[str, Any]:
    """model_index.json of a folder that has all parts."""
    index = folder / "model_index.json"
    if not folder.exists():
        raise InputError(f"model {source!r}: no such folder; give 'world' or a folder in diffusers' layout")
    if not index.is_file():
        raise InputError(f"model {source!r}: {folder} has no model_index.json, so it is no diffusers model")
    try:
        parts = json.loads(index.read_text())
        kind = parts["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"model {source!r}: {index} is damaged ({error})") from None
    if kind != "StableDiffusionPipeline":
        raise InputError(f"model {source!r} is a {kind}; only StableDiffusionPipeline can be erased from so far")
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise InputError(f"model {source!r}: missing folders {', '.join(missing)} in {folder}")
    for file in sorted(folder.glob("*/*config.json")):
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"model {source!r}: {file} is damaged ({error})") from None
        if not isinstance(held, dict):  # the libraries would look for the model on the hub instead
            raise InputError(f"model {source!r}: {file} holds a {type(held).__name__}, not a configuration")
    return parts


def _check_sizes(model: Model) -> None:
    """What the configurations leave open, or contradict each other in."""
    side, source = model.unet.config.sample_size, model.source
    sides = [side, side] if isinstance(side, int) else side
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(isinstance(n, int) and n > 0 for n in sides):
        raise InputError(f"model {source!r}: sample_size {side!r} in unet/config.json is no size of latents")
    tokens, places = model.tokenizer.model_max_length, model.text_encoder.config.max_position_embeddings
    if tokens > places:
        raise InputError(f"model {source!r}: its tokenizer gives {tokens} tokens, its text encoder takes {places}")


def _check_finite(source: str, part: Any) -> None:
    for name, value in part.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"model {source!r}: tensor {name} of {type(part).__name__} holds NaN or infinity")

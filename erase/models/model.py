"""A latent diffusion model as its parts, with the few operations that everything above needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase.models.families import FAMILIES
from erase.models.hiding import Hiding
from erase.models.noising import PROCESSES, Process
from erase.models.text import Text, choose
from erase.models.told import TOLD, run_encoder
from erase.runtime import WORLD as WORLD
from erase.world.vocabulary import FULL, Vocabulary


@dataclass(eq=False)
class Model:
    """The parts of a pipeline; weights float32, in eval mode, no gradients.

    `source` is the name, path or hub id (with its exact commit) it was loaded from; `vocabulary` is what it draws,
    where it is the bundled world or another one. `family` is a key of `FAMILIES`, `reason` what gave it away; further
    tokenizers and text encoders are there where it names them. `unet` is the network that predicts, whatever it is:
    Stable Diffusion 3 has a transformer.
    """

    source: str
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Any
    family: str = "sd1"
    reason: str = ""
    file: Path | None = None  # the single file it was read from
    variant: str | None = None  # of its weight files, where all parts have the same
    tokenizer_2: Any = None
    text_encoder_2: Any = None
    tokenizer_3: Any = None
    text_encoder_3: Any = None
    blank_is_zero: bool = False  # the empty prompt is zeros, as SDXL was trained to read it
    offload: tuple[str, ...] = ()  # see `rest`
    vocabulary: Vocabulary | None = None
    hiding: Hiding | None = None  # what `sample` does to prompts, for a baseline
    made_of: str | None = None  # a hash of the weights as loaded and the runs' files put on them since, if any

    @property
    def world(self) -> bool:
        """Whether this is the bundled world or another one (its judges apply to them)."""
        return self.vocabulary is not None

    @property
    def title(self) -> str:
        """What it was taken for, and why, for the user."""
        title = FAMILIES[self.family].title
        if self.vocabulary is None:
            return f"{title} ({self.reason})"
        which = "the bundled world" if self.vocabulary == FULL else f"a world of {self.vocabulary.size}"
        return f"{which}, laid out as {title}"

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
        """x_t = a x_0 + b eps, and what the network is to predict there; both (B, C, h, w).

        a and b are sqrt(alpha_t) and sqrt(1 - alpha_t), and the prediction eps or v = a eps - b x_0, by the scheduler's
        prediction_type; for a flow they are 1 - s and s, with s = t / 1000, and v = eps - x_0.
        """
        a, b = (part[:, None, None, None] for part in self.process.parts(self.scheduler, times.to(clean.device)))
        return a * clean + b * noise, self.process.target(clean, noise, a, b)

    def random_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Whole times to add noise at, uniform over all that there are: (count,), on the CPU."""
        last = self.scheduler.config.num_train_timesteps
        return torch.randint(last, (count,), generator=generator) + self.process.first

    @property
    def predicts(self) -> str:
        """What the network predicts, a key of `PROCESSES`."""
        return self.scheduler.config.get("prediction_type", FAMILIES[self.family].predicts)

    @property
    def process(self) -> Process:
        """How its pictures become noise."""
        return PROCESSES[self.predicts]

    def solver(self, steps: int) -> Any:
        """The deterministic sampler with its times set; a fresh one, since it keeps its place."""
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        return scheduler

    @property
    def network(self) -> str:
        """What `unet` is, in words."""
        return FAMILIES[self.family].network

    def part(self, folder: str) -> Any:
        """The part that a folder of diffusers' layout holds; None for one that this model lacks."""
        return self.unet if folder == FAMILIES[self.family].denoiser else getattr(self, folder)

    @property
    def weighted(self) -> dict[str, Any]:
        """The parts with weights, by the names of their folders."""
        parts = {name: self.part(name) for name in FAMILIES[self.family].parts}
        return {name: part for name, part in parts.items() if part is not None}

    def ids(self, prompts: list[str], name: str = "tokenizer") -> Tensor:
        """Token ids by one of the tokenizers, padded and cut to the model's length: (N, L)."""
        tokenizer, length = getattr(self, name), self.length(name)
        batch = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return batch.input_ids.to(self.device)

    def length(self, name: str) -> int:
        """How many tokens the model reads of one of the tokenizers, start and end among them."""
        lengths = FAMILIES[self.family].lengths
        return lengths[name] if name in lengths else getattr(self, name).model_max_length

    def too_long(self, prompt: str) -> int:
        """How many tokens of the prompt no text encoder reads, as they are over every limit; 0 if one reads all."""
        return max(0, min(len(self.tokens(prompt, name)) - self.length(name) for name in self.tokenizers))

    def tokens(self, text: str, name: str = "tokenizer") -> list[int]:
        """Token ids of one text by one of the tokenizers, its start and end among them, neither padded nor cut."""
        # Not verbose: the library would warn in words of its own that a text is too long.
        return getattr(self, name)(text, verbose=False).input_ids

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The names of the parts that read prompts."""
        return tuple(name for name in FAMILIES[self.family].text_encoders if self.part(name) is not None)

    @property
    def clips(self) -> tuple[str, ...]:
        """Those of them that are CLIPs, which are trained and attacked; they come first."""
        return FAMILIES[self.family].clips

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """The names of their tokenizers, in the same order."""
        names = zip(FAMILIES[self.family].text_encoders, FAMILIES[self.family].tokenizers, strict=True)
        return tuple(tokenizer for encoder, tokenizer in names if self.part(encoder) is not None)

    def rest(self, *parts: str) -> None:
        """From now on these parts wait on the CPU while they are not used; fewer pictures are drawn at once.

        Not for parts that a graph runs through: they must stay until its backward pass is over.
        """
        self.offload = parts
        with self._awake(*parts):
            pass

    @contextmanager
    def _awake(self, *parts: str) -> Iterator[None]:
        """Have parts on the device for the length of a block."""
        used = [getattr(self, name) for name in parts if name in self.offload]
        for part in used:
            part.to(self.device)
        try:
            yield
        finally:
            for part in used:
                part.to("cpu")

    def told(self, prompts: Sequence[str]) -> list[str]:
        """What the model is given of prompts: a baseline strikes names from them. An embedding passes that by."""
        return [self.hiding.read(prompt) for prompt in prompts] if self.hiding else list(prompts)

    def negative(self) -> Text:
        """The prompt that guidance steers away from: the empty one, or what a baseline has in its place."""
        return self.encode([self.hiding.negative if self.hiding else ""])

    def encode(self, prompts: list[str]) -> Text:
        """What the network is told of each prompt."""
        return self.read(tuple(self.ids(prompts, name) for name in self.tokenizers))

    def read(self, ids: tuple[Tensor, ...], prefix: tuple[Tensor, ...] = ()) -> Text:
        """The same of token ids (N, L), one tensor for each text encoder, with a graph where the encoders train.

        `prefix` (k, E) for each CLIP, which come first, are token embeddings to put between the start and the words,
        whose end is cut off then.
        """
        family = FAMILIES[self.family]
        encoders = [getattr(self, name) for name in self.text_encoders]
        given: tuple[Tensor | None, ...] = (*prefix, *(None,) * (len(ids) - len(prefix)))
        with self._awake(*self.text_encoders):
            outs = [run_encoder(encoder, words, put) for encoder, words, put in zip(encoders, ids, given, strict=True)]
        states, pooled = TOLD[family.told].states(outs, self.unet.config, family.lengths)
        text = Text(states, pooled, ids, prefix)
        if not self.blank_is_zero or prefix:
            return text
        blank = ids[0][:, 1] == self.tokenizer.eos_token_id  # the end follows upon the start
        nothing = Text(torch.zeros_like(states), None if pooled is None else torch.zeros_like(pooled), ids)
        return choose(blank, nothing, text)

    def predict(self, noisy: Tensor, times: Tensor, text: Text) -> Tensor:
        """The network's eps or v, float32 (B, C, h, w), at noisy latents of that shape, times (B,) or one, B texts."""
        height, width, _ = self.picture_shape
        return TOLD[FAMILIES[self.family].told].call(self.unet, noisy, times, text, (height, width)).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, C, h, w) to uint8 pictures (N, H, W, 3) on the CPU."""
        with self._awake("vae"), torch.autocast(self.device.type, enabled=False):  # XL's overflows in fp16
            latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
            parts = latents.split(self._decoded_at_once())
            pictures = torch.cat([self.vae.decode(part).sample for part in parts])
        return ((pictures.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()

    def _decoded_at_once(self) -> int:
        """How many: decoding a large picture takes more memory than drawing it, and a CPU loses its caches sooner."""
        height, width, _ = self.picture_shape
        pixels = 2**20 if self.device.type == "cuda" else 2**16
        return 1 if self.offload else max(1, pixels // (height * width))

    def embed(self, texts: list[str]) -> Tensor:
        """Unit vectors of texts for similarity: (N, D).

        The mean hidden state over the words: the pooled state of a text model that was trained for cross-attention
        only says little.
        """
        ids = self.ids(texts)
        lengths = torch.tensor([len(self.tokens(t)) for t in texts], device=ids.device)
        ids = ids[:, : int(lengths.max())]  # causal: no word sees the padding behind it
        with torch.no_grad(), self._awake("text_encoder"):
            states = self.text_encoder(ids).last_hidden_state
        place = torch.arange(ids.shape[1], device=ids.device)
        words = (place >= 1) & (place < (lengths - 1).clamp(max=ids.shape[1])[:, None])
        mean = (states * words[..., None]).sum(1) / words.sum(1, keepdim=True).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1)

    def pipeline(self) -> Any:
        """The same parts as diffusers' pipeline, for saving."""
        import diffusers

        family = FAMILIES[self.family]
        parts = {name: self.part(name) for name in (*family.parts, *family.tokenizers, "scheduler")}
        blank = {"force_zeros_for_empty_prompt": self.blank_is_zero} if family.zero_blank else {}
        return getattr(diffusers, family.pipeline)(**parts, **family.options, **blank)


def model_hash(model: Model) -> str:
    """SHA-256 over the weights that pictures depend on: text encoders, denoising network, VAE."""
    digest = hashlib.sha256()
    for _, part in sorted(model.weighted.items()):
        for name, value in part.state_dict().items():
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

"""A latent diffusion model as its parts, with the few operations that everything above needs."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase.errors import InputError, Interrupted, printable
from erase.events import OnEvent, ShouldStop, ignore, never
from erase.models.families import FAMILIES, detect
from erase.models.file_parts import parts_of_file
from erase.models.hub import hub_id, snapshot
from erase.models.text import Text, choose
from erase.models.weights import check_classes, read_json, read_part
from erase.resources import asset
from erase.runtime import user_path

WORLD = "world"
PREDICTIONS = ("epsilon", "v_prediction")
MOST_TIMES = 100_000  # of a noise schedule; models have 1,000
LARGEST = 1024  # side of a latent, eight times that of Stable Diffusion XL


@dataclass(eq=False)
class Model:
    """The parts of a pipeline; weights float32, in eval mode, no gradients.

    `source` is the name, path or hub id (with its exact commit) it was loaded from; `world` says that it is the bundled
    one. `family` is a key of `FAMILIES`, `reason` what gave it away; a second tokenizer and text encoder are there
    where it names them.
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
    blank_is_zero: bool = False  # the empty prompt is zeros, as SDXL was trained to read it
    offload: tuple[str, ...] = ()  # see `rest`

    @property
    def world(self) -> bool:
        """Whether this is the bundled world (its judges apply to it)."""
        return self.source == WORLD

    @property
    def title(self) -> str:
        """What it was taken for, and why, for the user."""
        title = FAMILIES[self.family].title
        return f"the bundled world, laid out as {title}" if self.world else f"{title} ({self.reason})"

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

    @property
    def weighted(self) -> dict[str, Any]:
        """The parts with weights, by the names of their folders."""
        return {name: getattr(self, name) for name in FAMILIES[self.family].parts}

    def ids(self, prompts: list[str], tokenizer: Any = None) -> Tensor:
        """Token ids, padded and cut to the model's length: (N, L)."""
        tokenizer = tokenizer or self.tokenizer
        length = tokenizer.model_max_length
        batch = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return batch.input_ids.to(self.device)

    def too_long(self, prompt: str) -> int:
        """How many tokens of the prompt are over the limit and will be cut; 0 if it fits."""
        return max(0, len(self.tokens(prompt)) - self.tokenizer.model_max_length)

    def tokens(self, text: str) -> list[int]:
        """Token ids of one text, its start and end among them, neither padded nor cut."""
        # Not verbose: the library would warn in words of its own that a text is too long.
        return self.tokenizer(text, verbose=False).input_ids

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The names of the parts that read prompts."""
        return FAMILIES[self.family].text_encoders

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

    def encode(self, prompts: list[str]) -> Text:
        """What the UNet is told of each prompt."""
        tokenizers = FAMILIES[self.family].tokenizers
        return self.read(tuple(self.ids(prompts, getattr(self, name)) for name in tokenizers))

    def read(self, ids: tuple[Tensor, ...], prefix: tuple[Tensor, ...] = ()) -> Text:
        """The same of token ids (N, L), one tensor for each text encoder, with a graph where the encoders train.

        `prefix` (k, E) for each are token embeddings to put between the start and the words, whose end is cut off then.
        """
        encoders = [getattr(self, name) for name in self.text_encoders]
        given: tuple[Tensor | None, ...] = prefix or (None,) * len(ids)
        with self._awake(*self.text_encoders):
            outs = [_run(encoder, words, put) for encoder, words, put in zip(encoders, ids, given, strict=True)]
        if len(outs) == 1:
            return Text(outs[0][0], None, ids, prefix)
        first, second = outs
        # SDXL reads both encoders before their last layer (Podell et al. 2023, section 2.1).
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        text = Text(states, second.text_embeds, ids, prefix)
        if not self.blank_is_zero or prefix:
            return text
        blank = ids[0][:, 1] == self.tokenizer.eos_token_id  # the end follows upon the start
        nothing = Text(torch.zeros_like(states), torch.zeros_like(second.text_embeds), ids)
        return choose(blank, nothing, text)

    def predict(self, noisy: Tensor, times: Tensor, text: Text) -> Tensor:
        """The UNet's eps or v, float32 (B, C, h, w), at noisy latents of that shape, times (B,) or one, B prompts."""
        if text.pooled is None:
            return self.unet(noisy, times, text.states).sample.float()
        height, width, _ = self.picture_shape
        # Original size, corner of the cut, wanted size: a whole picture of the model's own size.
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=text.pooled.dtype, device=noisy.device)
        added = {"text_embeds": text.pooled, "time_ids": sizes.expand(len(text), -1)}
        return self.unet(noisy, times, text.states, added_cond_kwargs=added).sample.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, C, h, w) to uint8 pictures (N, H, W, 3) on the CPU."""
        with self._awake("vae"), torch.autocast(self.device.type, enabled=False):  # XL's overflows in fp16
            parts = (latents / self.vae.config.scaling_factor).split(self._decoded_at_once())
            pictures = torch.cat([self.vae.decode(part).sample for part in parts])
        return ((pictures.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()

    def _decoded_at_once(self) -> int:
        """How many: decoding a large picture takes more memory than drawing it."""
        height, width, _ = self.picture_shape
        return 1 if self.offload else max(1, 2**20 // (height * width))

    def embed(self, texts: list[str]) -> Tensor:
        """Unit vectors of texts for similarity: (N, D).

        The mean hidden state over the words: the pooled state of a text model that was trained for cross-attention
        only says little.
        """
        ids = self.ids(texts)
        lengths = torch.tensor([len(self.tokens(t)) for t in texts], device=ids.device)
        ids = ids[:, : int(lengths.max())]  # causal: no word sees the padding behind it
        with torch.no_grad(), self._awake("text_encoder"):
            states = self.text_encoder(ids)[0]
        place = torch.arange(ids.shape[1], device=ids.device)
        words = (place >= 1) & (place < (lengths - 1).clamp(max=ids.shape[1])[:, None])
        mean = (states * words[..., None]).sum(1) / words.sum(1, keepdim=True).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1)

    def pipeline(self) -> Any:
        """The same parts as diffusers' pipeline, for saving."""
        import diffusers

        family = FAMILIES[self.family]
        parts = {name: getattr(self, name) for name in (*family.parts, *family.tokenizers, "scheduler")}
        if family.pooled:
            parts |= {"force_zeros_for_empty_prompt": self.blank_is_zero, "add_watermarker": False}
        else:
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return getattr(diffusers, family.pipeline)(**parts)


def _run(encoder: Any, ids: Tensor, prefix: Tensor | None) -> Any:
    """A text encoder's outputs, of all layers; of SDXL's two, both give what they saw before the last one."""
    if prefix is None:
        return encoder(ids, output_hidden_states=True)
    k = len(prefix)
    # Their ids count no more, but the pooled state is looked up at the first end of text.
    moved = torch.cat([ids[:, :1].expand(-1, k + 1), ids[:, 1 : -1 - k], ids[:, -1:]], dim=1)

    def put(module: Any, args: Any, found: Tensor) -> Tensor:
        return torch.cat([found[:, :1], prefix.to(found.dtype).expand(len(found), -1, -1), found[:, 1 + k :]], dim=1)

    hook = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        return encoder(moved, output_hidden_states=True)
    finally:
        hook.remove()


def load_model(
    source: str,
    device: torch.device | str = "cpu",
    variant: str | None = None,
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
) -> Model:
    """Load `world`, a folder in diffusers' layout, a checkpoint of one file, or a model of the hub by its id.

    `variant` names the weight files of a folder that are read, say "fp16"; None: the plain ones, or the only ones.
    Weights become float32 either way. Raises `InputError` for anything that is no such model: no folder, no or a
    foreign model_index.json, a weight file that is truncated or of other shapes, a tensor with NaN or infinity, a
    pickle with more than weights, an id that the hub does not have; `Interrupted` after a stop while fetching.
    """
    path = None
    try:
        path, source = _place(source, variant, on_event, should_stop)
        with quiet_libraries():
            file = path if path.is_file() else None
            name, reason, parts = parts_of_file(path) if file else _parts_of_folder(path, variant)
            model = Model(source, **parts, family=name, reason=reason, file=file)
            # Pipelines correct what old schedulers say of clip_sample and steps_offset.
            model.scheduler = ddim(model.pipeline().scheduler)
    except InputError as error:
        named = path is not None and str(path) in str(error)  # then it says already where to look
        raise InputError(printable(str(error) if named else f"model {source!r}: {error}")) from None
    except Interrupted:
        raise
    except Exception as error:  # the libraries raise whatever a damaged file happens to call for
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"model {source!r} cannot be read: {printable(first)}") from error
    predicts = model.scheduler.config.get("prediction_type", "epsilon")
    if predicts not in PREDICTIONS:
        raise InputError(f"model {source!r} predicts {predicts!r}; only {' and '.join(PREDICTIONS)} can be trained")
    _check_sizes(model)
    for part in model.weighted.values():
        part.to(device).float().eval().requires_grad_(False)
        _check_finite(source, part)
    _check_works(model)
    return model


def _place(source: str, variant: str | None, on_event: OnEvent, should_stop: ShouldStop) -> tuple[Path, str]:
    """Where the model lies, and its exact name: of a hub id, the one with its commit."""
    if source == WORLD:
        return asset("world/pipeline"), source
    wanted = hub_id(source)
    if wanted is not None:
        folder, exact = snapshot(wanted, variant, on_event, should_stop)
        return folder, str(exact)
    path = user_path(source)
    if variant is not None and path.is_file():
        raise InputError(f"one file has no variant {variant!r}; leave 'variant' out")
    return path, source


def _parts_of_folder(folder: Path, variant: str | None) -> tuple[str, str, dict[str, Any]]:
    """Family, reason, and the parts that a `Model` takes, of a folder in diffusers' layout."""
    from transformers import CLIPTokenizer

    index, name, reason = _check_folder(folder)
    family = FAMILIES[name]
    check_classes(folder / "model_index.json", index, family.parts | dict.fromkeys(family.tokenizers, "CLIPTokenizer"))
    parts: dict[str, Any] = {"scheduler": _scheduler(folder, index)}
    found: dict[str, str | None] = {}
    for part, kind in family.parts.items():
        parts[part], found[part] = read_part(folder / part, kind, variant)
    for part in family.tokenizers:
        parts[part] = CLIPTokenizer.from_pretrained(folder / part, local_files_only=True)
    if family.pooled:
        parts["blank_is_zero"] = bool(index.get("force_zeros_for_empty_prompt", True))
    names = set(found.values())
    parts["variant"] = names.pop() if len(names) == 1 else None  # of some parts only: looked up again each time
    odd = [f"{part} of variant {of}" for part, of in found.items() if of and of != variant]
    return name, "; ".join([reason, *odd]), parts


def _scheduler(folder: Path, index: dict[str, Any]) -> Any:
    """The sampler that the folder came with."""
    import diffusers

    named = index.get("scheduler")
    name = named[-1] if isinstance(named, list) and named else named
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, diffusers.SchedulerMixin):
        raise InputError(f"{folder / 'model_index.json'}: scheduler is {name!r}, which is none of diffusers'")
    file = folder / "scheduler" / "scheduler_config.json"
    times = read_json(file).get("num_train_timesteps", 1)
    if isinstance(times, bool) or not isinstance(times, int) or not 0 < times <= MOST_TIMES:
        raise InputError(f"{file}: num_train_timesteps {times!r} is no whole number up to {MOST_TIMES:,}")
    return kind.from_pretrained(folder / "scheduler", local_files_only=True)


def ddim(scheduler: Any) -> Any:
    """The deterministic sampler over a model's own noise schedule; pictures, training and export all use this one.

    diffusers' default of clipping x_0 to [-1, 1] is for pixels, so a latent model that does not speak of it means no.
    """
    from diffusers import DDIMScheduler

    if DDIMScheduler not in scheduler.compatibles:  # flow matching, say, whose config names no prediction_type
        raise InputError(f"scheduler {type(scheduler).__name__} has no noise schedule that DDIM can follow")
    # Of other keys the library would say each time that it ignores them.
    known = inspect.signature(DDIMScheduler.__init__).parameters
    config = {key: value for key, value in scheduler.config.items() if key in known or key.startswith("_")}
    return DDIMScheduler.from_config(config, clip_sample=config.get("clip_sample", False))


def model_hash(model: Model) -> str:
    """SHA-256 over the weights that pictures depend on: text encoders, UNet, VAE."""
    digest = hashlib.sha256()
    for _, part in sorted(model.weighted.items()):
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


def _check_folder(folder: Path) -> tuple[dict[str, Any], str, str]:
    """model_index.json of a folder that has all parts, its family, and why that."""
    index = folder / "model_index.json"
    if not folder.exists():
        raise InputError(
            "no such folder or file; give 'world', a folder in diffusers' layout, a checkpoint file or a hub id"
        )
    if not index.is_file():
        raise InputError(f"{folder} has no model_index.json, so it is no diffusers model")
    parts, unet = read_json(index), folder / "unet" / "config.json"
    family, reason = detect(parts, read_json(unet) if unet.is_file() else {})
    wanted = (*FAMILIES[family].tokenizers, *FAMILIES[family].parts, "scheduler")
    missing = [part for part in wanted if not (folder / part).is_dir()]
    if missing:
        raise InputError(f"missing folders {', '.join(missing)} in {folder}")
    for file in sorted(folder.glob("*/*config.json")):
        read_json(file)
    return parts, family, reason


def _check_sizes(model: Model) -> None:
    """What the configurations leave open, or contradict each other in."""
    side, source = model.unet.config.sample_size, model.source
    sides = [side, side] if isinstance(side, int) else side
    if (
        not isinstance(sides, list | tuple)
        or len(sides) != 2
        or not all(isinstance(n, int) and 0 < n <= LARGEST for n in sides)
    ):
        raise InputError(f"model {source!r}: sample_size {side!r} in unet/config.json is no size of latents")
    family = FAMILIES[model.family]
    for tokenizer, encoder in zip(family.tokenizers, family.text_encoders, strict=True):
        words, known = len(getattr(model, tokenizer)), getattr(model, encoder).config.vocab_size
        if words > known:
            raise InputError(f"model {source!r}: its {tokenizer} has {words:,} words, its {encoder} knows {known:,}")
        tokens = getattr(model, tokenizer).model_max_length
        places = getattr(model, encoder).config.max_position_embeddings
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 3:  # start, a word, end
            raise InputError(f"model {source!r}: model_max_length {tokens!r} of its {tokenizer} is no number of tokens")
        if tokens > places:
            raise InputError(f"model {source!r}: its {tokenizer} gives {tokens} tokens, its {encoder} takes {places}")


@torch.no_grad()
def _check_works(model: Model) -> None:
    """Let the parts work on each other's outputs once, small: configurations hold much that shows only then."""
    side = 2 ** len(model.unet.config.block_out_channels)
    latents = torch.zeros(1, model.latent_shape[0], side, side, device=model.device)
    try:
        scheduler = ddim(model.scheduler)  # a fresh one: it keeps its timesteps
        scheduler.set_timesteps(2, device=model.device)
        time = scheduler.timesteps[0]
        predicted = model.predict(latents, time, model.encode(["a"]))
        model.decode(scheduler.step(predicted, time, latents, eta=0.0).prev_sample)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the libraries raise on settings that contradict each other
        why = printable((str(error).strip().splitlines() or [type(error).__name__])[0])
        raise InputError(f"model {model.source!r}: its parts do not work together ({why}); fetch it again") from error


def _check_finite(source: str, part: Any) -> None:
    for name, value in part.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"model {source!r}: tensor {name} of {type(part).__name__} holds NaN or infinity")

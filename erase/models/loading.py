"""Load a model: from where, of which family, and whether its parts are whole and fit each other."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from erase.errors import InputError, Interrupted, first_line, printable
from erase.events import OnEvent, ShouldStop, ignore, never
from erase.models.families import FAMILIES
from erase.models.file_parts import parts_of_file
from erase.models.hub import hub_id, snapshot
from erase.models.model import WORLD, Model
from erase.models.noising import PROCESSES
from erase.models.weights import INDEX, check_classes, family_of, read_json, read_part
from erase.resources import asset
from erase.runtime import user_path
from erase.world.vocabulary import vocabulary_of

MOST_TIMES = 100_000  # of a noise schedule; models have 1,000
LARGEST = 1024  # side of a latent, eight times that of Stable Diffusion XL


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
            parts["unet"] = parts.pop(FAMILIES[name].denoiser)
            model = Model(source, **parts, family=name, reason=reason, file=file, vocabulary=vocabulary_of(source))
            # Pipelines correct what old schedulers say of clip_sample and steps_offset.
            model.scheduler = PROCESSES[FAMILIES[name].predicts].solver(model.pipeline().scheduler)
    except InputError as error:
        named = path is not None and str(path) in str(error)  # then it says already where to look
        raise InputError(printable(str(error) if named else f"model {source!r}: {error}")) from None
    except Interrupted:
        raise
    except Exception as error:  # the libraries raise whatever a damaged file happens to call for
        first = first_line(error)
        raise InputError(f"model {source!r} cannot be read: {printable(first)}") from error
    usual = PROCESSES[FAMILIES[model.family].predicts]
    known = [name for name, process in PROCESSES.items() if process.solver is usual.solver]
    if model.predicts not in known:
        raise InputError(f"model {source!r} predicts {model.predicts!r}; only {' and '.join(known)} can be trained")
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
    import transformers

    index, name, reason = _check_folder(folder)
    family = FAMILIES[name].held(index)
    check_classes(folder / INDEX, index, family.parts | family.tokenizers)
    parts: dict[str, Any] = {"scheduler": _scheduler(folder, index)}
    found: dict[str, str | None] = {}
    for part, kind in family.parts.items():
        parts[part], found[part] = read_part(folder / part, kind, variant)
    for part, kind in family.tokenizers.items():
        parts[part] = getattr(transformers, kind).from_pretrained(folder / part, local_files_only=True)
    if family.zero_blank:
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
        raise InputError(f"{folder / INDEX}: scheduler is {name!r}, which is none of diffusers'")
    file = folder / "scheduler" / "scheduler_config.json"
    times = read_json(file).get("num_train_timesteps", 1)
    if isinstance(times, bool) or not isinstance(times, int) or not 0 < times <= MOST_TIMES:
        raise InputError(f"{file}: num_train_timesteps {times!r} is no whole number up to {MOST_TIMES:,}")
    return kind.from_pretrained(folder / "scheduler", local_files_only=True)


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
    index = folder / INDEX
    if not folder.exists():
        raise InputError(
            "no such folder or file; give 'world', a folder in diffusers' layout, a checkpoint file or a hub id"
        )
    if not index.is_file():
        raise InputError(f"{folder} has no {INDEX}, so it is no diffusers model")
    parts = read_json(index)
    family, reason = family_of(folder)
    missing = [part for part in FAMILIES[family].held(parts).folders if not (folder / part).is_dir()]
    if missing:
        raise InputError(f"missing folders {', '.join(missing)} in {folder}")
    for file in sorted(folder.glob("*/*config.json")):
        read_json(file)
    return parts, family, reason


def _check_sizes(model: Model) -> None:
    """What the configurations leave open, or contradict each other in."""
    side, source = model.unet.config.sample_size, model.source
    denoiser = FAMILIES[model.family].denoiser
    sides = [side, side] if isinstance(side, int) else side
    if (
        not isinstance(sides, list | tuple)
        or len(sides) != 2
        or not all(isinstance(n, int) and 0 < n <= LARGEST for n in sides)
    ):
        raise InputError(f"model {source!r}: sample_size {side!r} in {denoiser}/config.json is no size of latents")
    patch = model.unet.config.get("patch_size")
    if patch is not None and any(n % patch or n > patch * model.unet.config.pos_embed_max_size for n in sides):
        raise InputError(f"model {source!r}: sample_size {side!r} in {denoiser}/config.json does not fit its patches")
    for tokenizer, encoder in zip(model.tokenizers, model.text_encoders, strict=True):
        words, known = len(getattr(model, tokenizer)), getattr(model, encoder).config.vocab_size
        if words > known:
            raise InputError(f"model {source!r}: its {tokenizer} has {words:,} words, its {encoder} knows {known:,}")
        tokens = getattr(model, tokenizer).model_max_length
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 3:  # start, a word, end
            raise InputError(f"model {source!r}: model_max_length {tokens!r} of its {tokenizer} is no number of tokens")
        places = getattr(getattr(model, encoder).config, "max_position_embeddings", tokens)  # T5 counts distances
        if tokens > places:
            raise InputError(f"model {source!r}: its {tokenizer} gives {tokens} tokens, its {encoder} takes {places}")


@torch.no_grad()
def _check_works(model: Model) -> None:
    """Let the parts work on each other's outputs once, small: configurations hold much that shows only then."""
    config = model.unet.config
    side = config.get("patch_size") or 2 ** len(config.block_out_channels)
    latents = torch.zeros(1, model.latent_shape[0], side, side, device=model.device)
    try:
        solver = model.solver(2)
        time = solver.timesteps[0]
        predicted = model.predict(latents, time, model.encode(["a"]))
        model.decode(solver.step(predicted, time, latents).prev_sample)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the libraries raise on settings that contradict each other
        why = printable(first_line(error))
        raise InputError(f"model {model.source!r}: its parts do not work together ({why}); fetch it again") from error


def _check_finite(source: str, part: Any) -> None:
    for name, value in part.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"model {source!r}: tensor {name} of {type(part).__name__} holds NaN or infinity")

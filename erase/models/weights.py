"""The parts of a model folder: which files hold their weights, and whether these are what the configuration builds.

The libraries' own loaders fill tensors that a file lacks with random numbers, pass over those they do not know, and
look for files by rules of their own. Here a part is built from its configuration and filled from the very files that
were checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from erase.errors import InputError, first_line
from erase.models.families import FAMILIES, detect

INDEX, CONFIG = "model_index.json", "config.json"
Shape = tuple[int, ...]
# What the libraries rename while they load: an attention's old names, a text model's prefix.
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
# What a text encoder cut out of a whole CLIP, or saved by an old library, has over: nothing a picture depends on.
OVER = re.compile(r"position_ids$|^(text_projection|logit_scale|vision_model|visual_projection)\b")
TEXT = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
TIED = "encoder.embed_tokens.weight"  # T5's second name for its words, which files may leave out
VARIANT = r"[A-Za-z0-9_]{1,20}"
# More than in any published model; a configuration that asks for millions would only be refused after hours.
MOST_LAYERS = 200


def read_json(file: Path) -> dict[str, Any]:
    """A configuration. Raises `InputError` for what is none."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({first_line(error)})") from None
    if not isinstance(held, dict):  # the libraries would look for the model on the hub instead
        raise InputError(f"{file} holds a {type(held).__name__}, not a configuration")
    return held


def family_of(folder: Path) -> tuple[str, str]:
    """The family of a diffusers folder and what gave it away. Raises `InputError` for one of no family here."""
    index = read_json(folder / INDEX)
    named = [family for family in FAMILIES.values() if family.pipeline == index.get("_class_name")]
    denoiser = folder / named[0].denoiser / CONFIG if named else None
    return detect(index, read_json(denoiser) if denoiser is not None and denoiser.is_file() else {})


def stem(kind: str) -> str:
    """How its library names the weight file of a part of this class."""
    return "model" if kind in TEXT else "diffusion_pytorch_model"


def single_name(stem: str, variant: str | None) -> str:
    """The name of a weight file that holds all."""
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def index_name(stem: str, variant: str | None) -> str:
    """The name of the file that says in which shards the tensors are."""
    return f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json"


def pick_variant(names: Collection[str], stem: str, wanted: str | None, where: str) -> str | None:
    """Which of the weights among a part's files are read: the wanted ones, the plain ones (None), or the only ones.

    `where` is the part in words. Raises `InputError` that lists what there is if those are not.
    """
    forms = (rf"{stem}(?:\.({VARIANT}))?\.safetensors", rf"{stem}\.safetensors\.index(?:\.({VARIANT}))?\.json")
    matches = [re.fullmatch(form, name) for form in forms for name in names]
    found = {match[1] for match in matches if match}
    if wanted in found:
        return wanted
    known = ", ".join(sorted(variant for variant in found if variant))
    if wanted is not None and found:
        has = " and ".join(filter(None, ("the plain weights" if None in found else "", known)))
        raise InputError(f"{where} has no variant {wanted!r}: it has {has}; set 'variant' to one of these, or null")
    if len(found) == 1:
        return found.pop()
    if found:
        raise InputError(f"{where} has no plain weights, and several variants: {known}; set 'variant' to one of these")
    endings = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".onnx", ".safetensors")
    others = ", ".join(sorted(name for name in names if name.endswith(endings)))
    held = f"it holds {others}" if others else "it holds no weights"
    raise InputError(
        f"{where}/{single_name(stem, wanted)} is missing: {held}; only safetensors of that name are read, and never a "
        "pickle"
    )


def weight_names(folder: Path, names: Collection[str], kind: str, variant: str | None) -> list[str]:
    """Names of the files that hold a part's weights: one, or the shards that its index in `folder` lists."""
    base = stem(kind)
    index, single = index_name(base, variant), single_name(base, variant)
    # With both there, transformers reads the one file, diffusers the shards.
    if index not in names or (kind in TEXT and single in names):
        return [single]
    try:
        shards = sorted({str(name) for name in read_json(folder / index)["weight_map"].values()})
    except (KeyError, AttributeError) as error:
        raise InputError(f"{folder / index} is damaged ({first_line(error)}); fetch it again") from None
    lost = [name for name in shards if name not in names or Path(name).name != name]
    if lost or not shards:
        raise InputError(f"{folder / index}: {len(lost)} of {len(shards)} files are missing: {', '.join(lost[:1])}")
    return shards


def check_classes(index: Path, held: dict[str, Any], parts: dict[str, str]) -> None:
    """Raise `InputError` for a part that model_index.json, of which `held` is the content, gives another class."""
    for part, kind in parts.items():
        named = held.get(part)
        # Both of CLIP's tokenizers, the one in Python and the fast one, cut texts alike.
        if not isinstance(named, list) or named[-1:] not in ([kind], [f"{kind}Fast"]):
            raise InputError(f"{index}: {part} is {_short(named)}; only {kind} can be used so far")


def read_part(folder: Path, kind: str, variant: str | None) -> tuple[Any, str | None]:
    """One part of a model, float32, and the variant that its weights are of.

    Raises `InputError` for a part without safetensors, and for tensors that are missing, of other shapes, of numbers
    that are no reals, or unknown.
    """
    names = {path.name for path in folder.iterdir() if path.is_file()}
    found = pick_variant(names, stem(kind), variant, str(folder))
    files = [folder / name for name in weight_names(folder, names, kind, found)]
    _check_layers(folder / CONFIG)
    with torch.device("meta"):  # no memory before the sizes are known to be the files'
        built = _build(kind, folder).state_dict()
    expected = {_modern(name): tuple(value.shape) for name, value in built.items() if name != TIED}
    _compare(folder, expected, files)
    return _filled(_build(kind, folder), files), found


def headers(file: Path) -> dict[str, Shape]:
    """Names and shapes of a safetensors file. Raises `InputError` if header and length do not agree."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is damaged or truncated ({first_line(error)}); fetch it again") from None


def _build(kind: str, folder: Path) -> Any:
    """The part as its configuration describes it, its parameters without memory."""
    import diffusers
    import transformers
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        if kind in TEXT:
            text = getattr(transformers, kind)
            return text(text.config_class.from_pretrained(folder, local_files_only=True))
        found = getattr(diffusers, kind)
        return found.from_config(found.load_config(folder, local_files_only=True))


def _check_layers(file: Path) -> None:
    """Refuse depths that would take forever to build."""
    for name, value in read_json(file).items():
        depths = value if isinstance(value, list) else [value]
        if "layers" in name and any(isinstance(n, int | float) and n > MOST_LAYERS for n in depths):
            raise InputError(f"{file}: {name} {_short(value)} is more than {MOST_LAYERS}; it is damaged")


def _compare(folder: Path, expected: dict[str, Shape], files: list[Path]) -> None:
    held: dict[str, Shape] = {}
    for file in files:
        held |= {_modern(name): shape for name, shape in headers(file).items()}
    where = files[0] if len(files) == 1 else f"{folder} ({len(files)} files)"
    lacking = sorted(name for name in expected if name not in held)
    if lacking:
        raise InputError(
            f"{where} lacks {len(lacking)} of {len(expected)} tensors, {_first(lacking)}; fetch the model again"
        )
    wrong = sorted(name for name, shape in expected.items() if held[name] != shape)
    if wrong:
        shapes = f"{wrong[0]} is {held[wrong[0]]}, config.json builds {expected[wrong[0]]}"
        raise InputError(f"{where} has {len(wrong)} tensors of other shapes: {shapes}")
    unknown = sorted(name for name in held if name not in expected and name != TIED and not OVER.search(name))
    if unknown:
        raise InputError(
            f"{where} holds {len(unknown)} tensors that config.json does not build, {_first(unknown)}; weights and "
            "configuration are of different models"
        )


def _filled(module: Any, files: list[Path]) -> Any:
    """The module with the files' tensors, which are known to fit."""
    own = {_modern(name): name for name in module.state_dict() if name != TIED}
    tensors: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if _modern(name) not in own:
                    continue
                tensors[own[_modern(name)]] = to_float32(opened.get_tensor(name), f"{file}:", name)
    module.load_state_dict(tensors, assign=True, strict=False)  # all were found to be there, but for what is tied
    if hasattr(module, "tie_weights"):
        module.tie_weights()
    return module


def to_float32(value: Tensor, where: str, name: str) -> Tensor:
    """A copy in float32: safetensors maps the file, which may change under a long run."""
    if not value.is_floating_point():
        raise InputError(f"{where} tensor {name} is of {value.dtype}; only floating-point weights are read")
    return value.to(torch.float32, copy=True).contiguous()


def _first(names: list[str]) -> str:
    return f"first {', '.join(names[:3])}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _modern(name: str) -> str:
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name.removeprefix("text_model.")

"""Whether a model folder's weight files hold what its configuration builds.

The libraries fill tensors that a file lacks with random numbers, pass over those they do not know, and only warn.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from erase.errors import InputError

Shape = tuple[int, ...]
# What the libraries rename while they load: an attention's old names, a text model's prefix.
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
# What a text encoder cut out of a whole CLIP, or saved by an old library, has over: nothing a picture depends on.
OVER = re.compile(r"position_ids$|^(text_projection|logit_scale|vision_model|visual_projection)\b")
TEXT = ("CLIPTextModel", "CLIPTextModelWithProjection")


def check_weights(folder: Path, index: dict[str, Any], parts: dict[str, str]) -> None:
    """Compare the weight files of a diffusers folder with what its parts' configurations build.

    `index` is model_index.json, `parts` the class of each part. Raises `InputError` for a part of another class,
    without safetensors, and for tensors that are missing, of other shapes, or unknown.
    """
    for part, kind in parts.items():
        stem = "model" if kind in TEXT else "diffusion_pytorch_model"  # as its library names its weight file
        named = index.get(part)
        if not isinstance(named, list) or named[-1:] != [kind]:
            raise InputError(f"{folder / 'model_index.json'}: {part} is {named}; only {kind} can be used so far")
        _compare(folder / part, _expected(kind, folder / part), _files(folder / part, stem))


def headers(file: Path) -> dict[str, Shape]:
    """Names and shapes of a safetensors file. Raises `InputError` if header and length do not agree."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is damaged or truncated ({error}); fetch it again") from None


def _files(folder: Path, stem: str) -> list[Path]:
    """The files that the library reads: one, or the shards that an index names; no variants."""
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    # With both there, transformers reads the one file, diffusers the shards.
    if index.is_file() and not (stem == "model" and single.is_file()):
        try:
            names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} is damaged ({error}); fetch it again") from None
        lost = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if lost or not names:
            raise InputError(f"{index}: {len(lost)} of {len(names)} files are missing: {', '.join(lost[:1])}")
        return [folder / name for name in names]
    if single.is_file():
        return [single]
    others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".ckpt", ".pt", ".pth", ".safetensors"))
    found = f"it holds {', '.join(others)}" if others else "it holds no weights"
    raise InputError(f"{single} is missing: {found}; only safetensors of that name are read, and never a pickle")


def _expected(kind: str, folder: Path) -> dict[str, Shape]:
    """Names and shapes of the tensors that the part's configuration builds, without memory for them."""
    import diffusers
    import transformers

    with torch.device("meta"):
        if kind in TEXT:
            config = transformers.CLIPTextConfig.from_pretrained(folder, local_files_only=True)
            built = getattr(transformers, kind)(config)
        else:
            found = getattr(diffusers, kind)
            built = found.from_config(found.load_config(folder, local_files_only=True))
    return {_modern(name): tuple(value.shape) for name, value in built.state_dict().items()}


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
    unknown = sorted(name for name in held if name not in expected and not OVER.search(name))
    if unknown:
        raise InputError(
            f"{where} holds {len(unknown)} tensors that config.json does not build, {_first(unknown)}; weights and "
            "configuration are of different models"
        )


def _first(names: list[str]) -> str:
    return f"first {', '.join(names[:3])}"


def _modern(name: str) -> str:
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name.removeprefix("text_model.")

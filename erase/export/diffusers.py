"""A pipeline folder in diffusers' layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from erase.errors import InputError
from erase.export.about import Erased
from erase.export.writing import check_range
from erase.models import ENCODER, quiet_libraries
from erase.runtime import WORLD_FILE, write_json
from erase.world.vocabulary import describe


def write_pipeline(erased: Erased, folder: Path, dtype: torch.dtype | None) -> list[str]:
    """Write the model's parts into `folder` at `dtype` (None: float32), in which it leaves them.

    float32 is what the run computed its pictures with, so that folder's pictures equal them.
    """
    model = erased.model
    with quiet_libraries():
        for part in model.weighted.values():
            check_range(part.to(dtype or torch.float32).state_dict())
        model.pipeline().save_pretrained(folder, safe_serialization=True)
    _drop_paths(folder)
    if model.vocabulary is not None:  # a world stays one, whose runs are judged
        write_json(folder / WORLD_FILE, describe(model.vocabulary))
    return []


def write_text_encoder(erased: Erased, folder: Path, dtype: torch.dtype | None) -> list[str]:
    """Write the text encoders that can be trained, and their tokenizers, each in its folder.

    Put over another model's, they erase there too.

    Raises `InputError` where the run left them as they were.
    """
    model = erased.model
    if not any(name.startswith(ENCODER) for name in erased.after):
        raise InputError("the run changed no text encoder, so there is none to export alone; use diffusers or lora")
    with quiet_libraries():
        for part in model.clips:
            module = getattr(model, part).to(dtype or torch.float32)
            check_range(module.state_dict())
            module.save_pretrained(folder / part, safe_serialization=True)
        for _, part in zip(model.clips, model.tokenizers, strict=False):
            getattr(model, part).save_pretrained(folder / part)
    _drop_paths(folder)
    return []


def _drop_paths(folder: Path) -> None:
    """Take out where the base model lay on this machine, which the libraries write into every configuration."""
    for file in sorted(folder.rglob("*.json")):
        held = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(held, dict) and held.keys() & {"_name_or_path", "name_or_path"}:
            kept = {key: value for key, value in held.items() if key not in ("_name_or_path", "name_or_path")}
            file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")

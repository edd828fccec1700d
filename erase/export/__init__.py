"""Write an erased model in the formats that other tools load."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from erase.errors import InputError
from erase.export.about import Erased
from erase.export.diffusers import write_pipeline, write_text_encoder
from erase.export.lora import write_lora
from erase.export.single_file import write_delta, write_single_file
from erase.export.writing import DTYPES, staged
from erase.models import FAMILIES

SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Format:
    """`write(erased, place, dtype)` puts it at `place`, an empty folder or a new file, and returns what it lacks.

    With `dtype` None every tensor keeps its own. `original`: it has the names of the original code, or of trainers that
    go by these, so that a family must have them here.
    """

    summary: str
    write: Callable[..., list[str]]
    folder: bool = False
    ranked: bool = False
    original: bool = False


FORMATS = {
    "diffusers": Format("a folder that diffusers' pipelines load", write_pipeline, folder=True),
    "single-file": Format("one file with the whole model, for A1111 and ComfyUI", write_single_file, original=True),
    "lora": Format("a LoRA in kohya's form", partial(write_lora, kohya=True), ranked=True, original=True),
    "lora-peft": Format("a LoRA in PEFT's form", partial(write_lora, kohya=False), ranked=True),
    "delta": Format("the trained tensors alone", write_delta),
    "text-encoder": Format(
        "the text encoder alone, which fits every model that has one like it", write_text_encoder, folder=True
    ),
}


class AddCard(Protocol):
    """Puts a model card and its picture, of these names, into a folder."""

    def __call__(self, folder: Path, name: str, grid: str, notes: list[str], /) -> object: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """An export that can begin."""

    format: Format
    output: Path
    dtype: torch.dtype | None
    rank: int | None


def plan_export(format: str, output: Path, dtype: str | None = None, rank: int | None = None) -> Plan:
    """Check what was asked for; `dtype` None is fp32, or a base file's own.

    Raises `InputError`, as for an output that is there already; writes nothing.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown; use {', '.join(FORMATS)}")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; use {', '.join(DTYPES)}")
    found = FORMATS[format]
    if rank is not None and not found.ranked:
        raise InputError(f"format {format} has no rank, got {rank}; only {_ranked()} have one")
    if rank is not None and rank < 1:
        raise InputError(f"rank {rank} is too small; use 1 or more")
    if found.folder and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output {output} exists and is not empty; name a new folder")
    if not found.folder and output.suffix != SUFFIX:
        raise InputError(f"output {output} is a file for format {format}: name it with {SUFFIX} at the end")
    for path in () if found.folder else (output, output.with_suffix(".md"), output.with_suffix(".png")):
        if os.path.lexists(path):
            raise InputError(f"output {path} exists; name a new file")
    return Plan(found, output, None if dtype is None else DTYPES[dtype], rank)


def _ranked() -> str:
    return " and ".join(name for name, found in FORMATS.items() if found.ranked)


def save(plan: Plan, erased: Erased, add_card: AddCard) -> list[str]:
    """Write the model and its card, all or nothing; return what the format could not hold, in words."""
    family = FAMILIES[erased.model.family]
    if plan.format.original and not family.prefixes:
        known = ", ".join(name for name, found in FORMATS.items() if not found.original)
        raise InputError(f"the original code's layout of {family.title} is not known here; use {known}")
    options = {"rank": plan.rank} if plan.format.ranked else {}
    with staged(plan.output, folder=plan.format.folder) as scratch:
        place = scratch if plan.format.folder else scratch / plan.output.name
        notes = plan.format.write(erased, place, plan.dtype, **options)
        if plan.format.folder:
            add_card(scratch, "README.md", "before_after.png", notes)
        else:
            add_card(scratch, f"{plan.output.stem}.md", f"{plan.output.stem}.png", notes)
    return notes


__all__ = ["FORMATS", "Erased", "plan_export", "save"]

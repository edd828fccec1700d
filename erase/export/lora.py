"""A LoRA: the change of the trained weights, cut to a low rank, which tools add to the base model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from erase.errors import InputError
from erase.export.about import Erased, metadata
from erase.export.writing import write_tensors


@dataclass(frozen=True, slots=True)
class LowRank:
    """A change as LoRA factors. `tensors` has them under PEFT's names, all of rank `rank`.

    `kept` is ||dW_r||^2 / ||dW||^2 over all trained tensors, in [0, 1]; `left_out` names those that a LoRA has no
    place for: biases, norms.
    """

    tensors: dict[str, Tensor]
    rank: int
    kept: float
    left_out: list[str]


def write_lora(erased: Erased, path: Path, dtype: torch.dtype | None, *, rank: int, kohya: bool) -> list[str]:
    """Write the change as a LoRA in kohya's form, else PEFT's; return what it lacks, in words."""
    found = factorise(erased.before, erased.after, rank)
    more = {"rank": found.rank, "share of the squared change": found.kept, "left out": found.left_out}
    about = metadata(erased, "diffusers", "/lora", **more)
    tensors = found.tensors
    if kohya:
        from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya

        tensors = convert_state_dict_to_kohya(tensors)
        # A1111 sorts LoRAs by the first of these, and hides those of the other version.
        about |= {"ss_v2": str(erased.model.family == "sd2"), "ss_network_module": "networks.lora"}
        about |= {"ss_network_dim": str(found.rank), "ss_network_alpha": str(found.rank)}
    write_tensors(path, tensors, dtype, about)
    return _lacks(found)


def _lacks(found: LowRank) -> list[str]:
    notes = []
    if found.kept < 0.9995 or found.left_out:
        notes.append(
            f"the LoRA of rank {found.rank} carries {100 * found.kept:.1f} % of the squared change of the weights"
        )
    if found.left_out:
        first = ", ".join(found.left_out[:2])
        notes.append(f"it has no place for {len(found.left_out)} of the trained tensors (biases, norms), first {first}")
    return notes


def factorise(before: dict[str, Tensor], after: dict[str, Tensor], rank: int) -> LowRank:
    """The best approximation of rank `rank` of every weight's change; exact where the change has no larger rank.

    Linear (O, I) and convolutional (O, I, h, w) weights: up (O, r) and down (r, I), or (O, r, 1, 1) and (r, I, h, w).
    Raises `InputError` if there is none among the trained tensors.
    """
    carried = [name for name, value in after.items() if name.endswith(".weight") and value.ndim in (2, 4)]
    if not carried:
        raise InputError(
            f"the run trained no weight that a LoRA can carry, only {next(iter(after))} and such; use delta"
        )
    # One rank for all: a layer smaller than that is filled with zeros, since PEFT's form has no place for scales.
    rank = min(rank, max(min(after[name].flatten(1).shape) for name in carried))
    total = sum(float((after[name] - before[name]).double().square().sum()) for name in after)
    tensors, kept = {}, 0.0
    for name in carried:
        change = after[name] - before[name]
        up, down = _cut(change.flatten(1).double(), rank)
        kept += float((up @ down).square().sum())
        if change.ndim == 4:
            up, down = up[:, :, None, None], down.reshape(rank, *change.shape[1:])
        layer = f"unet.{name.removesuffix('.weight')}"
        tensors |= {f"{layer}.lora_A.weight": down.float(), f"{layer}.lora_B.weight": up.float()}
    return LowRank(tensors, rank, min(1.0, kept / total) if total else 1.0, sorted(after.keys() - set(carried)))


def _cut(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(O, I) to up (O, r) and down (r, I) of equal size; up @ down is the nearest matrix of that rank.

    By the singular vectors of the shorter side alone, which is many times faster than all of them.
    """
    if change.shape[0] > change.shape[1]:
        up, down = _cut(change.T, rank)
        return down.T, up.T
    vectors = torch.linalg.eigh(change @ change.T)[1][:, -rank:]  # ascending: the strongest are last
    part = vectors.T @ change
    # Halved between both, so that a small change does not vanish in fp16.
    half = part.norm(dim=1).sqrt()
    up, down = vectors * half, part / half.clamp(min=1e-30)[:, None]
    lacking = rank - len(half)
    return torch.nn.functional.pad(up, (0, lacking)), torch.nn.functional.pad(down, (0, 0, 0, lacking))

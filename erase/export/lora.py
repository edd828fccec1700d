"""A LoRA: the change of the trained weights, cut to a low rank, which tools add to the base model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from erase.errors import InputError
from erase.export.about import Erased, metadata
from erase.export.writing import write_tensors
from erase.models import DOWN, ENCODER, FAMILIES, UP, Model, is_layer
from erase.models.single_file import UNET

RANK = 16


@dataclass(frozen=True, slots=True)
class LowRank:
    """A change as LoRA factors that count `alpha` / `rank` times. `tensors` has them under PEFT's names.

    A layer smaller than `rank` has factors of its own, smaller rank, which count as many times as the others. `kept` is
    ||dW_r||^2 / ||dW||^2 over all trained tensors, in [0, 1]; `left_out` names those that a LoRA has no place for:
    biases, norms.
    """

    tensors: dict[str, Tensor]
    rank: int
    alpha: float
    kept: float
    left_out: list[str]


def write_lora(erased: Erased, path: Path, dtype: torch.dtype | None, *, rank: int | None, kohya: bool) -> list[str]:
    """Write the change as a LoRA in kohya's form, else PEFT's; return what it lacks, in words.

    With `rank` None a LoRA that was trained is written as it is, another change of low rank at the rank that holds it
    all, any other at `RANK`.
    """
    network = FAMILIES[erased.model.family].denoiser
    if rank is None and erased.factors:
        found = trained_factors(erased.factors, erased.alpha, network)
    elif rank is None and erased.low_rank:
        found = factorise(erased.before, erased.after, whole_rank(erased.before, erased.after), network)
    else:
        found = factorise(erased.before, erased.after, rank or RANK, network)
    more = {"rank": found.rank, "share of the squared change": found.kept, "left out": found.left_out}
    about = metadata(erased, "diffusers", "/lora", **more)
    if kohya:
        # A1111 sorts LoRAs by the first of these, and hides those of the other version.
        about |= {"ss_v2": str(erased.model.family == "sd2"), "ss_network_module": "networks.lora"}
        about |= {"ss_network_dim": str(found.rank), "ss_network_alpha": f"{found.alpha:g}"}
    tensors = _kohya(found, erased.model) if kohya else _peft(found)
    write_tensors(path, tensors, dtype, about)
    whole = rank is None and not erased.factors
    return _lacks(found) + (_larger(found, tensors, erased.after, dtype) if whole else [])


def trained_factors(factors: dict[str, Tensor], alpha: float, network: str) -> LowRank:
    """A LoRA that was trained, as it is."""
    rank = next(len(value) for name, value in factors.items() if name.endswith(DOWN))
    return LowRank({_peft_name(name, network): value for name, value in factors.items()}, rank, alpha, 1.0, [])


def _peft_name(name: str, network: str) -> str:
    """PEFT's names begin with the part, `network` for the denoiser.

    The text encoders' have a prefix that newer libraries leave out.
    """
    part, _, rest = name.partition(".")
    if not part.startswith(ENCODER):
        return f"{network}.{name}"
    return f"{part}.{rest}" if rest.startswith("text_projection") else f"{part}.text_model.{rest}"


def _peft(found: LowRank) -> dict[str, Tensor]:
    """PEFT's form has no place for alpha, so that the factors count once, and one rank: zeros fill smaller ones up."""
    scale = found.alpha / found.rank
    tensors = {}
    for name, value in found.tensors.items():
        side = 1 if name.endswith(UP) else 0
        shape = list(value.shape)
        shape[side] = found.rank - shape[side]
        whole = torch.cat([value, value.new_zeros(shape)], side)
        tensors[name] = whole * scale if name.endswith(UP) else whole
    return tensors


def _kohya(found: LowRank, model: Model) -> dict[str, Tensor]:
    """The names that kohya's trainers give: the UNet's by diffusers, SDXL's by the original code."""
    original: dict[str, str] = {}
    encoders = {"text_encoder": "lora_te"}
    if model.family == "sdxl":
        from erase.export.ldm import ldm_names  # here, since diffusers takes seconds to import

        original = {ours: theirs.removeprefix(UNET) for ours, theirs in ldm_names(model.unet).items()}
        encoders = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    tensors = {}
    for name, value in found.tensors.items():
        part, _, rest = name.partition(".")
        layer = rest.removesuffix(UP).removesuffix(DOWN)
        layer = original.get(f"{layer}.weight", layer).removesuffix(".weight").replace(".", "_")
        layer = f"{encoders.get(part, 'lora_unet')}_{layer}"
        if rest.endswith(UP):
            # Factors count alpha / their own rank times. One alpha for all: diffusers loses those that differ.
            own = value.shape[1] / found.rank
            tensors[f"{layer}.lora_up.weight"] = value if own == 1 else value * own
        else:
            tensors[f"{layer}.lora_down.weight"] = value
        tensors[f"{layer}.alpha"] = torch.tensor(float(found.alpha))
    return tensors


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


def _larger(
    found: LowRank, tensors: dict[str, Tensor], after: dict[str, Tensor], dtype: torch.dtype | None
) -> list[str]:
    """Say so when the LoRA has more numbers than the weights that it changes."""
    size = sum(value.numel() for value in tensors.values())
    if found.rank <= RANK or size <= sum(value.numel() for value in after.values()):
        return []
    megabytes = size * (dtype or torch.float32).itemsize / 1e6
    return [
        f"the LoRA has rank {found.rank}, which holds the whole edit, and {megabytes:,.1f} MB, more than the weights "
        f"that it changes; --rank {RANK} makes a smaller one that holds less"
    ]


def whole_rank(before: dict[str, Tensor], after: dict[str, Tensor]) -> int:
    """The rank from which on a LoRA lacks no more of the change than float32 lost in rounding the weights after it."""
    found = 1
    for name in _carried(after):
        change = (after[name] - before[name]).flatten(1).double()
        change = change if change.shape[0] <= change.shape[1] else change.T
        energy = torch.linalg.eigvalsh(change @ change.T).clamp(min=0)  # ascending
        lost = 2.0**-48 * float(after[name].double().square().sum())
        found = max(found, int((energy.cumsum(0) > lost).sum()))
    return found


def _carried(after: dict[str, Tensor]) -> list[str]:
    """The weights that a LoRA can carry. Raises `InputError` if there is none."""
    found = [name for name, value in after.items() if is_layer(name, value)]
    if not found:
        raise InputError(
            f"the run trained no weight that a LoRA can carry, only {next(iter(after))} and such; use delta"
        )
    return found


def factorise(before: dict[str, Tensor], after: dict[str, Tensor], rank: int, network: str = "unet") -> LowRank:
    """The best approximation of rank `rank` of every weight's change; exact where the change has no larger rank.

    Linear (O, I) and convolutional (O, I, h, w) weights: up (O, r) and down (r, I), or (O, r, 1, 1) and (r, I, h, w).
    Raises `InputError` if there is none among the trained tensors.
    """
    carried = _carried(after)
    rank = min(rank, max(min(after[name].flatten(1).shape) for name in carried))
    total = sum(float((after[name] - before[name]).double().square().sum()) for name in after)
    tensors, kept = {}, 0.0
    for name in carried:
        change = after[name] - before[name]
        up, down = _cut(change.flatten(1).double(), rank)
        kept += float((up @ down).square().sum())
        if change.ndim == 4:
            up, down = up[:, :, None, None], down.reshape(-1, *change.shape[1:])
        layer = _peft_name(name.removesuffix(".weight"), network)
        tensors |= {f"{layer}{DOWN}": down.float(), f"{layer}{UP}": up.float()}
    return LowRank(tensors, rank, rank, min(1.0, kept / total) if total else 1.0, sorted(after.keys() - set(carried)))


def _cut(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(O, I) to up (O, r) and down (r, I) of equal size; up @ down is the nearest matrix of that rank, or all of it.

    By the singular vectors of the shorter side alone, which is many times faster than all of them.
    """
    if change.shape[0] > change.shape[1]:
        up, down = _cut(change.T, rank)
        return down.T, up.T
    vectors = torch.linalg.eigh(change @ change.T)[1][:, -rank:]  # ascending: the strongest are last
    part = vectors.T @ change
    # Halved between both, so that a small change does not vanish in fp16.
    half = part.norm(dim=1).sqrt()
    return vectors * half, part / half.clamp(min=1e-30)[:, None]

"""The whole model in one file, as A1111 and ComfyUI read it; and a file with the trained tensors alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from erase.errors import InputError
from erase.export.about import Erased, metadata
from erase.export.writing import check_range, write_tensors
from erase.models import Model, put_tensors
from erase.models.single_file import V_MARK, ZERO_SNR, current_name, read_file


def write_single_file(erased: Erased, path: Path, dtype: torch.dtype | None) -> list[str]:
    """UNet, VAE and text encoders under the original code's names; tokenizers and scheduler are not in such a file.

    Where the base was a single file too, that one with the trained tensors written over: what else it holds stays as
    it was, to the byte, if no `dtype` is asked for.
    """
    from erase.export.ldm import to_ldm  # here, since diffusers takes seconds to import

    about = metadata(erased, "sgm")
    if erased.model.file is None:
        write_tensors(path, {**to_ldm(erased.model), **_marks(erased.model)}, dtype, about)
        return []
    tensors, before = read_file(erased.model.file)
    write_tensors(path, _patched(tensors, erased, dtype), dtype, {**before, **about})
    return []


def _marks(model: Model) -> dict[str, Tensor]:
    """What stands in XL's files for a scheduler that user interfaces would not expect."""
    if model.family != "sdxl" or model.predicts != "v_prediction":
        return {}
    names = [V_MARK, ZERO_SNR] if model.scheduler.config.get("rescale_betas_zero_snr") else [V_MARK]
    return {name: torch.zeros(0) for name in names}


def _patched(tensors: dict[str, Tensor], erased: Erased, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The base's tensors with the trained ones in their place, and in that of their running averages.

    These are at `dtype`, None: at the precision of those that they take the place of.
    """
    names = {current_name(name): name for name in tensors}
    for current, value in _in_place(erased).items():
        place = names.get(current, current)
        # Some trainers keep a running average beside the weights; it would hold what was erased.
        for held in (place, f"model_ema.{place.removeprefix('model.').replace('.', '')}"):
            if held in tensors:
                tensors[held] = value.reshape(tensors[held].shape).to(dtype or tensors[held].dtype)
                if dtype is None:  # else all are checked when they are written
                    check_range({held: tensors[held]})
        if place not in tensors:
            raise InputError(f"the base's file has no {place} any more; it is not the file that the run began from")
    return tensors


def _in_place(erased: Erased) -> dict[str, Tensor]:
    """The changed tensors under LDM's names; all that differ of a text encoder, which lies there in other pieces."""
    from erase.export.ldm import ldm_names, text_to_ldm

    model, after = erased.model, erased.after
    names = ldm_names(model.unet)
    found = {names[name]: value for name, value in after.items() if name in names}
    put_tensors(model, erased.before)
    before = {part: text_to_ldm(model, part) for part in model.text_encoders if _changes(part, after)}
    before = {part: {name: value.clone() for name, value in held.items()} for part, held in before.items()}
    put_tensors(model, after)
    for part, old in before.items():
        new = text_to_ldm(model, part)
        found |= {name: value for name, value in new.items() if not torch.equal(value, old[name])}
    return found


def _changes(part: str, after: dict[str, Tensor]) -> bool:
    return any(name.startswith(f"{part}.") for name in after)


def write_delta(erased: Erased, path: Path, dtype: torch.dtype | None) -> list[str]:
    """The trained tensors' values after erasing, under diffusers' names; a text encoder's lie behind `text_encoder.`.

    Put over the base's they give the erased one. Which base that is, its hash in the metadata says.
    """
    write_tensors(path, erased.after, dtype, metadata(erased, "diffusers"))
    return []

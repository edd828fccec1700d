"""The whole model in one file, as A1111 and ComfyUI read it; and a file with the trained tensors alone."""

from __future__ import annotations

from pathlib import Path

import torch

from erase.export.about import Erased, metadata
from erase.export.ldm import to_ldm
from erase.export.writing import write_tensors


def write_single_file(erased: Erased, path: Path, dtype: torch.dtype) -> list[str]:
    """UNet, VAE and text encoder under the original code's names; tokenizer and scheduler are not in such a file."""
    write_tensors(path, to_ldm(erased.model), dtype, metadata(erased, "sgm"))
    return []


def write_delta(erased: Erased, path: Path, dtype: torch.dtype) -> list[str]:
    """The trained tensors' values after erasing, under diffusers' UNet names.

    Put over the base's UNet they give the erased one. Which base that is, its hash in the metadata says.
    """
    write_tensors(path, erased.after, dtype, metadata(erased, "diffusers"))
    return []

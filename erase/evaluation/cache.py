"""Pictures kept between runs. A file that is not what was written counts as none: it is sampled again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from erase.errors import InputError
from erase.runtime import replacing

HEADER = 2**16  # bytes; more than the names of two tensors and a checksum need


def write_pictures(path: Path, pictures: Sequence[np.ndarray], lost: Collection[int]) -> None:
    """Keep pictures, uint8 (H, W, 3), and the places of those that the model broke on. All or nothing."""
    held = torch.from_numpy(np.ascontiguousarray(np.stack(pictures)))  # a GPU's decoder leaves channels outermost
    broken = torch.tensor([i in lost for i in range(len(pictures))], dtype=torch.uint8)
    with replacing(path) as temporary:
        try:
            save_file({"pictures": held, "broken": broken}, temporary, metadata={"sha256": _digest(held, broken)})
        except SafetensorError as error:  # safetensors wraps a full disk in its own error
            raise InputError(f"cannot write {path}: {error}") from error


def read_pictures(path: Path, count: int, shape: tuple[int, int, int]) -> tuple[list[np.ndarray], set[int]] | None:
    """The pictures kept under this name and the broken places, or None where they are not `count` of `shape`.

    Reads no more than such a file may hold, and nothing that could run code.
    """
    try:
        if not path.is_file() or path.stat().st_size > count * (int(np.prod(shape)) + 1) + HEADER:
            return None
        with safe_open(path, framework="pt") as opened:
            held, broken = opened.get_tensor("pictures"), opened.get_tensor("broken")
            digest = (opened.metadata() or {}).get("sha256")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    fits = held.shape == (count, *shape) and broken.shape == (count,)
    if not fits or held.dtype != torch.uint8 or broken.dtype != torch.uint8 or digest != _digest(held, broken):
        return None
    return list(held.numpy()), set(broken.nonzero().flatten().tolist())


def _digest(held: torch.Tensor, broken: torch.Tensor) -> str:
    return hashlib.sha256(held.numpy().tobytes() + broken.numpy().tobytes()).hexdigest()

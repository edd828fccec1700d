"""Writing what other tools load: all of it or nothing, at the precision asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from erase.errors import InputError
from erase.runtime import umask

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@contextmanager
def staged(output: Path, *, folder: bool) -> Iterator[Path]:
    """Give an empty folder beside `output`; when the block ends well it becomes `output`, or its files lie there.

    Raises `InputError` when that cannot be written; nothing is left then.
    """
    made = [place for place in output.absolute().parents if not place.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"cannot write {output}: {error.strerror or error}") from None
    try:
        yield scratch
        if folder:
            scratch.chmod(0o777 & ~umask())
            if output.exists():
                output.rmdir()
            scratch.replace(output)
        else:
            # The model last: where it lies, what belongs to it does too.
            for file in sorted(scratch.iterdir(), key=lambda file: file.name == output.name):
                file.chmod(0o666 & ~umask())
                file.replace(output.parent / file.name)
    except (OSError, SafetensorError) as error:  # safetensors wraps a full disk in its own error
        raise InputError(f"cannot write {output}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _remove_empty(made)  # after a failure; a folder with something in it stays


def _remove_empty(places: list[Path]) -> None:
    for place in places:
        with suppress(OSError):
            place.rmdir()


def write_tensors(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype | None, about: dict[str, str]) -> None:
    """Write a safetensors file at `dtype`, None: at each tensor's own. Raises `InputError` for a value out of range."""
    ready = {name: _cast(value.detach().cpu(), dtype).contiguous() for name, value in tensors.items()}
    if dtype is not None:
        check_range(ready)
    seen: set[int] = set()
    for name, value in ready.items():
        place = value.untyped_storage().data_ptr()
        if place in seen:  # as in a pickle with tied weights; safetensors has each tensor by itself
            ready[name] = value.clone()
        seen.add(place)
    # "format" is what transformers and older loaders look for.
    save_file(ready, path, metadata={"format": "pt", **about})


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    # A base's file may hold counts and places as well; a LoRA's alpha and a file's marks are no weights.
    kept = dtype is None or not value.is_floating_point() or value.shape in ((), (0,))
    return value if kept else value.to(dtype)


def check_range(tensors: dict[str, Tensor]) -> None:
    """Refuse tensors in which a value became infinite at a new precision; in the run's model all are finite."""
    for name, value in tensors.items():
        if not torch.isfinite(value.float()).all():  # 8-bit numbers have no isfinite of their own
            short = next(
                (s for s, found in DTYPES.items() if found == value.dtype), str(value.dtype).removeprefix("torch.")
            )
            raise InputError(f"tensor {name} has values that {short} cannot hold; use bf16 or fp32")

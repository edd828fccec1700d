"""A pipeline folder in diffusers' layout."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from erase.errors import InputError
from erase.models import Model, quiet_libraries
from erase.runtime import umask


def save_pipeline(model: Model, output: Path, add_card: Callable[[Path], object]) -> Path:
    """Save the model's parts to `output` in float32, with what `add_card(folder)` puts beside them; all or nothing.

    float32 is what the run computed its pictures with, so the folder's pictures equal them. Raises `InputError` when
    the folder cannot be written, as where one is with something in it.
    """
    made = [place for place in output.absolute().parents if not place.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"cannot write {output}: {error.strerror or error}") from None
    try:
        with quiet_libraries():
            model.pipeline().save_pretrained(scratch, safe_serialization=True)
        _drop_paths(scratch)
        add_card(scratch)
        scratch.chmod(0o777 & ~umask())
        if output.exists():
            output.rmdir()
        scratch.replace(output)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {output}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _remove_empty(made)  # after a failure; a folder with something in it stays
    return output


def _remove_empty(places: list[Path]) -> None:
    for place in places:
        with suppress(OSError):
            place.rmdir()


def _drop_paths(folder: Path) -> None:
    """Take out where the base model lay on this machine, which the libraries write into every configuration."""
    for file in sorted(folder.rglob("*.json")):
        held = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(held, dict) and held.keys() & {"_name_or_path", "name_or_path"}:
            kept = {key: value for key, value in held.items() if key not in ("_name_or_path", "name_or_path")}
            file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")

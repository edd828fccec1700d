"""Device and precision, seeds, versions, and writing files so that none is ever half there."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

# A folder that has the first file is a run; the others are here for those who look at runs without torch.
CONFIG, EVENTS, DONE, CHECKPOINTS = "config.yaml", "events.jsonl", "DONE", "checkpoint"
# The bundled world's name as a model, and the file that makes a model's folder another world.
WORLD, WORLD_FILE = "world", "world.json"
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "open_clip_torch", "numpy")


def pick_device(wanted: str = "auto") -> torch.device:
    """The device to compute on: `auto` takes CUDA, else MPS, else the CPU."""
    import torch

    if wanted != "auto":
        try:
            device = torch.device(wanted)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError):
            raise InputError(f"device {wanted!r} is not available here; use auto or cpu") from None
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from any values, the same on every machine and Python."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and platform, for report.json."""
    from importlib.metadata import PackageNotFoundError, version

    from erase import __version__

    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    found["erase"] = __version__  # also where the program runs from a folder and is not installed
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    import torch

    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found["threads"] = torch.get_num_threads()
    found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return found


def user_path(text: str | Path) -> Path:
    """A path that a user typed, `~` expanded. Raises `InputError` for one that no file can have."""
    shown = str(text) if len(str(text)) <= 80 else f"{str(text)[:77]}..."
    try:
        path = Path(text).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # exists() would say False to a NUL, and on newer Pythons to a name that is too long
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"path {shown!r} cannot be used: {why}") from None
    return path


def output_folder(path: Path) -> Path:
    """The path itself, if a folder is there or can be made there; asked before work whose results go into it."""
    place = next((p for p in (path, *path.absolute().parents) if p.exists()), path)
    if not place.is_dir():
        raise InputError(f"{path} cannot be a folder: {place} is a file; name another one")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission in {place}; name another one")
    return path


def command(*words: object) -> str:
    """A command of this program, quoted so that it can be pasted into a shell."""
    return shlex.join(["erase", *(str(word) for word in words)])


TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.\w+)?")  # as `replacing` names its files


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it over `path` if the block succeeds, remove it if not.

    A disk that is full or read-only is an `InputError` that names the path.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~umask())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what `replacing` left in a folder whose writer was killed; for one that nobody else writes to now."""
    for path in folder.rglob(".*"):
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def umask() -> int:
    """The process's file mode mask."""
    # Only setting it tells what it was.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, all or nothing; NaN and infinity are errors, as JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write a picture, uint8 (H, W, 3), all or nothing."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, "png")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

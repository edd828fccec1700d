"""Find what ships with the package (assets, configs), from a checkout and from an installed wheel."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def asset(name: str) -> Path:
    """Path of a bundled file or folder below `assets/`."""
    return _bundled("assets", name)


def bundled_config(name: str) -> Path:
    """Path of a bundled file or folder below `configs/`."""
    return _bundled("configs", name)


def _bundled(folder: str, name: str) -> Path:
    # A wheel carries the folders inside the package; a checkout has them beside it.
    package = Path(str(files("erase")))
    inside = package / folder
    return (inside if inside.is_dir() else package.parent / folder) / name

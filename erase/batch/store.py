"""Runs that come and go through a URL, for nodes that share no folder. Any file system that fsspec knows."""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.errors import InputError, first_line
from erase.runtime import CONFIG, DONE, TEMPORARY


@dataclass(frozen=True, slots=True)
class Store:
    """Folders by name below a URL. `DONE` is copied last, so what has it is whole. Errors are `InputError`s."""

    url: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9+.-]+://.+", self.url):
            raise InputError(f"--artefacts {self.url!r} is no URL; give one such as s3://bucket/batch or file:///mnt/x")

    def put(self, name: str, folder: Path) -> None:
        """Make the store's folder what the folder here is: files that are new or changed are copied, others removed."""
        with self._reaching(name) as (files, root):
            there = _sizes(files, root)
            here = {
                path.relative_to(folder).as_posix(): path
                for path in (folder.rglob("*") if folder.is_dir() else ())
                if path.is_file() and not TEMPORARY.fullmatch(path.name)
            }
            # Settings first: a folder without them is none that anyone goes on with.
            for name_ in sorted(here, key=lambda part: (part != CONFIG, part == DONE)):
                # Checkpoints and pictures never change under their name; the small texts do, and are copied each time.
                same = there.get(name_) == here[name_].stat().st_size and here[name_].suffix in (".pt", ".png")
                if not same:
                    target = posixpath.join(root, name_)
                    files.makedirs(posixpath.dirname(target), exist_ok=True)
                    files.put_file(str(here[name_]), target)
            for name_ in there.keys() - here.keys():
                files.rm_file(posixpath.join(root, name_))

    def fetch(self, name: str, folder: Path) -> None:
        """Copy the store's folder here, `DONE` last; nothing where there is none."""
        with self._reaching(name) as (files, root):
            for name_ in sorted(_sizes(files, root), key=lambda part: part == DONE):
                target = folder / name_
                if not target.resolve().is_relative_to(folder.resolve()):
                    raise InputError(f"{self.url} names a file outside its folder: {name_!r}")
                target.parent.mkdir(parents=True, exist_ok=True)
                files.get_file(posixpath.join(root, name_), str(target))

    def put_aside(self, name: str) -> None:
        """Give the store's folder another name, `NAME~1` and so on."""
        with self._reaching(name) as (files, root):
            if files.exists(root):
                number = next(n for n in itertools.count(1) if not files.exists(f"{root}~{n}"))
                files.mv(root, f"{root}~{number}", recursive=True)

    def write(self, path: str, text: str) -> None:
        """Write a text."""
        with self._reaching(path) as (files, place):
            files.makedirs(posixpath.dirname(place), exist_ok=True)
            files.pipe_file(place, text.encode())

    def read(self, path: str) -> str:
        """A text, or "" where there is none."""
        with self._reaching(path) as (files, place):
            return files.cat_file(place).decode() if files.exists(place) else ""

    def has(self, path: str) -> bool:
        """Whether a file is there."""
        with self._reaching(path) as (files, place):
            files.invalidate_cache()
            return files.exists(place)

    def drop(self, path: str) -> None:
        """Take a file away, if it is there."""
        with self._reaching(path) as (files, place):
            if files.exists(place):
                files.rm_file(place)

    @contextmanager
    def _reaching(self, name: str) -> Iterator[tuple[Any, str]]:
        """The file system and a path in it; what goes wrong there is one line."""
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(self.url)
            yield files, posixpath.join(root, name)
        except InputError:
            raise
        except Exception as error:  # each file system raises errors of its own
            raise InputError(f"{self.url} cannot be used: {first_line(error)}") from None


def _sizes(files: Any, root: str) -> dict[str, int]:
    """The files below a folder, by their path in it, with their sizes in bytes."""
    files.invalidate_cache()
    if not files.exists(root):
        return {}
    found = files.find(root, detail=True)
    return {posixpath.relpath(path, root): int(facts["size"]) for path, facts in found.items()}

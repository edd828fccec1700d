"""Pictures of two models at equal seeds, their difference, and what the world's judge sees in them."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from erase import __version__, runs
from erase.config import WORLD, first_model, load_config, run_folders
from erase.errors import EraseError, InputError
from erase.evaluation.judges import NONE, Judges, load_judges
from erase.models import Model, load_model, put_tensors
from erase.prepare import load_run, stored_config
from erase.runtime import CONFIG, file_hash, pick_device, write_json, write_png
from erase.sampling import Shot, sample
from erase.scoring import content_hash
from erase.ui.jobs import Jobs
from erase.ui.roots import Roots

LOADED = 2  # models
KEPT = 1000  # pictures
MOST = {"sources": 4, "prompts": 16, "seeds": 16}
AT_MOST = 64  # pictures asked for at once
LETTERS = 1000  # of a prompt
BRIGHTEST = 128.0  # grey levels of difference, from which on the map is as bright as it gets


@dataclass(frozen=True, slots=True)
class Source:
    """A model to draw with: as `Roots.model` takes it, and of a run how much of its change counts (1: all of it).

    The weights are before + strength (after - before); of a LoRA that is its scale times the strength.
    """

    model: str
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture. `answer` is what the judge sees in it, "" where it was not judged."""

    path: Path
    source: Source
    prompt: str
    seed: int
    answer: str = ""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model, and of a run the tensors that it changed, before and after; `base` is what it began from."""

    model: Model
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    base: str | None = None


class Comparer:
    """Draws for the Compare page, when the queue gives it the device.

    It keeps at most two models loaded, until a run needs the memory, and on the disk the pictures drawn last.
    """

    def __init__(self, roots: Roots, jobs: Jobs, device: str = "auto") -> None:
        self._roots, self._jobs, self._device = roots, jobs, device
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._judges: Judges | None = None
        self._hashes: dict[tuple[str, int, int], str] = {}
        self._drawing = Lock()
        jobs.before_start.append(self.release)

    def pictures(
        self,
        sources: Sequence[Source],
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int = 25,
        guidance: float = 3.0,
        on_place: Callable[[int], None] = lambda place: None,
    ) -> list[Drawn]:
        """PNG files of every prompt at every seed with every source, in this order: prompt, seed, source.

        Waits for the device, unless all were drawn before; `on_place` hears the place in its queue. Raises `InputError`
        for what cannot be drawn, `EraseError` where a model is broken or memory does not suffice.
        """
        seeds, steps, guidance = _checked(sources, prompts, seeds, steps, guidance)
        models = [self._roots.model(source.model) for source in sources]
        asked = [(number, prompt, seed) for prompt in prompts for seed in seeds for number, _ in enumerate(sources)]
        # What is not known to be the same, as a model of the hub, is drawn anew each time.
        fresh = secrets.token_hex(16)
        idents = [self._ident(model) or [model, fresh] for model in models]
        setting = steps, guidance, str(pick_device(self._device)), __version__, torch.__version__
        paths = {
            (number, prompt, seed): self._roots.pictures
            / f"{content_hash([idents[number], sources[number].strength, prompt, seed, *setting])[:40]}.png"
            for number, prompt, seed in asked
        }
        missing = [one for one in paths if not _answer_of(paths[one])[0]]
        if missing:
            with self._jobs.turn(on_place), self._drawing:
                missing = [one for one in missing if not _answer_of(paths[one])[0]]  # others draw too
                for number in sorted({one[0] for one in missing}, key=lambda n: not run_folders(models[n])):
                    shots = [(prompt, seed) for n, prompt, seed in missing if n == number]
                    wanted = [paths[number, prompt, seed] for prompt, seed in shots]
                    self._draw(models[number], sources[number].strength, shots, steps, guidance, wanted)
            self._prune()
        found = []
        for number, prompt, seed in asked:
            path = paths[number, prompt, seed]
            with suppress(OSError):
                os.utime(path)  # it was of use now
            found.append(Drawn(path, sources[number], prompt, seed, _answer_of(path)[1]))
        return found

    def heat_map(self, before: str | Path, after: str | Path) -> Path:
        """A PNG of the difference at each pixel, mean over channels: black for none, brightest from 128 of 255 on.

        The scale is fixed, so that two maps can be compared. Raises `InputError`.
        """
        files = [self._roots.file(path) for path in (before, after)]
        place = self._roots.pictures / f"{content_hash([file_hash(file) for file in files])[:40]}-map.png"
        if place.is_file():
            return place
        try:
            first, second = (np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) for file in files)
        except (OSError, ValueError, Image.DecompressionBombError):
            raise InputError(
                f"{files[0].name} and {files[1].name} cannot be read as pictures; draw them again"
            ) from None
        if first.shape != second.shape:
            raise InputError(f"the pictures have {first.shape[:2]} and {second.shape[:2]} pixels; draw them alike")
        share = np.minimum(np.abs(first - second).mean(2) / BRIGHTEST, 1.0)
        write_png(place, (matplotlib.colormaps["magma"](share)[..., :3] * 255).round().astype(np.uint8))
        return place

    def release(self) -> None:
        """Give back the memory of the models. What is drawn now goes on with its own."""
        self._loaded, self._judges = OrderedDict(), None
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _draw(
        self,
        model: str,
        strength: float,
        shots: list[tuple[str, int]],
        steps: int,
        guidance: float,
        paths: list[Path],
    ) -> None:
        try:
            loaded, strength = self._load(model, strength)
            put_tensors(loaded.model, _between(loaded, strength))
            images = sample(
                loaded.model,
                [Shot(prompt, prompt, seed) for prompt, seed in shots],
                steps=steps,
                guidance=guidance,
            )
            answers = self._answers(images) if first_model(model) == WORLD else [""] * len(images)
        except torch.OutOfMemoryError:
            self.release()
            raise EraseError("out of GPU memory: close what else uses the GPU, or draw on the CPU") from None
        for path, image, answer in zip(paths, images, answers, strict=True):
            write_json(path.with_suffix(".json"), {"answer": answer})
            write_png(path, image)

    def _load(self, model: str, strength: float) -> tuple[_Loaded, float]:
        """The model, and its strength there. A run on it that is loaded has it too, at strength 0."""
        held, ident = self._loaded, self._ident(model)
        whole = strength == 1.0 or not run_folders(model)  # a part of a run's change is in no other run
        for key, one in held.items() if ident is not None else ():
            if key == ident or (one.base == ident and whole):
                held.move_to_end(key)
                return one, strength if key == ident else 0.0
        while len(held) >= LOADED:
            held.popitem(last=False)
        device = pick_device(self._device)
        if run_folders(model):
            config = stored_config(Path(model), finished=True)
            base = self._ident(config.model) if config.variant is None else None
            found, arms = load_run(Path(model), config, device)
            loaded = _Loaded(found, arms["before"], arms["after"], base)
        else:
            loaded = _Loaded(load_model(model, device), {}, {})
        if ident is not None:
            held[ident] = loaded
        return loaded, strength

    def _ident(self, model: str) -> str | None:
        """What a model's pictures depend on, without loading it; None where that is not known, on the hub."""
        if model == WORLD:
            return WORLD
        path = Path(model)
        if not path.exists():
            return None
        if run_folders(model):
            config, weights = path / CONFIG, path / runs.MODEL
            base = self._ident(str(load_config(config).model))
            return base and content_hash([base, config.read_text(encoding="utf-8"), self._hash(weights)])
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        marks = [(str(file), (seen := file.stat()).st_mtime_ns, seen.st_size) for file in files]
        return content_hash(marks)

    def _hash(self, file: Path) -> str:
        seen = file.stat()
        key = str(file), seen.st_mtime_ns, seen.st_size
        if key not in self._hashes:
            if len(self._hashes) >= KEPT:
                self._hashes.clear()
            self._hashes[key] = file_hash(file)
        return self._hashes[key]

    def _answers(self, images: list[np.ndarray]) -> list[str]:
        if self._judges is None:
            self._judges = load_judges(pick_device(self._device))
        return [answer_of(look) for look in self._judges.look(images)]

    def _prune(self) -> None:
        """Remove the pictures that nobody asked for in the longest time."""
        found = []
        for path in self._roots.pictures.glob("*.png"):
            with suppress(OSError):
                found.append((path.stat().st_mtime, path))
        for _, path in sorted(found)[:-KEPT]:
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)


def answer_of(look: dict[str, Any]) -> str:
    """What the reported judge sees in a picture of the world, in few words: "cat 98 %, pixel art"."""
    if look["flags"].get("blank"):
        return "no picture"
    seen = look["judges"]["conv"]
    thing = "no known object" if seen["object"] == NONE else f"{seen['object']} {seen['object_prob']:.0%}"
    return thing if seen["style"] == NONE else f"{thing}, {seen['style']}"


def _between(loaded: _Loaded, strength: float) -> dict[str, Tensor]:
    if strength in (0.0, 1.0):  # to the bit
        return loaded.after if strength else loaded.before
    return {name: value + strength * (loaded.after[name] - value) for name, value in loaded.before.items()}


def _answer_of(path: Path) -> tuple[bool, str]:
    """Whether a picture is there, and what was seen in it."""
    try:
        return path.is_file(), str(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["answer"])
    except (OSError, ValueError, KeyError, TypeError):
        return False, ""


def _checked(
    sources: Sequence[Source], prompts: Sequence[str], seeds: Sequence[Any], steps: Any, guidance: Any
) -> tuple[list[int], int, float]:
    """What was asked for, numbers as numbers: those from a form have no type. Raises `InputError`."""
    for what, given in (("sources", sources), ("prompts", prompts), ("seeds", seeds)):
        if not 1 <= len(given) <= MOST[what]:
            raise InputError(f"{what}: between 1 and {MOST[what]} can be compared at once, got {len(given)}")
    if len(sources) * len(prompts) * len(seeds) > AT_MOST:
        raise InputError(f"{len(sources) * len(prompts) * len(seeds)} pictures are too many at once; {AT_MOST} at most")
    for prompt in prompts:
        if not isinstance(prompt, str) or len(prompt) > LETTERS:
            raise InputError(f"prompt {str(prompt)[:60]!r} must be a text of at most {LETTERS} letters")
    for source in sources:
        _number("strength", source.strength, 0, 2)
    found = [_whole("seed", seed, 0, 2**32 - 1) for seed in seeds]
    return found, _whole("steps", steps, 1, 200), _number("guidance", guidance, 0, 30)


def _number(what: str, value: Any, low: float, high: float) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high:
        raise InputError(f"{what} must be a number from {low} to {high}, got {str(value)[:40]!r}")
    return float(value)


def _whole(what: str, value: Any, low: int, high: int) -> int:
    number = _number(what, value, low, high)
    if number != int(number):
        raise InputError(f"{what} must be a whole number, got {value!r}")
    return int(number)

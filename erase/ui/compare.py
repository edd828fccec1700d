"""Pictures of two models at equal seeds, their difference, and what the world's judge sees in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from erase.ui.jobs import Jobs
from erase.ui.roots import Roots


@dataclass(frozen=True, slots=True)
class Source:
    """A model to draw with: as `Roots.model` takes it, and of a run how much of its change counts (1: all of it)."""

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


class Comparer:
    """Draws for the Compare page. Keeps at most two models loaded, and pictures drawn before."""

    def __init__(self, roots: Roots, jobs: Jobs, device: str = "auto") -> None:
        raise NotImplementedError

    def pictures(
        self,
        sources: list[Source],
        prompts: list[str],
        seeds: list[int],
        steps: int = 25,
        guidance: float = 3.0,
        on_place: Callable[[int], None] = lambda place: None,
    ) -> list[Drawn]:
        """PNG files of every prompt at every seed with every source, in this order: prompt, seed, source.

        Waits for the device; `on_place` hears the place in its queue. Raises `InputError`.
        """
        raise NotImplementedError

    def heat_map(self, before: Path, after: Path) -> Path:
        """A PNG of the difference at each pixel, mean over channels: black for none, brightest from 128 of 255 on."""
        raise NotImplementedError

"""Judge pictures while the next ones are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np

from erase.evaluation.panel import Panel

CHUNK = 64
"""Pictures that the judges get at once: a multiple of each judge's own batch, so that a picture falls into the same
batch of theirs, and gets the same answer to the last bit, whether it comes alone or with all others."""


class Looking:
    """What a panel sees in pictures, one a prompt, that come one by one and in any order.

    `beside`: in a thread of its own, which gains time where drawing leaves something idle. Leaving the block before all
    has been seen drops what was not begun.
    """

    def __init__(self, panel: Panel, prompts: Sequence[str], beside: bool) -> None:
        self.panel, self.prompts = panel, prompts
        self.images: list[np.ndarray | None] = [None] * len(prompts)
        self.missing = [len(prompts[start : start + CHUNK]) for start in range(0, len(prompts), CHUNK)]
        self.found: list[Future[list[dict[str, Any]]] | list[dict[str, Any]]] = [[] for _ in self.missing]
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="judges") if beside else None

    def __enter__(self) -> Looking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def put(self, place: int, image: np.ndarray) -> None:
        """The picture of a prompt; one that came already stays as it was."""
        if self.images[place] is not None:
            return
        self.images[place] = image
        chunk = place // CHUNK
        self.missing[chunk] -= 1
        if self.missing[chunk] == 0:
            self.found[chunk] = self._look(chunk) if self.pool is None else self.pool.submit(self._look, chunk)

    def looks(self) -> list[dict[str, Any]]:
        """Of all pictures, as `Panel.look` gives it. Raises what a judge raised."""
        if any(self.missing):
            raise ValueError(f"{sum(self.missing)} of {len(self.prompts)} pictures are missing")
        return [look for found in self.found for look in (found.result() if isinstance(found, Future) else found)]

    def _look(self, chunk: int) -> list[dict[str, Any]]:
        part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        return self.panel.look([image for image in self.images[part] if image is not None], self.prompts[part])

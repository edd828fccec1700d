"""Judging beside drawing: the same answers, errors that come through, nothing left running."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from erase.evaluation import imagenet, zero_shot
from erase.evaluation.looking import CHUNK, Looking

COUNT = 2 * CHUNK + 5
PICTURES = [np.full((2, 2, 3), i, np.uint8) for i in range(COUNT)]
PROMPTS = [f"a {i}" for i in range(COUNT)]


class Watching:
    """A panel that writes down what it was shown, and by which thread."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.threads: set[str] = set()

    def look(self, images: Any, prompts: Any) -> list[dict[str, Any]]:
        self.calls.append(len(images))
        self.threads.add(threading.current_thread().name)
        return [{"saw": int(i[0, 0, 0]), "of": p} for i, p in zip(images, prompts, strict=True)]


@pytest.mark.parametrize("beside", [False, True])
def test_every_picture_is_judged_once_under_its_own_prompt_in_whatever_order_it_came(beside):
    panel: Any = Watching()
    with Looking(panel, PROMPTS, beside) as looking:
        for place in reversed(range(COUNT)):
            looking.put(place, PICTURES[place])
        looking.put(0, PICTURES[1])  # comes again: the first stays
        found = looking.looks()
    assert found == [{"saw": i, "of": f"a {i}"} for i in range(COUNT)]
    assert sorted(panel.calls) == [5, CHUNK, CHUNK]
    assert (threading.current_thread().name in panel.threads) is not beside


def test_a_chunk_is_judged_as_soon_as_it_is_whole():
    panel: Any = Watching()
    with Looking(panel, PROMPTS, False) as looking:
        for place in range(CHUNK + 3):
            looking.put(place, PICTURES[place])
        assert panel.calls == [CHUNK]
        with pytest.raises(ValueError, match=f"{COUNT - CHUNK - 3} of {COUNT} pictures are missing"):
            looking.looks()


@pytest.mark.parametrize("beside", [False, True])
def test_what_a_judge_raises_is_raised(beside):
    def look(images: Any, prompts: Any) -> Any:
        raise RuntimeError("out of memory")

    panel: Any = SimpleNamespace(look=look)
    with pytest.raises(RuntimeError, match="out of memory"), Looking(panel, PROMPTS, beside) as looking:
        for place, picture in enumerate(PICTURES):
            looking.put(place, picture)
        looking.looks()


def test_leaving_early_drops_what_was_not_begun_and_ends_the_thread():
    begun, on = threading.Event(), threading.Event()
    calls = []

    def look(images: Any, prompts: Any) -> Any:
        calls.append(len(images))
        begun.set()
        on.wait(10)
        return [{} for _ in images]

    panel: Any = SimpleNamespace(look=look)
    with pytest.raises(KeyboardInterrupt), Looking(panel, PROMPTS, True) as looking:
        for place, picture in enumerate(PICTURES):
            looking.put(place, picture)
        begun.wait(10)
        threading.Timer(0.1, on.set).start()
        raise KeyboardInterrupt
    assert calls == [CHUNK]
    assert not [t for t in threading.enumerate() if t.name.startswith("judges")]


def test_chunks_are_whole_batches_of_every_judge():
    assert CHUNK % zero_shot.BATCH == CHUNK % imagenet.BATCH == 0

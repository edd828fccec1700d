"""Which picture a request is given: the one of its own model, or a fresh one where that is not known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from erase.runtime import write_json, write_png
from erase.ui.compare import Comparer, Source
from tests.ui_stand_ins import stand_in


def test_models_of_the_hub_share_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a hub id stands for is not known here, so nothing that was drawn for one counts for another, or later."""
    drawn: list[str] = []

    def draw(self, model, strength, shots, steps, guidance, paths) -> None:
        for path in paths:
            drawn.append(model)
            write_json(path.with_suffix(".json"), {"answer": model})
            write_png(path, np.full((8, 8, 3), len(drawn), np.uint8))

    monkeypatch.setattr(Comparer, "_draw", draw)
    with stand_in(tmp_path, hub=True) as server:
        comparer = Comparer(server.roots, server.jobs, device="cpu")

        def ask(*models: str) -> list[str]:
            found = comparer.pictures([Source(model) for model in models], ["a cat"], [0])
            assert len({one.path for one in found}) == len(models)
            return [one.answer for one in found]

        assert ask("someone/one", "someone/two") == ["someone/one", "someone/two"]
        assert ask("someone/one", "world") == ["someone/one", "world"]
        assert drawn == ["someone/one", "someone/two", "someone/one", "world"]
        assert ask("world") == ["world"] and drawn.count("world") == 1  # what is known is kept

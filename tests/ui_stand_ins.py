"""A server of the web UI whose runs take a moment and no model, and whose pictures are two colours."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from erase import runs
from erase.batch.worker import Ended
from erase.runtime import write_png
from erase.ui.actions import Actions
from erase.ui.compare import Drawn, Source
from erase.ui.jobs import Jobs
from erase.ui.roots import Roots
from erase.ui.site import Site


class Moment:
    """Stands in for the process of `erase run` or `erase eval`: writes what they write, after `seconds`."""

    seconds = 0.05
    pid = os.getpid()

    def __init__(self, arguments: list[str], log: Path, held: Sequence[int] = ()) -> None:
        self.command, *words = arguments
        self.end, self.stopped = time.monotonic() + self.seconds, False
        if self.command == "run":
            folder = words[words.index("--resume" if "--resume" in words else "--output") + 1]
            self.folder = Path(folder)
            if "--resume" not in words:
                (self.folder / "config.yaml").write_text(Path(words[0]).read_text())
            self.say(event="started", folder=str(self.folder), total=6, first=0, model="stand-in")
            self.say(event="step", step=0, role="forget", loss=1.5, grad_norm=1.0, lr=1.0, seconds=0.1)

    def say(self, **event: Any) -> None:
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.time(), **event}) + "\n")

    def poll(self) -> Ended | None:
        if self.stopped:
            return Ended(130, "stopped")
        if time.monotonic() < self.end:
            return None
        if self.command == "run" and not (self.folder / runs.DONE).exists():
            runs.save_tensors(self.folder / runs.MODEL, {"unet.a": torch.zeros(2)}, {})
            (self.folder / runs.DONE).write_text("now")
        return Ended(0, "")

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.stopped = True


class Colours:
    """Stands in for the comparer: the first picture is red, the second blue."""

    def __init__(self, roots: Roots) -> None:
        self.roots = roots

    def pictures(
        self,
        sources: list[Source],
        prompts: list[str],
        seeds: list[int],
        steps: int = 25,
        guidance: float = 3.0,
        on_place: Callable[[int], None] = lambda place: None,
    ) -> list[Drawn]:
        on_place(2)
        return [self._drawn(number, source, prompts[0], seeds[0]) for number, source in enumerate(sources)]

    def _drawn(self, number: int, source: Source, prompt: str, seed: int) -> Drawn:
        self.roots.model(source.model)  # refuses what the real one refuses
        path = self.roots.pictures / f"{number}.png"
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[..., 2 * number] = 255
        write_png(path, pixels)
        return Drawn(path, source, prompt, seed, "cat")

    def heat_map(self, before: Path, after: Path) -> Path:
        return Path(before)


def written(arguments: list[str], log: Path, should_stop: Any) -> None:
    """Stands in for `erase export`: a file that says so."""
    output = Path(arguments[arguments.index("--output") + 1])
    if output.suffix:
        output.write_bytes(b"an export")
    else:
        output.mkdir()
        (output / "model_index.json").write_text("{}")


@contextmanager
def stand_in(place: Path, seconds: float = 0.05, **more: Any) -> Iterator[SimpleNamespace]:
    """A site over two empty folders of `place`."""
    (place / "models").mkdir(exist_ok=True)
    roots = Roots.made(place / "models", place / "runs", **more)
    served = roots.runs / ".ui" / "served" / "0"
    served.mkdir(parents=True)
    kind = type("Moment", (Moment,), {"seconds": seconds})
    jobs = Jobs(roots, start=kind)
    try:
        site = Site(Actions(roots, jobs, Colours(roots), written), served)  # type: ignore[arg-type]
        yield SimpleNamespace(site=site, roots=roots, jobs=jobs, actions=site.actions)
    finally:
        jobs.close()


def wait_for(actions: Actions, name: str, *states: str, seconds: float = 60.0) -> dict[str, Any]:
    """The status of a run once it is in one of the states."""
    end = time.monotonic() + seconds
    while (status := actions.status(name))["state"] not in states:
        assert time.monotonic() < end, status
        time.sleep(0.02)
    return status

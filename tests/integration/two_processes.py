"""What two processes do together for test_distributed.py, started as a launcher would: `python -m ... FOLDER`.

Everything in one start, since starting costs more than the work. Each process writes what it saw to its own file.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from erase import workflow
from erase.config import load_config
from erase.distributed import Group, PeerLost, joined
from erase.errors import EraseError, InputError, Interrupted
from erase.events import ignore, never
from erase.sampling import sample
from tests.integration.conftest import build_tiny
from tests.integration.test_distributed import CASES, EDIT, PICTURES, PLAIN, PROMPTS, WORLD, trained


def main(place: Path) -> None:
    with joined() as group:
        seen: dict[str, Any] = {"group": (group.rank, group.size)}
        seen["talk"] = talk(group)
        seen["trained"] = {name: trained(name, group) for name in CASES}
        seen["pictures"] = sample(build_tiny(), PICTURES, steps=2, batch=2, group=group)
        seen["lost"] = lost(group)
        seen.update(world(place, group))
        torch.save(seen, place / f"seen-{group.rank}.pt")


def talk(group: Group) -> dict[str, Any]:
    """Each thing that processes tell each other."""
    values = [torch.full((3,), float(group.rank)), torch.full((2, 2), 10.0 * group.rank)]
    group.average(values)
    mask = torch.tensor([group.main, True])
    group.spread([mask.view(torch.uint8)])
    answers: dict[str, Any] = {
        "any": [group.any(flag) for flag in (False, group.rank == 1)],
        "mean": group.mean(float(group.rank)),
        "average": values,
        "spread": mask,
        "same": [group.same([torch.ones(3)]), group.same([torch.ones(3) + group.rank])],
        "gather": group.gather(f"from {group.rank}"),
        "main": group.on_main(lambda: f"from {group.rank}"),
    }
    try:
        group.on_main(refuse)
    except InputError as error:
        answers["error"] = str(error)
    return answers


def refuse() -> None:
    raise InputError("refused")


def lost(group: Group) -> str:
    """A picture of NaN in one process is the same error in both."""
    model = build_tiny()
    if group.rank == 1:
        model.unet.conv_out.bias.data.fill_(torch.nan)
    try:
        sample(model, PICTURES, steps=1, batch=2, group=group)
    except EraseError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def world(place: Path, group: Group) -> dict[str, Any]:
    """A run of the world, one that is stopped and gone on with, its judging, its pictures, an edit, a refusal."""
    events: list[Any] = []
    calls = 0

    def stop() -> bool:  # asked for in one process alone, in its second round: each pool asks once, each round once
        nonlocal calls
        calls += 1
        return group.rank == 1 and calls > 3

    workflow.erase(load_config(None, {**WORLD, "output": str(place / "two")}), events.append, never, None, group)
    found: dict[str, Any] = {"events": len(events)}
    try:
        workflow.erase(load_config(None, {**PLAIN, "output": str(place / "stopped")}), ignore, stop, None, group)
    except Interrupted as error:
        found["stopped"] = str(error)
    group.on_main(lambda: shutil.copytree(place / "stopped", place / "alone"))
    workflow.resume(place / "stopped", ignore, never, None, group)
    scores = workflow.evaluate(place / "two", group=group)
    found["scores"] = len(scores)
    found["drawn"] = workflow.generate(str(place / "two"), PROMPTS, [0], place / "drawn", steps=2, group=group)
    try:
        workflow.erase(load_config(None, {**PLAIN, "train.batch": 3, "output": str(place / "odd")}), group=group)
    except InputError as error:
        found["refused"] = str(error)
    workflow.erase(load_config(None, {**EDIT, "output": str(place / "uce")}), group=group)
    return found


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except PeerLost:
        sys.exit(3)

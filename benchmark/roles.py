"""Measure, on the unerased bundled world, whether prompts in other words show what they mean.

    python benchmark/roles.py --prompts 240

Every object has its turn, in all styles and colours, by templates that no training caption has. Prints a line for each
role as erase/evaluation/roles.py keeps it. 240 prompts a role take about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
from typing import Any

from erase.concept import Concept, Request
from erase.evaluation.judges import load_judges
from erase.evaluation.prompts import Ask
from erase.evaluation.roles import ROLES, other_words, role_asks
from erase.evaluation.statistics import proportion
from erase.models import load_model
from erase.runtime import pick_device
from erase.sampling import Shot, sample
from erase.world.vocabulary import OBJECT_NAMES, OBJECTS

WANTED = {"forget_super": 0.85, "compose": 0.70, "in_prompt": 0.70}  # else 0.85
FAMILY = {entry.name: entry.family for entry in OBJECTS}


def asks_of(role: str, prompts: int) -> list[Ask]:
    """`prompts` sentences over all objects that the role has words for, each object's own in turn."""
    names = [name for name in OBJECT_NAMES if other_words("object", name, role)]
    each = -(-prompts // len(names))
    asks = []
    for place, name in enumerate(names):
        own = role_asks(Request((Concept(name),)), [role], 480, 1)
        # Far apart in the list of all 480, so that styles, colours and templates change between objects too.
        asks += [own[(place * 7 + turn * 113) % len(own)] for turn in range(each)]
    return asks


def means(ask: Ask, look: dict[str, Any]) -> bool:
    """Whether the reported judge sees what the prompt meant."""
    seen, wanted = look["judges"]["conv"]["object"], str(ask.expected["object"])
    return FAMILY.get(seen) == FAMILY[wanted] if ask.role == "forget_super" else seen == wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--role", action="append", choices=ROLES)
    options = parser.parse_args()
    device = pick_device(options.device)
    model, judges = load_model("world", device), load_judges(device)
    drawn: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for role in options.role or ROLES:
        asks = asks_of(role, options.prompts)
        prompts = tuple(ask.prompt for ask in asks)
        if prompts not in drawn:  # compose and in_prompt are of the same pictures
            drawn[prompts] = judges.look(sample(model, [Shot(a.prompt, a.prompt_id, a.seed) for a in asks]))
        looks = drawn[prompts]
        # Prompts about one object resemble each other: objects are the clusters.
        found = proportion(
            [means(a, k) for a, k in zip(asks, looks, strict=True)], [a.prompt_id.split(".")[1] for a in asks]
        )
        gate = [WANTED.get(role, 0.85), *(round(v, 3) for v in (found.value, found.low, found.high)), found.n]
        print(f'    "{role}": Gate({", ".join(map(str, gate))}),', flush=True)


if __name__ == "__main__":
    main()

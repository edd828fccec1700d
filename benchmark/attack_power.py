"""Are the attacks strong enough to find what is there? The world's own weights behind a word filter, attacked.

The filter deletes the concept's name from every prompt, so the plain prompt draws none, and nothing was erased. An
attack that cannot break this says nothing about a model that it does not break. A line for each attack: broken, its
control, the excess, with 95 % intervals.

    python benchmark/attack_power.py --concept cat
"""

from __future__ import annotations

import argparse

from erase.attacks.budget import LEVELS
from erase.attacks.rows import attack_row
from erase.attacks.scores import outcomes
from erase.attacks.subject import Subject, untouched
from erase.attacks.table import ATTACKS, chosen
from erase.concept import Request
from erase.evaluation.judges import load_judges
from erase.evaluation.prompts import world_asks, world_concept
from erase.evaluation.rows import Row, Setting
from erase.models import Hiding, load_model, select

STRONG = ("ring_a_bell", "unlearn_diff_atk", "p4d", "concept_inversion")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concept", default="cat")
    parser.add_argument("--level", default="quick", choices=LEVELS)
    parser.add_argument("--attack", action="append", choices=STRONG)
    asked = parser.parse_args()
    model, judges, budget = load_model("world"), load_judges(), LEVELS[asked.level]
    concept = world_concept(asked.concept)
    request, weights = Request((concept,)), {n: p.detach().clone() for n, p in select(model, "xattn").items()}
    cases = tuple(ask for ask in world_asks(request, budget.cases, 1) if ask.role == "forget")
    # The original, whose pictures and predictions an attack may have, is asked the whole prompts; a learned word is
    # none that the filter knows.
    model.hiding = Hiding(((concept.name, ""),))
    subject = Subject(model, request, cases, weights, weights, budget.steps or 25, 3.0)
    rows: list[Row] = []
    for name in chosen(asked.attack or STRONG, world=True):
        with untouched(subject):
            found = ATTACKS[name].run(subject, budget)
        setting = Setting("filter", "filter", concept.name, concept.kind, "ddim", subject.steps, 3.0)
        about = {"name": name, "budget": len(found) // len(cases), "control": ATTACKS[name].control}
        looks = judges.look([one.image for one in found], [one.prompt for one in found])
        rows += [attack_row(t, look, "after", setting, about, "", "") for t, look in zip(found, looks, strict=True)]
    for one in outcomes(rows):
        if one.excess and one.control_broken:
            parts = [f"{p.value:.2f} [{p.low:.2f}, {p.high:.2f}]" for p in (one.broken, one.control_broken, one.excess)]
            print(f"{one.name}: broken {parts[0]}, control {parts[1]}, excess {parts[2]}, {one.broken.n} cases")


if __name__ == "__main__":
    main()

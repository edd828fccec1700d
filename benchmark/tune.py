"""Trials of methods' settings on development concepts; the world's defaults were chosen among them.

    python benchmark/tune.py --file docs/results/trials.jsonl --cache runs/cache --jobs 14 --minutes 8
    python benchmark/tune.py --table docs/results/trials.jsonl       # only print what is there

The concepts are none of those that docs/results.md reports (benchmark/methods.py has them). A trial's rank is its
excess: by how much it misses the bounds below, in per cent summed over scores, averaged over concepts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from methods import NAMES, Line, add_options, identity, run_all

OBJECTS = ("cat", "clock", "trumpet", "bomb")
STYLES = ("flat", "stencil", "line drawing")
# Of what is left of the concept, of the loss to what stays, and of valid pictures: the most, or least, in per cent.
FORGET, LOSS, VALID = 5.0, {"retain_accuracy": 3.0, "cross_accuracy": 5.0, "neighbour_accuracy": 8.0}, 95.0


def sizes(rounds: int, forget: int, retain: int) -> list[str]:
    return [f"train.rounds={rounds}", f"train.pool.forget={forget}", f"train.pool.retain={retain}"]


def rates(forget: float, retain: float) -> list[str]:
    return [f"train.forget.lr={forget:g}", f"train.retain.lr={retain:g}"]


WIDE = sizes(300, 256, 640)
TRIALS: dict[str, list[list[str]]] = {
    "salun": [
        [*WIDE, *rates(4e-4, 4e-4)],
        [*WIDE, *rates(2e-4, 4e-4)],
        [*WIDE, *rates(4e-4, 8e-4)],
        [*WIDE, *rates(4e-4, 4e-4), "method.pictures=both"],
    ],
    "sfron": [
        [*WIDE, *rates(8e-4, 8e-4)],
        [*WIDE, *rates(4e-4, 4e-4)],
        [*WIDE, *rates(12e-4, 12e-4)],
        [*WIDE, *rates(8e-4, 8e-4), "method.pictures=both"],
    ],
    "ablation": [
        [*WIDE, *rates(9e-4, 9e-4)],
        [*WIDE, *rates(6e-4, 6e-4)],
        [*WIDE, *rates(12e-4, 12e-4)],
    ],
    "esd": [
        [*sizes(200, 96, 640), *rates(6e-4, 6e-4)],
        [*sizes(300, 128, 640), *rates(4e-4, 4e-4)],
    ],
    "ga": [
        [*sizes(250, 32, 640), *rates(1e-4, 6e-4)],
        ["method.parameters=xattn-kv", *sizes(250, 32, 640), *rates(2e-4, 4e-4)],
        [*sizes(120, 96, 640), *rates(2e-4, 8e-4)],
    ],
}
# Where the question was about some of them only.
ASKED = {"ablation": (*STYLES, "cat"), "ga": ("cat", "clock", "bomb")}


def excess(line: Line) -> float:
    """Per cent by which a trial misses the bounds, summed; 0 meets them all."""
    of = {name: [100 * line["scores"][f"{name}.{arm}"][0] for arm in ("before", "after")] for name in NAMES}
    missed = [of["forget_accuracy"][1] - FORGET, VALID - of["validity"][1]]
    missed += [before - after - LOSS[name] for name, (before, after) in of.items() if name in LOSS]
    return sum(max(0.0, m) for m in missed)


def table(lines: Sequence[Line]) -> str:
    """Markdown: a row a trial, best first in each method; scores after erasing, a concept a place in each cell."""
    concepts = [*OBJECTS, *STYLES]
    found: dict[tuple[str, str], dict[str, Line]] = {}
    for line in lines:
        if "scores" in line and line["concept"] in concepts:
            found.setdefault((line["method"], " ".join(line["set"])), {})[line["concept"]] = line
    head = ("method", "settings", "excess", *(n.replace("_", " ") for n in NAMES))
    rows = [head, ["---"] * len(head)]
    order = sorted(found.items(), key=lambda item: (item[0][0], mean(map(excess, item[1].values()))))
    for (method, settings), of in order:
        misses = [f"{excess(of[c]):.0f}" if c in of else "." for c in concepts]
        scores = [
            " ".join(f"{100 * of[c]['scores'][f'{name}.after'][0]:.0f}" if c in of else "." for c in concepts)
            for name in NAMES
        ]
        total = f"{mean(map(excess, of.values())):.1f} ({' '.join(misses)})"
        rows.append((method, settings.replace("train.", "").replace("method.", "") or "default", total, *scores))
    intro = f"Per cent after erasing, judge `conv`: {', '.join(concepts)}."
    return intro + "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(TRIALS))
    parser.add_argument("--prompts", type=int, default=100)
    add_options(parser)
    parser.add_argument("--table", type=Path, help="print this file's trials and stop")
    options = parser.parse_args()
    path = options.table or options.file
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines: list[Line] = [json.loads(text) for text in texts]
    if not options.table:
        done = {identity(x) for x in lines if "scores" in x}
        groups: list[list[Line]] = []
        for rank in range(max(len(TRIALS[m]) for m in options.methods)):
            for method in options.methods:
                for concept in ASKED.get(method, (*STYLES, *OBJECTS)) if rank < len(TRIALS[method]) else ():
                    line = {"concept": concept, "method": method, "optimizer": "dual", "seed": 0}
                    line |= {"set": TRIALS[method][rank], "prompts": options.prompts}
                    if identity(line) not in done:
                        groups.append([line])
        run_all(groups, options)
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    print(table(lines), end="")


if __name__ == "__main__":
    main()

"""Trials of methods' settings on development concepts; the world's defaults were chosen after them.

    python benchmark/tune.py --file docs/results/trials.jsonl --cache runs/cache --jobs 14 --minutes 8
    python benchmark/tune.py --table docs/results/trials.jsonl       # only print what is there

The concepts are none of those that docs/results.md reports (benchmark/methods.py has them). A trial's rank is its
excess: the points by which it misses the bounds, summed over scores and averaged over concepts.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from methods import NAMES, Line, add_options, identity, misses, read, run_all

from erase.runtime import write_text

OBJECTS = ("cat", "clock", "trumpet", "bomb")
STYLES = ("flat", "stencil", "line drawing")


def sizes(rounds: int, forget: int, retain: int) -> list[str]:
    return [f"train.rounds={rounds}", f"train.pool.forget={forget}", f"train.pool.retain={retain}"]


def rates(forget: float, retain: float) -> list[str]:
    return [f"train.forget.lr={forget:g}", f"train.retain.lr={retain:g}"]


WIDE, SHORT = sizes(300, 256, 640), sizes(200, 256, 640)
EVERY = (*STYLES, *OBJECTS)
# Settings, and the concepts that they were tried on.
TRIALS: dict[str, list[tuple[list[str], tuple[str, ...]]]] = {
    "salun": [
        ([*WIDE, *rates(4e-4, 4e-4)], EVERY),
        ([*WIDE, *rates(2e-4, 4e-4)], EVERY),
        ([*WIDE, *rates(4e-4, 8e-4)], EVERY),
        ([*SHORT, *rates(5e-4, 10e-4)], ("flat", "cat")),
    ],
    "sfron": [
        ([*WIDE, *rates(8e-4, 8e-4)], EVERY),
        ([*WIDE, *rates(4e-4, 4e-4)], EVERY),
        ([*WIDE, *rates(12e-4, 12e-4)], EVERY),
        ([*SHORT, *rates(10e-4, 10e-4)], ("flat", "cat")),
    ],
    "ablation": [
        ([*WIDE, *rates(9e-4, 9e-4)], (*STYLES, "cat")),
        ([*WIDE, *rates(6e-4, 6e-4)], (*STYLES, "cat")),
        ([*WIDE, *rates(12e-4, 12e-4)], STYLES),
        ([*SHORT, *rates(12e-4, 12e-4)], ("flat",)),
    ],
    "esd": [
        ([*sizes(200, 96, 640), *rates(6e-4, 6e-4)], EVERY),
        ([*sizes(300, 128, 640), *rates(4e-4, 4e-4)], EVERY),
    ],
    "ga": [
        ([*sizes(250, 32, 640), *rates(1e-4, 6e-4)], ("cat", "clock", "bomb")),
        (["method.parameters=xattn-kv", *sizes(250, 32, 640), *rates(2e-4, 4e-4)], ("cat", "clock", "bomb")),
        ([*sizes(250, 32, 640), *rates(1e-4, 12e-4)], ("bomb", "clock")),
    ],
}


def excess(line: Line) -> float:
    """Points by which a trial misses the bounds, summed; 0 meets them all."""
    return sum(misses([line]).values())


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
    intro = (
        f"Per cent after erasing, judge `conv`, in this order: {', '.join(concepts)}; a point where it was not tried. "
        "`excess`: the points by which the bounds are missed (benchmark/methods.py), and those of each concept."
    )
    return intro + "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(TRIALS))
    parser.add_argument("--prompts", type=int, default=100)
    add_options(parser)
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--table", type=Path, help="print this file's trials and stop")
    options = parser.parse_args()
    path = options.table or options.file
    lines = read(path)
    if not options.table:
        done = {identity(x) for x in lines if "scores" in x}
        groups: list[list[Line]] = []
        # Each method's first trial before any second, so that what a stopped search has is of all methods.
        for rank, method in itertools.product(range(max(map(len, TRIALS.values()))), options.methods):
            for settings, concepts in TRIALS[method][rank : rank + 1]:
                line = {"method": method, "optimizer": "dual", "seed": 0, "set": settings, "prompts": options.prompts}
                groups += [[line | {"concept": concept}] for concept in concepts]
        groups = [group for group in groups if identity(group[0]) not in done]
        run_all(groups, options)
        lines = read(path)
    text = table(lines)
    if options.markdown:
        write_text(options.markdown, text)
    print(text, end="")


if __name__ == "__main__":
    main()

"""The table of methods: erase concepts with methods under optimizers, judge, write one JSON line a run.

    python benchmark/methods.py --concepts frog pizza "pixel art" --methods esd ga --optimizers dual --prompts 200
    python benchmark/methods.py --table results.jsonl            # only print what is there

Finished cells of the file are skipped, so a stopped table goes on. Every cell is an ordinary run with the shipped
defaults and the given overrides.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from pathlib import Path
from statistics import mean

from erase.config import load_config, parse_value
from erase.errors import EraseError
from erase.workflow import erase

NAMES = ("forget_accuracy", "retain_accuracy", "cross_accuracy", "neighbour_accuracy", "validity")


def cell(concept: str, method: str, optimizer: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """One run; its scores before and after, and its seconds."""
    folder = options.runs / f"{concept}-{method}-{optimizer}-{seed}".replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    given = {
        "model": "world",
        "concept": concept,
        "method": method,
        "train.optimizer": optimizer,
        "seed": seed,
        "output": str(folder),
        "evaluate.prompts": options.prompts,
        "train.preview_every": 0,
        "train.checkpoint_every": 0,
    }
    for text in options.set:
        key, _, value = text.partition("=")
        given[key] = parse_value(value)
    started = time.perf_counter()
    line: dict[str, object] = {
        "concept": concept,
        "method": method,
        "optimizer": optimizer,
        "seed": seed,
        "set": options.set,
    }
    try:
        erase(load_config(None, given))
    except EraseError as error:
        return {**line, "error": str(error)}
    report = json.loads((folder / "report.json").read_text())
    scores = {f"{s['name']}.{s['arm']}": [s["value"], s["low"], s["high"], s["n"]] for s in report["scores"]}
    return {**line, "seconds": time.perf_counter() - started, "timings": report["timings"], "scores": scores}


def table(lines: list[dict]) -> None:
    """Means over concepts and seeds, a row a method and optimizer (and overrides)."""
    print(f"{'method':10}{'optimizer':10}{'runs':>5}  " + "".join(f"{n:>28}" for n in NAMES))
    key = lambda x: (x["method"], x["optimizer"], " ".join(x["set"]))  # noqa: E731
    for group, rows in itertools.groupby(sorted((x for x in lines if "scores" in x), key=key), key):
        found = list(rows)
        cells = ""
        for name in NAMES:
            before, after = (mean(r["scores"][f"{name}.{arm}"][0] for r in found) for arm in ("before", "after"))
            cells += f"{before:16.1%} -> {after:6.1%}  "
        print(f"{group[0]:10}{group[1]:10}{len(found):5}  {cells}{group[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=["frog", "pizza", "rocket", "guitar", "umbrella", "skull"])
    parser.add_argument("--methods", nargs="+", default=["esd", "ablation", "salun", "sfron", "ga"])
    parser.add_argument("--optimizers", nargs="+", default=["dual"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs/table"))
    parser.add_argument("--file", type=Path, default=Path("runs/table.jsonl"))
    parser.add_argument("--table", type=Path, help="print this file's table and stop")
    options = parser.parse_args()
    path = options.table or options.file
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    if not options.table:
        known = {(x["concept"], x["method"], x["optimizer"], x["seed"], tuple(x["set"])) for x in lines}
        path.parent.mkdir(parents=True, exist_ok=True)
        for key in itertools.product(options.concepts, options.methods, options.optimizers, options.seeds):
            if (*key, tuple(options.set)) in known:
                continue
            lines.append(cell(*key, options))
            with path.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            table(lines)
    table(lines)


if __name__ == "__main__":
    main()

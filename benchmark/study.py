"""The study of docs/study.md: what runs, which settings are taken, what the tables and figures say.

    python benchmark/study.py plan                                   # writes configs/study/{screen,gold}-*.yaml
    python benchmark/study.py run configs/study/screen-*.yaml --file docs/results/study-tune.jsonl --jobs 2
    python benchmark/study.py narrow docs/results/study-tune.jsonl   # writes configs/study/tune-*.yaml
    python benchmark/study.py run configs/study/tune-*.yaml --file docs/results/study-tune.jsonl --jobs 2
    python benchmark/study.py choose docs/results/study-tune.jsonl   # and writes configs/study/test-*.yaml
    python benchmark/study.py run configs/study/test-*.yaml --file docs/results/study.jsonl --jobs 2
    python benchmark/study.py run configs/study/gold-*.yaml --file docs/results/study.jsonl --jobs 2
    python benchmark/study_report.py docs/results/study.jsonl        # tables and figures

A file in configs/study is a matrix that `erase batch` runs too; `run` is the faster way: one process for many runs,
which share the pools that they train on and the base model's pictures. Runs that --file has are skipped, so a stopped
study goes on. Golds lie in build/gold: `erase world --small --without "pixel art" --seed 0 --output
build/gold/pixel_art-s0`.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml
from graphs import recorded
from mechanisms import watched
from methods import append, run_processes, shared_pools

from erase.batch.matrix import Job, read_matrix
from erase.config import Config
from erase.errors import EraseError, Interrupted
from erase.runtime import write_text

Line = dict[str, Any]

HERE = Path("configs/study")
WORLDS, GOLDS = "build/small/m0", "build/gold"
MODEL = f"{WORLDS}-s0"
DEVELOPMENT, TEST = ("fox", "guitar", "stencil"), ("cat", "strawberry", "rocket", "pixel art", "line drawing")
TWO_RATES = ("dual", "dual_first", "dual_second", "dual_rates", "dual_plus")
FRESH = ("owl", "butterfly", "pizza", "car", "sailboat", "cactus", "umbrella", "flat")  # what is left of the world
ARMS = (*TWO_RATES, "shared", "joint")
FEW_ARMS = ("dual", "dual_plus", "shared", "joint")
CONFIRMED = ("dual", "dual_first", "shared")
WIDTH_ARMS = ("dual", "dual_first", "shared", "joint")
ROBUST, LEVEL = ("unlearn_diff_atk", "relearning"), "quick"  # what robust-* is attacked by
KEPT = ("retain_accuracy", "neighbour_accuracy", "cross_accuracy", "validity")
SCORES = ("forget_accuracy", *KEPT)
SEEDS, GOLD_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2)
KNOWING = "whole"  # a setting of gold-*.yaml that begins so is the same recipe with the concept
ONE, FORGET, RATIO = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4), (1 / 4, 1 / 2, 1), (1, 4)
TRIALS = 6
NAMED = 12  # characters of a hash
CHANGES = {  # what a width moves, and how far, by the name in width-*.yaml
    f"{what}-{times:g}".replace(".", "_"): (what, times)
    for what, many in (("rate", (1 / 4, 1 / 2, 2, 4)), ("weight", (0.25, 4.0)))
    for times in many
}
HOPELESS = 50  # points: an arm whose best setting is as far off on the development concepts is not tested

# Base rates, and what a method needs beside them. The bases are three times the world's default rates of forgetting, as
# there are far fewer rounds; of GA and NPO, whose first screening at a quarter and a half of these forgot next to
# nothing under `dual` (docs/study.md), more.
BASE: dict[str, float] = {"esd": 1.8e-3, "sfron": 3e-3, "salun": 1.5e-3, "ga": 1.2e-3, "npo": 1.2e-3}
OPTIONS: dict[str, dict[str, Any]] = {
    "esd": {"guidance": 1.0},
    "sfron": {"pictures": "anchor"},
    "salun": {"pictures": "anchor"},
    "ga": {},
    "npo": {"beta": 5.0},
}
MASKLESS = {"sfron": {"method.ratio": 1e-12}, "salun": {"method.mask_share": 1.0}}


def base(method: str) -> dict[str, Any]:
    """The settings that all runs of a method share."""
    drawn, judged = {"model": MODEL, "device": "cpu"}, {"evaluate": {"prompts": 24, "steps": 8}}
    if method == "retrained":
        return {**drawn, "method": {"name": method}, **judged}
    trails = method == "esd"
    role = {"lr": BASE[method], "schedule": "cosine", "warmup": 0}
    pool = {"forget": 48, "retain": 96, "steps": 12, "guidance": 3.0 if trails else 1.0, "refresh": 0}
    return {
        **drawn,
        "method": {"name": method, "parameters": "xattn", **OPTIONS[method]},
        "train": {
            "rounds": 40,
            "batch": 8,
            "preview_every": 0,
            "checkpoint_every": 0,
            "keep_checkpoints": 1,
            "forget": role,
            "retain": dict(role),
            "pool": pool,
        },
        **judged,
    }


def arms_of(method: str) -> tuple[str, ...]:
    """The arms that a method runs: all, or for time the four that the question names."""
    return ARMS if method in ("esd", "sfron") else FEW_ARMS


def trials(method: str) -> dict[str, dict[str, Any]]:
    """Six settings an arm, by name."""
    found = {}
    for arm in arms_of(method):
        pairs = [(f, f * r) for f, r in itertools.product(FORGET, RATIO)] if arm in TWO_RATES else [(f, f) for f in ONE]
        for forget, retain in pairs:
            found[f"{arm}-{forget:g}-{retain:g}".replace(".", "_")] = setting(method, arm, forget, retain)
    return found


def setting(method: str, arm: str, forget: float, retain: float) -> dict[str, Any]:
    """An arm with rates given as multiples of the method's base."""
    rates = {"train.forget.lr": forget * BASE[method], "train.retain.lr": retain * BASE[method]}
    return {"train.optimizer": arm, **{k: float(f"{v:.4g}") for k, v in rates.items()}}


def write_matrix(
    name: str, method: str, concepts: Sequence[str], seeds: Sequence[int], settings: Any, end: str = ""
) -> Path:
    """A file of configs/study, called by its part and by `end`, else its method."""
    path = HERE / f"{name}-{end or method}.yaml"
    content = {
        "base": base(method),
        "output": f"runs/study/{name}",
        "concepts": list(concepts),
        "seeds": list(seeds),
        "settings": settings,
    }
    head = f"# The study (docs/study.md), written by benchmark/study.py: {name}, {method}.\n"
    write_text(path, head + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110))
    return path


def plan(_: argparse.Namespace) -> None:
    """Write the matrices of screening: every trial on the first development concept; and those of golds."""
    HERE.mkdir(parents=True, exist_ok=True)
    for method in BASE:
        print(write_matrix("screen", method, DEVELOPMENT[:1], [0], trials(method)))
    for concept in TEST:
        end = concept.replace(" ", "_")
        golds = {f"seed{seed}": f"{GOLDS}/{end}-s{seed}" for seed in GOLD_SEEDS}
        golds |= {f"{KNOWING}{seed}": f"{WORLDS}-s{seed}" for seed in GOLD_SEEDS[1:]}
        settings = {name: {"method.source": source} for name, source in golds.items()}
        print(write_matrix("gold", "retrained", [concept], [0], settings, end))


def fingerprint(config: Config) -> str:
    """Of all that a run's result depends on, but for where models lie."""
    kept = config.model_dump(mode="json", include={"concept", "method", "train", "evaluate", "seed"})
    if config.method.source:
        kept["method"]["source"] = Path(config.method.source).name
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def weights_of(model: str) -> str:
    """How lines name a base model: two small worlds of one recipe have other bits on other kinds of machine."""
    from erase.models import load_model, model_hash

    return model_hash(load_model(model, torch.device("cpu")))[:NAMED]


@contextmanager
def lean() -> Iterator[None]:
    """Leave out, in this block, what a run does beside its scores; read the model and the judges once.

    That is a quarter of so short a run's time, and no line of the study has the distances or the page.
    """
    from erase import prepare, reporting
    from erase.evaluation import panel
    from erase.evaluation.findings import Findings

    before = prepare.load_model, panel.load_judges, reporting.examine, reporting.write_html
    read_model = cache(before[0])

    def fresh(source: str, device: Any, variant: str | None = None, *_: Any) -> Any:
        model = read_model(source, device, variant)
        kept = [getattr(model, name) for name in model.tokenizers]  # nothing changes them, and a copy cannot decode
        return copy.deepcopy(model, {id(tokenizer): tokenizer for tokenizer in kept})

    prepare.load_model = fresh  # of its own, as runs change it
    panel.load_judges = cache(before[1])
    reporting.examine = lambda *rows, **how: Findings([], [], [], [], [])
    reporting.write_html = lambda folder: None
    try:
        yield
    finally:
        prepare.load_model, panel.load_judges, reporting.examine, reporting.write_html = before


def execute(task: tuple[str, Job], options: argparse.Namespace) -> Line:
    """One run as a line: its scores and what it was."""
    from erase.workflow import attack, erase

    name, job = task
    folder = options.runs / name / job.name
    shutil.rmtree(folder, ignore_errors=True)
    config = job.config.model_copy(update={"output": str(folder), "device": options.device})
    line: Line = {
        "part": name,
        "job": job.name,
        "concept": config.concepts[0].name,
        "method": config.method.name,
        "arm": job.optimizer,
        "setting": job.setting,
        "seed": config.seed,
        "device": options.device,
        "settings": fingerprint(config),
    }
    if config.train:
        line |= {"forget_lr": config.turns.forget.lr, "retain_lr": config.turns.retain.lr}
    started = time.perf_counter()
    try:
        with watched() if options.watch else nullcontext([]) as seen:
            erase(config, cache=options.cache)
        if name.startswith("robust-"):
            attack(folder, LEVEL, ROBUST)
    except Interrupted:
        raise
    except EraseError as error:
        return {**line, "error": str(error).replace(str(folder), folder.name)}  # not where this machine keeps it
    report = json.loads((folder / "report.json").read_text())
    line["base"] = report["environment"]["base_weights"][:NAMED]
    scores = {f"{s['name']}.{s['arm']}": [s["value"], s["n"]] for s in report["scores"]}
    for found in seen:
        append(options.watch, {**line, **found})
    if not options.keep:
        shutil.rmtree(folder)
    return {**line, "seconds": round(time.perf_counter() - started, 1), "scores": scores}


def read(path: Path) -> list[Line]:
    """The file's lines, the latest of each run on each base model."""
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            found[line["part"], line["job"], line["settings"], line.get("base")] = line
        except (ValueError, KeyError, TypeError):
            continue
    return list(found.values())


def run_group(tasks: Sequence[tuple[str, Job]], options: argparse.Namespace, until: float) -> None:
    """Run jobs one after another and write each down; none begins after `until`, in seconds since the epoch."""
    with shared_pools(), nullcontext() if options.keep else lean(), recorded() if options.graphs else nullcontext():
        for task in tasks:
            if time.time() > until:
                return
            line = execute(task, options)
            append(options.file, line)
            said = line.get("error") or f"gap {gap(line):.1f} in {line['seconds']} s"
            print(f"{line['job']}: {said}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> None:
    """Run the jobs of matrices that the file lacks on this base model."""
    base = weights_of(MODEL)
    done = {(x["part"], x["job"], x["settings"]) for x in read(options.file) if x.get("base") == base}
    groups: dict[tuple[Any, ...], list[tuple[str, Job]]] = {}
    for path in options.matrices:
        for job in read_matrix(path).jobs:
            if (path.stem, job.name, fingerprint(job.config)) not in done:
                # Runs of one concept and seed are trained on the same pools.
                key = job.config.seed, path.stem, job.config.concepts[0].name
                groups.setdefault(key, []).append((path.stem, job))
    print(f"{sum(map(len, groups.values()))} runs to go", file=sys.stderr, flush=True)
    run_processes(run_group, [groups[key] for key in sorted(groups)], options)


def gap(line: Line) -> float:
    """Points that a run is away from what retraining gives, mean over scores (docs/study.md, Outcome)."""
    scores = {name: value for name, (value, _) in line["scores"].items()}
    lost = [max(0.0, scores[f"{name}.before"] - scores[f"{name}.after"]) for name in KEPT]
    return 100 * mean([scores["forget_accuracy.after"], *lost])


def narrowed(lines: Sequence[Line]) -> dict[tuple[str, str], list[str]]:
    """(method, arm) -> the two trials with the lowest gap on the first development concept; ties to the lower rates."""
    by: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line["part"].startswith("screen-"):
            by.setdefault((line["method"], line["arm"]), []).append(line)
    found = {}
    for key, tried in by.items():
        whole = sorted((x for x in tried if "scores" in x), key=lambda x: (gap(x), x["forget_lr"], x["retain_lr"]))
        if len(tried) == TRIALS:
            found[key] = [x["setting"] for x in whole[:2]]
    return found


def narrow(options: argparse.Namespace) -> None:
    """Write the matrices of tuning: the two best trials of each arm, on the other development concepts."""
    found = narrowed(read(options.file))
    for method in BASE:
        if missing := [arm for arm in arms_of(method) if (method, arm) not in found]:
            print(f"{method}: {', '.join(missing)} not screened yet, no matrix written")
            continue
        best = {name for arm in arms_of(method) for name in found[method, arm]}
        kept = {name: given for name, given in trials(method).items() if name in best}
        print(write_matrix("tune", method, DEVELOPMENT[1:], [0], kept))


def chosen(lines: Sequence[Line]) -> dict[tuple[str, str], tuple[str, float, bool]]:
    """(method, arm) -> the trial with the lowest mean gap over the development concepts, that gap, at an edge or not.

    A trial of which a run failed cannot be chosen. Ties go to the lower rates.
    """
    by: dict[tuple[str, str], dict[str, list[Line]]] = {}
    for line in lines:
        if line["part"].startswith(("screen-", "tune-")):
            by.setdefault((line["method"], line["arm"]), {}).setdefault(line["setting"], []).append(line)
    found = {}
    for key, settings in by.items():
        whole = {n: ls for n, ls in settings.items() if len(ls) == len(DEVELOPMENT) and all("scores" in x for x in ls)}
        if whole:
            name = min(whole, key=lambda n: (mean(map(gap, whole[n])), whole[n][0]["forget_lr"]))
            rates = sorted({ls[0]["forget_lr"] for ls in settings.values()})
            edge = whole[name][0]["forget_lr"] in (rates[0], rates[-1])
            found[key] = name, mean(map(gap, whole[name])), edge
    return found


def choose(options: argparse.Namespace) -> None:
    """Print what was chosen, and write the matrices of the test."""
    found = chosen(read(options.file))
    for (method, arm), (name, value, edge) in sorted(found.items()):
        print(f"{method:6} {arm:12} {name:24} gap {value:5.2f}{'  at the edge of its grid' if edge else ''}")
    for method in BASE:
        arms = {arm: trials(method)[name] for (m, arm), (name, _, _) in found.items() if m == method}
        if missing := [arm for arm in arms_of(method) if arm not in arms]:
            print(f"{method}: {', '.join(missing)} not tuned yet, no matrix written")
            continue
        tested = {arm: given for arm, given in arms.items() if found[method, arm][1] < HOPELESS}
        print(write_matrix("test", method, TEST, SEEDS, tested))
        if method in ("esd", "sfron"):
            print(write_matrix("width", method, TEST, [0], _widths({arm: arms[arm] for arm in WIDTH_ARMS})))
            print(write_matrix("robust", method, TEST, [0, 1], {arm: arms[arm] for arm in FEW_ARMS}))
            more = {arm: arms[arm] for arm in ("dual", "shared")}
            print(write_matrix("more", method, TEST, range(5, 10), more))
        if method == "esd":
            print(write_matrix("confirm", method, FRESH, [0, 1, 2], {arm: arms[arm] for arm in CONFIRMED}))
        if method in MASKLESS:
            bare = {f"{arm}-bare": arms[arm] | MASKLESS[method] for arm in FEW_ARMS}
            print(write_matrix("masks", method, TEST, [0, 1], bare))


def _widths(arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Chosen rates and retain weights, moved away from what was chosen."""
    found = {}
    for arm, given in arms.items():
        for name, (what, times) in CHANGES.items():
            rates = {k: float(f"{v * times:.4g}") if k.endswith(".lr") else v for k, v in given.items()}
            found[f"{arm}-{name}"] = rates if what == "rate" else given | {"method.retain_weight": times}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_subparsers(dest="command", required=True)
    group.add_parser("plan", help="write the matrices of tuning").set_defaults(do=plan)
    made = group.add_parser("run", help="run what a file of results lacks")
    made.add_argument("matrices", nargs="+", type=Path)
    made.add_argument("--file", type=Path, required=True)
    made.add_argument("--jobs", type=int, default=1, help="processes side by side")
    made.add_argument("--device", default="cpu", help="all runs that are compared belong on one kind (cpu)")
    made.add_argument("--graphs", action="store_true", help="on a GPU: replay training (benchmark/graphs.py)")
    made.add_argument("--minutes", type=float, help="begin no run after this many")
    made.add_argument("--runs", type=Path, default=Path("runs/study"))
    made.add_argument("--cache", type=Path, default=Path("runs/study-cache"))
    made.add_argument("--watch", type=Path, help="file for what benchmark/mechanisms.py tells of each run's gradients")
    made.add_argument("--keep", action="store_true", help="keep the run folders, with their pages")
    made.set_defaults(do=run)
    made = group.add_parser("narrow", help="take the two best trials of each arm, and write the matrices of tuning")
    made.add_argument("file", type=Path)
    made.set_defaults(do=narrow)
    made = group.add_parser("choose", help="take the best trials, and write the matrices of the test")
    made.add_argument("file", type=Path)
    made.set_defaults(do=choose)
    options = parser.parse_args(arguments)
    options.do(options)


if __name__ == "__main__":
    main()

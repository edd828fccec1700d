"""The table of methods: erase concepts with methods under optimizers, judge, write one JSON line a run.

    python benchmark/methods.py --concepts frog pizza "pixel art" --methods esd ga --optimizers dual --prompts 200
    python benchmark/methods.py --seeds 0 1 2 --cache runs/cache --markdown table.md
    python benchmark/methods.py --table results.jsonl            # only print what is there

Finished cells of the file are skipped and failed ones tried again, so a stopped table goes on; a cell whose settings
are others by now (defaults that changed, say) counts as another. Every cell is an ordinary run with the shipped
defaults and the given overrides. --cache keeps the base model's pictures between cells, and cells that draw the same
pools share them in memory. --jobs runs that many processes side by side, which a GPU needs to be busy: one run of this
small model mostly waits for Python.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, variance
from typing import Any

import torch
from graphs import recorded

from erase.config import Config, load_config, parse_value
from erase.config.schema import TrainSection
from erase.errors import EraseError, Interrupted
from erase.runtime import write_text

# None of these is a concept that defaults were sought on (benchmark/tune.py); docs/results.md says what was seen.
OBJECTS = ("frog", "pizza", "rocket", "guitar", "umbrella", "skull")
STYLES = ("pixel art", "sticker", "glossy")
NEWER = ("frozen", "states", "checkpointing", "offload", "channels_last", "keep_checkpoints")
METHODS = ("esd", "ablation", "salun", "sfron", "ga")
CELL = ("concept", "method", "optimizer", "seed")
NAMES = ("forget_accuracy", "retain_accuracy", "neighbour_accuracy", "cross_accuracy", "validity")

# What a cell should meet, in per cent: at most so much of the concept left, at least so many valid pictures, and at
# most so many points lost of what stays.
FORGET, VALID = 5.0, 95.0
LOSS = {"retain_accuracy": 3.0, "neighbour_accuracy": 8.0, "cross_accuracy": 5.0}

Line = dict[str, Any]
Key = Callable[[Line], tuple[str, ...]]
NOTE = (
    "Per cent, judge `conv`. `before → after` are means over concepts, each concept's runs averaged first; in brackets "
    "the lowest and highest concept after; `sd` is the standard deviation of one run over seeds, within its concept. "
    f"`met`: concepts that meet every bound: forget accuracy at most {FORGET:g}, validity at least {VALID:g}, and "
    + ", ".join(f"{name.split('_')[0]} at most {most:g} points under before" for name, most in LOSS.items())
    + "."
)
NOTE_EACH = (
    "Per cent, before → after with the 95 % interval over pictures. With several seeds the mean, and the reach of all "
    "their intervals. `misses`: by how many points each bound is missed."
)

NOTE_AGAINST = (
    "Against `dual`: what is left of the concept, and of the other scores the points lost from before to after, minus "
    "the same under `dual`; above 0, `dual` did better. With 95 % intervals over concepts (bootstrap). The runs may "
    "have other prompts and numbers of seeds."
)


def cell(line: Line, options: argparse.Namespace) -> Line:
    """One run; its scores before and after, and its seconds. Pools that another cell drew count in that one's."""
    from erase.workflow import erase

    folder = options.runs / "-".join(str(x) for x in (*(line[k] for k in CELL), line["settings"])).replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    try:
        erase(settings(line, folder), cache=options.cache)
    except Interrupted:
        raise
    except EraseError as error:
        return {**line, "error": str(error)}
    report = json.loads((folder / "report.json").read_text())
    scores = {f"{s['name']}.{s['arm']}": [s["value"], s["low"], s["high"], s["n"]] for s in report["scores"]}
    seconds, device = time.perf_counter() - started, report["environment"]["device"]
    return {**line, "device": device, "seconds": seconds, "timings": report["timings"], "scores": scores}


def settings(line: Line, folder: Path | None = None) -> Config:
    """The configuration of a cell."""
    given = {
        "model": "world",
        "concept": line["concept"],
        "method": line["method"],
        "train.optimizer": line["optimizer"],
        "seed": line["seed"],
        "output": folder and str(folder),
        "evaluate.prompts": line["prompts"],
        "train.preview_every": 0,
        "train.checkpoint_every": 0,
    }
    for text in line["set"]:
        name, _, value = text.partition("=")
        given[name] = parse_value(value)
    return load_config(None, given)


def default(name: str) -> Any:
    """What a setting of training is where nobody says."""
    return TrainSection.model_fields[name].default


def fingerprint(line: Line) -> str:
    """Of all settings that a cell's results depend on; "" for settings that are refused."""
    try:
        config = settings(line)
    except EraseError:
        return ""
    found = config.model_dump(mode="json", include={"model", "concept", "method", "train", "evaluate", "seed"})
    if found["train"]:  # an editor has none
        del found["train"]["pool"]["batch"]  # memory and speed only
        # Newer than the first cells, which were measured with what these are by default.
        found["train"] = {k: v for k, v in found["train"].items() if k not in NEWER or v != default(k)}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


@contextmanager
def shared_pools(most: int = 6) -> Iterator[None]:
    """Sample each pool, and measure each mask on pools, once in this block: they depend on their arguments alone."""
    from erase.models import model_hash
    from erase.training import session

    fill, kept = session.fill, {}
    measure, masks = session.Session._measured, {}

    def remembered(model: Any, pairs: Any, plan: Any, seed: int, **rest: Any) -> Any:
        how = model_hash(model), rest["shown"], rest["trails"], rest["what"]
        how += tuple(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
        key = (tuple(pairs), plan, seed, *how)
        if key not in kept:
            while len(kept) >= most:
                del kept[next(iter(kept))]
            kept[key] = fill(model, pairs, plan, seed, **rest)
        return kept[key]

    def measured(run: session.Session, pool: Any) -> Any:
        sources = pool, run.pools["retain"]
        how = model_hash(run.model), run.method.mask, run.options.mask_share, run.options.ratio, run.batch, run.seed
        key = (*map(id, sources), *how, tuple(run.trained.parameters))
        if key not in masks:
            while len(masks) >= most:
                del masks[next(iter(masks))]
            masks[key] = sources, measure(run, pool)  # the pools are kept, so that no other takes their ids
        return masks[key][1]

    session.fill, session.Session._measured = remembered, measured
    try:
        yield
    finally:
        session.fill, session.Session._measured = fill, measure


def identity(line: Line) -> tuple[Any, ...]:
    """What makes two lines the same cell."""
    return *(line[k] for k in CELL), tuple(line["set"]), line["prompts"]


def read(path: Path) -> list[Line]:
    """The file's cells, the latest line of each; a line cut by a crash is left out, as one of other settings is."""
    found: dict[tuple[Any, ...], Line] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            found[identity(line)] = line
        except (ValueError, KeyError, TypeError):
            continue
    return [line for line in found.values() if line.get("settings") == fingerprint(line)]


def append(path: Path, line: Line) -> None:
    """Add a line, on a line of its own also where a crash left the last one unfinished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # other processes of --jobs write to it too
        if file.seek(0, 2):
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write((json.dumps(line) + "\n").encode())


def tables(lines: Sequence[Line]) -> str:
    """Markdown: a row a group of cells (method, optimizer, overrides), then a row a concept of each, then failures."""
    scored = [x for x in lines if "scores" in x]
    keys, names = ("method", "optimizer", "overrides"), [n.replace("_", " ") for n in NAMES]
    rows = [(*key, *_summary(found)) for key, found in _by(scored, _group)]
    each = [(*key, str(len(found)), *_cells(found), _said(misses(found))) for key, found in _by(scored, _concept)]
    parts = [NOTE, _markdown((*keys, "concepts", "runs", "met", *names), rows)]
    parts += [NOTE_EACH, _markdown((*keys, "concept", "seeds", *names, "misses"), each)]
    against = _against_dual(scored)
    if against:
        parts += [NOTE_AGAINST, _markdown(("method", "optimizer", "concepts", *names), against)]
    failed = [f"* {' '.join(map(str, identity(x)[:4]))}: {x['error']}" for x in lines if "error" in x]
    if failed:
        parts += ["Failed, to be tried again:", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def _against_dual(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """A row a method and other optimizer, of the concepts that both have, at shipped settings."""
    from erase.evaluation.statistics import cluster_bootstrap

    found: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        if not line["set"]:
            found.setdefault((line["method"], line["optimizer"], line["concept"]), []).append(line)
    rows = []
    for method, other in sorted({key[:2] for key in found if key[1] != "dual"}):
        shared = [c for m, o, c in found if (m, o) == (method, other) and (m, "dual", c) in found]
        cells = []
        for name in NAMES if len(shared) > 1 else ():
            by = [_lost(found[method, other, c], name) - _lost(found[method, "dual", c], name) for c in shared]
            of = cluster_bootstrap(by, shared)
            cells.append(f"{of.value:+.1f} [{of.low:+.1f}, {of.high:+.1f}]")
        if cells:
            rows.append((method, other, str(len(shared)), *cells))
    return rows


def _lost(lines: Sequence[Line], name: str) -> float:
    """What is left of the concept; of the other scores the points under before."""
    after = _mean(lines, name, "after")
    return after if name == "forget_accuracy" else _mean(lines, name, "before") - after


def _group(line: Line) -> tuple[str, ...]:
    overrides = [*line["set"], *([f"prompts={line['prompts']}"] if line["prompts"] != 200 else [])]
    return line["method"], line["optimizer"], " ".join(overrides)


def _concept(line: Line) -> tuple[str, ...]:
    return *_group(line), line["concept"]


def _by(lines: Iterable[Line], key: Key) -> list[tuple[tuple[str, ...], list[Line]]]:
    found: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        found.setdefault(key(line), []).append(line)
    return sorted(found.items())


def _summary(lines: Sequence[Line]) -> list[str]:
    """Number of concepts, of runs and of concepts that meet every bound, then a cell a score."""
    concepts = [found for _, found in _by(lines, _concept)]
    cells = [str(len(concepts)), str(len(lines)), str(sum(not misses(found) for found in concepts))]
    for name in NAMES:
        before = mean(_mean(found, name, "before") for found in concepts)
        after = [_mean(found, name, "after") for found in concepts]
        text = f"{before:.1f} → {mean(after):.1f} ({min(after):.1f}..{max(after):.1f})"
        spreads = [variance(_values(found, name, "after")) for found in concepts if len(found) > 1]
        cells.append(text + (f", sd {mean(spreads) ** 0.5:.1f}" if spreads else ""))
    return cells


def _cells(lines: Sequence[Line]) -> list[str]:
    """A cell a score, of one concept's runs."""
    cells = []
    for name in NAMES:
        low = min(100 * x["scores"][f"{name}.after"][1] for x in lines)
        high = max(100 * x["scores"][f"{name}.after"][2] for x in lines)
        cells.append(f"{_mean(lines, name, 'before'):.1f} → {_mean(lines, name, 'after'):.1f} [{low:.1f}, {high:.1f}]")
    return cells


def misses(lines: Sequence[Line]) -> dict[str, float]:
    """Points by which a concept's runs miss each bound on average, for those that they miss."""
    over = {"forget_accuracy": _mean(lines, "forget_accuracy", "after") - FORGET}
    over |= {n: _mean(lines, n, "before") - _mean(lines, n, "after") - most for n, most in LOSS.items()}
    over["validity"] = VALID - _mean(lines, "validity", "after")
    return {name: by for name, by in over.items() if by > 1e-9}


def _said(missed: dict[str, float]) -> str:
    return ", ".join(f"{name.split('_')[0]} {by:.1f}" for name, by in missed.items())


def _values(lines: Sequence[Line], name: str, arm: str) -> list[float]:
    return [100 * x["scores"][f"{name}.{arm}"][0] for x in lines]


def _mean(lines: Sequence[Line], name: str, arm: str) -> float:
    return mean(_values(lines, name, arm))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def run(lines: Sequence[Line], options: argparse.Namespace, until: float) -> None:
    """Run cells one after another and write each down; none begins after `until`, in seconds since the epoch."""
    with shared_pools(), recorded() if options.graphs else nullcontext():
        for line in lines:
            if time.time() > until:
                return
            found = cell({**line, "settings": fingerprint(line)}, options)
            append(options.file, found)
            said = found.get("error") or _cells([found])
            print(f"{' '.join(map(str, identity(line)[:4]))}: {said}", file=sys.stderr, flush=True)


def run_all(groups: Sequence[Sequence[Line]], options: argparse.Namespace) -> None:
    """Run groups of cells, each in one process, `options.jobs` at a time."""
    run_processes(run, groups, options)


def run_processes(work: Callable[..., None], groups: Sequence[Sequence[Any]], options: argparse.Namespace) -> None:
    """`work(group, options, until)` for each group, in one process or `options.jobs` of them."""
    until = time.time() + 60 * options.minutes if options.minutes else float("inf")
    if options.jobs == 1:
        for group in groups:
            work(group, options, until)
        return
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    how = {"mp_context": get_context("spawn"), "initializer": torch.set_num_threads, "initargs": (threads,)}
    with ProcessPoolExecutor(options.jobs, **how) as workers:
        try:
            for done in as_completed([workers.submit(work, group, options, until) for group in groups]):
                done.result()
        except BaseException:
            workers.shutdown(cancel_futures=True)  # what broke one cell unforeseen would break the others
            raise


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every script that runs cells takes."""
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--graphs", action="store_true", help="on a GPU: replay training (benchmark/graphs.py)")
    parser.add_argument("--minutes", type=float, help="begin no cell after this many")
    parser.add_argument("--runs", type=Path, default=Path("runs/table"))
    parser.add_argument("--file", type=Path, default=Path("runs/table.jsonl"))
    parser.add_argument("--cache", type=Path, help="folder that keeps the base model's pictures")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=[*OBJECTS, *STYLES])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--optimizers", nargs="+", default=["dual"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--set", nargs="*", default=[])
    add_options(parser)
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    parser.add_argument("--table", type=Path, help="print this file's tables and stop")
    options = parser.parse_args(arguments)
    if not options.table:
        done = {identity(x) for x in read(options.file) if "scores" in x}
        rest = {"set": options.set, "prompts": options.prompts}
        groups = []
        # Seeds outermost, so that what a stopped table has is of all concepts; optimizers innermost share their pools.
        for seed, *names in itertools.product(options.seeds, options.concepts, options.methods):
            lines = [dict(zip(CELL, (*names, o, seed), strict=True)) | rest for o in options.optimizers]
            groups.append([line for line in lines if identity(line) not in done])
        run_all(groups, options)
    text = tables(read(options.table or options.file))
    if options.markdown:
        write_text(options.markdown, text)
    print(text, end="")


if __name__ == "__main__":
    main()

"""What the two roles' gradients do to each other in a run: a line a run, for docs/study.md's mechanisms.

    python benchmark/mechanisms.py --model build/small/m0-s0 --methods esd sfron --optimizers dual shared \\
        --concepts cat rocket --seeds 0 1 2 3 4 --set train.rounds=60 --file mechanisms.jsonl
    python benchmark/mechanisms.py --table mechanisms.jsonl

Each run trains as `erase run` does, and its optimizer is watched from outside, so that all optimizers are measured
alike. Of g_f and g_r, the gradients of a round's two steps before mask and clip:

* `cosine`: of g_f and g_r in one round. `own_f`, `own_r`: of a role's gradients in neighbouring rounds; `cross`: of g_f
  and the g_r of the round before. The median and the quartiles over rounds.
* `second`: log10 of v_f / v_r by coordinate, v the bias-corrected running mean of squares (beta 0.999) at the end of
  the run: quantiles over coordinates. At 0 a shared second moment is either's own.
* `held`: of a forget step, the norm of the update that the rule gives to masked weights before the mask takes it back,
  over that of the others; momentum of the retain steps is all that can move them. Left out where there is no mask.
* `moved`: the norm of the weights' displacement; `sample`: the displacement at fixed coordinates, for variances over
  seeds; `grads`: g_f and g_r at a few fixed coordinates in each round, for correlations over seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from methods import append, shared_pools
from torch import Tensor

from erase.config import load_config, parse_value
from erase.events import ignore, never
from erase.prepare import Job, open_session, prepare, train_plan
from erase.runtime import pick_device
from erase.training.loop import train

BETA = 0.999
SAMPLE, FEW = 2000, 50
EPS = 1e-30
KEY = ("concept", "method", "optimizer", "seed")


class Watch:
    """Stands before an optimizer's `step` and measures what passes."""

    def __init__(self, session: Any) -> None:
        self.optimizer, self.step = session.optimizer, session.optimizer.step
        self.params: dict[str, torch.nn.Parameter] = session.trained.parameters
        self.mask = None if session.mask is None else self._flat({n: m.float() for n, m in session.mask.items()}) > 0
        self.start = self._weights()
        chosen = torch.randperm(self.start.numel(), generator=torch.Generator().manual_seed(0))
        self.sample, self.few = chosen[:SAMPLE], chosen[:FEW]
        self.last: dict[str, Tensor] = {}
        self.squares = {role: torch.zeros_like(self.start) for role in ("forget", "retain")}
        self.steps = dict.fromkeys(self.squares, 0)
        self.series: dict[str, list[float]] = {k: [] for k in ("cosine", "own_f", "own_r", "cross", "held", "norms")}
        self.grads: dict[str, list[list[float]]] = {"forget": [], "retain": []}
        self.raw: Tensor | None = None
        inner = getattr(session.optimizer, "_rated", None)  # of one optimizer for both roles
        rule = inner.optimizer if inner else getattr(session.optimizer, "optimizer", lambda role: None)("forget")
        if isinstance(rule, torch.optim.Optimizer):
            rule.register_step_post_hook(self._after_update)
        session.optimizer.step = self

    def __call__(self, role: str) -> float:
        gradient = self._flat({n: p.grad for n, p in self.params.items()})
        if role in self.squares:
            self._compare(role, gradient)
        before, self.raw = self._weights(), None
        norm = self.step(role)
        if role == "forget" and self.raw is not None and self.mask is not None and not bool(self.mask.all()):
            moved = self.raw - before  # by the update itself: the mask has not yet taken back what it keeps
            free = float(moved[self.mask].norm())
            if free > 0:
                self.series["held"].append(float(moved[~self.mask].norm()) / free)
        return norm

    def _after_update(self, *_: Any) -> None:
        self.raw = self._weights()

    def _compare(self, role: str, gradient: Tensor) -> None:
        other = "retain" if role == "forget" else "forget"
        own = "own_f" if role == "forget" else "own_r"
        if role in self.last:
            self.series[own].append(_cosine(gradient, self.last[role]))
        if other in self.last:
            self.series["cross" if role == "forget" else "cosine"].append(_cosine(gradient, self.last[other]))
        self.last[role] = gradient
        self.squares[role].mul_(BETA).addcmul_(gradient, gradient, value=1 - BETA)
        self.steps[role] += 1
        self.grads[role].append([float(x) for x in gradient[self.few]])

    def summary(self) -> dict[str, Any]:
        """What one line of the file holds of this run."""
        moved = self._weights() - self.start
        found: dict[str, Any] = {k: _quartiles(v) for k, v in self.series.items() if v}
        if all(self.steps.values()):
            mean = {r: self.squares[r] / (1 - BETA ** self.steps[r]) for r in self.squares}
            ratio = ((mean["forget"] + EPS) / (mean["retain"] + EPS)).log10().numpy()
            found["second"] = [float(q) for q in np.quantile(ratio, (0.05, 0.25, 0.5, 0.75, 0.95))]
        return {
            **found,
            "weights": moved.numel(),
            "masked": None if self.mask is None else float((~self.mask).float().mean()),
            "moved": float(moved.norm()),
            "sample": [float(f"{x:.4g}") for x in moved[self.sample]],
            "grads": {r: [[float(f"{x:.3g}") for x in row] for row in rows] for r, rows in self.grads.items()},
        }

    def _weights(self) -> Tensor:
        return self._flat({n: p.detach() for n, p in self.params.items()})

    def _flat(self, tensors: dict[str, Any]) -> Tensor:
        return torch.cat(
            [
                torch.zeros(p.numel()) if tensors[n] is None else tensors[n].detach().float().flatten().cpu()
                for n, p in self.params.items()
            ]
        )


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a, b) / (a.norm() * b.norm() + EPS))


def _quartiles(values: Sequence[float]) -> list[float]:
    return [float(q) for q in np.quantile(values, (0.25, 0.5, 0.75))]


def measure(line: dict[str, Any]) -> dict[str, Any]:
    """Train one run, watched."""
    given: dict[str, Any] = {"model": line["model"], "concept": line["concept"], "method": line["method"]}
    given |= {"train.optimizer": line["optimizer"], "seed": line["seed"], "device": "cpu"}
    for text in line["set"]:
        name, _, value = text.partition("=")
        given[name] = parse_value(value)
    started = time.perf_counter()
    job: Job = prepare(load_config(None, given), pick_device("cpu"))
    session = open_session(job, ignore, never)
    watch = Watch(session)
    plan = train_plan(job.config)
    nothing = {"save": lambda done: None, "preview": lambda done: None}
    train(session, plan, on_event=ignore, should_stop=never, **nothing)
    return {**line, **watch.summary(), "seconds": time.perf_counter() - started}


def read(path: Path) -> list[dict[str, Any]]:
    """The file's lines, the latest of each run."""
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        line = json.loads(text)
        found[identity(line)] = line
    return list(found.values())


def identity(line: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two lines the same run."""
    return line["model"], *(line[k] for k in KEY), tuple(line["set"])


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a method and optimizer; medians over runs of each run's median over rounds."""
    head = ("method", "optimizer", "runs", "cos(g_f, g_r)", "g_f, last g_f", "g_r, last g_r", "g_f, last g_r",
            "log10 v_f/v_r 5 %", "50 %", "95 %", "held", "moved", "variance / square of the mean")  # fmt: skip
    rows = [head, ("---",) * len(head)]
    groups = sorted({(x["method"], x["optimizer"]) for x in lines})
    for method, optimizer in groups:
        of = [x for x in lines if (x["method"], x["optimizer"]) == (method, optimizer)]
        cells = [_mid(of, lambda x, k=k: x[k][1] if k in x else None) for k in ("cosine", "own_f", "own_r", "cross")]
        cells += [_mid(of, lambda x, i=i: x["second"][i] if "second" in x else None) for i in (0, 2, 4)]
        cells += [_mid(of, lambda x: x["held"][1] if "held" in x else None), _mid(of, lambda x: x["moved"])]
        rows.append((method, optimizer, str(len(of)), *cells, _spread(of)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _mid(lines: Sequence[dict[str, Any]], value: Any) -> str:
    found = [v for v in map(value, lines) if v is not None]
    return f"{median(found):.3g}" if found else ""


def _spread(lines: Sequence[dict[str, Any]]) -> str:
    """Variance over seeds, summed over coordinates, over the mean displacement's square; mean over concepts."""
    found = []
    for concept in sorted({x["concept"] for x in lines}):
        moved = np.array([x["sample"] for x in lines if x["concept"] == concept])
        if len(moved) > 1:
            found.append(moved.var(axis=0, ddof=1).sum() / (moved.mean(axis=0) ** 2).sum())
    return f"{np.mean(found):.3g}" if found else ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="world")
    parser.add_argument("--concepts", nargs="+", default=["cat"])
    parser.add_argument("--methods", nargs="+", default=["esd"])
    parser.add_argument("--optimizers", nargs="+", default=["dual", "shared"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--file", type=Path, default=Path("runs/mechanisms.jsonl"))
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no run after this many")
    parser.add_argument("--table", type=Path, help="print this file's table and stop")
    options = parser.parse_args(arguments)
    until = time.time() + 60 * options.minutes if options.minutes else float("inf")
    done = {identity(x) for x in read(options.table or options.file)}
    lines = []
    if not options.table:
        for concept, method, seed, optimizer in itertools.product(
            options.concepts, options.methods, options.seeds, options.optimizers
        ):
            values = dict(zip(KEY, (concept, method, optimizer, seed), strict=True))
            lines.append({"model": options.model, **values, "set": options.set})
    with shared_pools():
        for line in lines:
            if identity(line) not in done and time.time() < until:
                append(options.file, measure(line))
                print(" ".join(map(str, identity(line)[1:5])), file=sys.stderr, flush=True)
    print(table(read(options.table or options.file)), end="")


if __name__ == "__main__":
    main()

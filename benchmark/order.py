"""How far runs go apart that share all but the order of their batches: weights' variance, gradients' correlation.

    python benchmark/order.py --file docs/results/study-order.jsonl --jobs 2
    python benchmark/order.py --file docs/results/study-order.jsonl --table

The published bound on the variance of the weights (DualOptim, NeurIPS 2025) takes the two roles' gradients for hardly
correlated over runs. Here pools and masks are those of seed 0, and seeds draw batches, times and noise alone. A line is
one concept, method and arm over all seeds, of all trained weights:

* `trace`: the variance over seeds of a weight's displacement, summed over weights; `mean`: the squared norm of the mean
  displacement, less what the variance adds to it.
* `f_r`, `r_f`, `f_f`, `r_r`: the correlation over seeds of a gradient with that of the next step, or of the role's next
  round: sum of the covariances of all weights over the root of the product of both sums of variances. At early, middle
  and late rounds, each with the 95 % range of pairs of other seeds, which have none.

For gradients that are noise alone and heavy-ball momentum b at equal rates, T rounds of a step each, the traces are as
sum_k (1-b^k)^2 (s_f^2 + s_r^2) for moments of their own to sum_k (1-b^2k)^2 s_f^2 + (1-b^(2k-1))^2 s_r^2 for shared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from methods import append, run_processes, shared_pools
from study import NAMED, TEST, Line, lean

from erase.batch.matrix import Job, read_matrix

ARMS = ("dual", "shared")
METHODS = ("esd", "sfron")
SPOTS = (4, 20, 36)  # of 40 rounds; each with the next one
PAIRS = {"f_r": ("forget", "retain", 0), "r_f": ("retain", "forget", 1),
         "f_f": ("forget", "forget", 1), "r_r": ("retain", "retain", 1)}  # fmt: skip
SHUFFLES = 200


@contextmanager
def pools_of(seed: int) -> Iterator[None]:
    """In this block pools and masks are drawn from `seed`, whatever a run's own is."""
    from erase.training import session

    drawn = session.stable_seed

    def fixed(own: Any, *what: Any) -> int:
        return drawn(seed if what[0] in ("pool", "mask pool", "mask") else own, *what)

    session.stable_seed = fixed
    try:
        yield
    finally:
        session.stable_seed = drawn


def one_run(job: Job, seed: int) -> tuple[np.ndarray, dict[tuple[str, int], np.ndarray], str]:
    """Train; the weights' displacement, gradients by role and round before mask and clip, and the base's name."""
    from erase.events import ignore, never
    from erase.models import model_hash
    from erase.plans import train_plan
    from erase.prepare import open_session, prepare
    from erase.training import train

    config = job.config.model_copy(update={"seed": seed})
    prepared = prepare(config, torch.device("cpu"))
    session = open_session(prepared, ignore, never)
    params: dict[str, torch.nn.Parameter] = session.trained.parameters
    base, start = model_hash(session.model)[:NAMED], _flat(params.values())
    seen: dict[tuple[str, int], np.ndarray] = {}
    step, taken = session.optimizer.step, {"forget": 0, "retain": 0}
    wanted = {spot + later for spot in SPOTS for later in (0, 1)}

    def watching(role: str) -> float:
        if taken[role] in wanted:
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params.values()]
            seen[role, taken[role]] = _flat(grads)
        taken[role] += 1
        return step(role)

    session.optimizer.step = watching
    nothing = lambda round: None  # noqa: E731
    train(session, train_plan(config), on_event=ignore, should_stop=never, save=nothing, preview=nothing)
    return _flat(params.values()) - start, seen, base


def _flat(tensors: Any) -> np.ndarray:
    return torch.cat([t.detach().float().flatten() for t in tensors]).numpy()


def apart(moved: np.ndarray) -> tuple[float, float]:
    """Of (seed, weight): the summed variance, and the squared norm of the mean without the part that is noise."""
    trace = float(moved.var(axis=0, ddof=1, dtype=np.float64).sum())
    return trace, float((moved.mean(axis=0, dtype=np.float64) ** 2).sum()) - trace / len(moved)


def correlation(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Over seeds, of all weights together: of (seed, weight) twice; then the 95 % range over other pairs of seeds."""
    one, two = (x - x.mean(axis=0, keepdims=True) for x in (first.astype(np.float64), second.astype(np.float64)))
    shared = one @ two.T
    size = math.sqrt(float((one**2).sum()) * float((two**2).sum()))
    random = np.random.default_rng(0)
    other = [shared[np.arange(len(shared)), random.permutation(len(shared))].sum() / size for _ in range(SHUFFLES)]
    low, high = np.quantile(other, (0.025, 0.975))
    return float(np.trace(shared)) / size, float(low), float(high)


def run_group(jobs: Sequence[Job], options: argparse.Namespace, until: float) -> None:
    """All seeds of one concept, method and arm; one line."""
    for job in jobs:
        found = [one_run(job, seed) for seed in range(options.seeds)]
        trace, size = apart(np.stack([moved for moved, _, _ in found]))
        line: Line = {
            "concept": job.config.concepts[0].name,
            "method": job.config.method.name,
            "arm": job.optimizer,
            "base": found[0][2],
            "seeds": options.seeds,
            "trace": float(f"{trace:.5g}"),
            "mean": float(f"{size:.5g}"),
        }
        for name, (one, two, later) in PAIRS.items():
            at = [[np.stack([s[r, k] for _, s, _ in found]) for r, k in ((one, t), (two, t + later))] for t in SPOTS]
            line[name] = [[round(x, 4) for x in correlation(*pair)] for pair in at]
        append(options.file, line)
        print(f"{line['concept']}, {line['method']}, {line['arm']}: trace {trace:.4g}", file=sys.stderr, flush=True)


def work(jobs: Sequence[Job], options: argparse.Namespace, until: float) -> None:
    with pools_of(0), shared_pools(), lean():
        run_group(jobs, options, until)


def theory(ratio: float, rounds: int = 40, b: float = 0.9) -> float:
    """Variance of weights with moments of their own over that with shared ones, of noise; `ratio` is s_f / s_r."""
    k = np.arange(1, rounds + 1)
    own = ((1 - b**k) ** 2).sum() * (ratio**2 + 1)
    return float(own / (((1 - b ** (2 * k)) ** 2).sum() * ratio**2 + ((1 - b ** (2 * k - 1)) ** 2).sum()))


def table(lines: Sequence[Line]) -> str:
    """Markdown: a row a concept and method, `dual` beside `shared`; then the correlations, means over concepts."""
    rows = [
        "| method | concept | seeds | trace of `dual` / `shared` | of trace / mean^2 | mean^2 of `dual` / `shared` |"
    ]
    rows += ["|---" * 6 + "|"]
    pairs = {(x["method"], x["concept"]): {} for x in lines}
    for x in lines:
        pairs[x["method"], x["concept"]][x["arm"]] = x
    for (method, concept), by in sorted(pairs.items()):
        if set(by) == set(ARMS):
            trace, size = (by["dual"][k] / by["shared"][k] for k in ("trace", "mean"))
            rows.append(
                f"| {method} | {concept} | {by['dual']['seeds']} | {trace:.2f} | {trace / size:.2f} | {size:.2f} |"
            )
    rows += ["", "| method | arm | pair | early | middle | late | 95 % of other pairs, at most |", "|---" * 7 + "|"]
    for method, arm in dict.fromkeys((x["method"], x["arm"]) for x in lines):
        of = [x for x in lines if (x["method"], x["arm"]) == (method, arm)]
        for name in PAIRS:
            cells = [f"{mean(x[name][i][0] for x in of):+.3f}" for i in range(len(SPOTS))]
            null = max(max(abs(v) for v in spot[1:]) for x in of for spot in x[name])
            rows.append(f"| {method} | `{arm}` | {name} | {' | '.join(cells)} | {null:.3f} |")
    said = ", ".join(f"{theory(r):.3f} at s_f = {r:g} s_r" for r in (1 / 3, 1.0, 3.0))
    return "\n".join([*rows, "", f"Noise alone and heavy-ball momentum: {said}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--concepts", nargs="+", default=TEST)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    options = parser.parse_args()
    options.minutes = None
    lines = [json.loads(x) for x in options.file.read_text().splitlines()] if options.file.is_file() else []
    if not options.table:
        done = {(x["concept"], x["method"], x["arm"], x["seeds"]) for x in lines}
        groups: dict[tuple[str, str], list[Job]] = {}
        for method in options.methods:
            for job in read_matrix(Path("configs/study") / f"test-{method}.yaml").jobs:
                what = job.config.concepts[0].name, method, job.setting, options.seeds
                if job.config.seed == 0 and job.setting in ARMS and what[0] in options.concepts and what not in done:
                    groups.setdefault(what[:2], []).append(job)
        run_processes(work, list(groups.values()), options)
    lines = [json.loads(x) for x in options.file.read_text().splitlines()]
    print(table(lines))


if __name__ == "__main__":
    main()

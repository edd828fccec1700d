"""What the two roles' gradients do to each other in a run: a line a run, for docs/study.md's mechanisms.

    python benchmark/study.py run configs/study/test-*.yaml --file ... --watch docs/results/study-watch.jsonl
    python benchmark/mechanisms.py docs/results/study-watch.jsonl

The optimizer of each run is watched from outside, so that all optimizers are measured alike. Of g_f and g_r, the
gradients of a round's two steps before mask and clip:

* `cosine`: of g_f and g_r in one round. `own_f`, `own_r`: of a role's gradients in neighbouring rounds; `cross`: of g_f
  and the g_r of the round before. The median and the quartiles over rounds.
* `second`: log10 of v_f / v_r by coordinate, v the bias-corrected running mean of squares (beta 0.999) at the end of
  the run: quantiles over coordinates. At 0 a shared second moment is either's own. `first_second`: the same after the
  first round.
* `held`: of a forget step, the norm of the update that the rule gives to masked weights before the mask takes it back,
  over that of the others; momentum of the retain steps is all that can move them. Left out where there is no mask.
* `moved`: the norm of the weights' displacement; `sample`: the displacement at fixed coordinates, in units of 1e-5 (a
  thousandth of the usual one), for variances over seeds; what has one seed needs none, and the committed file has none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

Line = dict[str, Any]

BETA = 0.999
SAMPLE = 300
UNIT = 1e-5
EPS = 1e-30


@contextmanager
def watched() -> Iterator[list[Line]]:
    """What was seen of each training inside this block, in order."""
    from erase import erasing

    train, seen = erasing.train, []

    def watching(session: Any, *given: Any, **how: Any) -> int:
        watch = Watch(session)
        done = train(session, *given, **how)
        seen.append(watch.summary())
        return done

    erasing.train = watching
    try:
        yield seen
    finally:
        erasing.train = train


class Watch:
    """Stands before an optimizer's `step` and measures what passes."""

    def __init__(self, session: Any) -> None:
        self.optimizer, self.step = session.optimizer, session.optimizer.step
        self.params: dict[str, torch.nn.Parameter] = session.trained.parameters
        self.mask = None if session.mask is None else self._flat({n: m.float() for n, m in session.mask.items()}) > 0
        self.start = self._weights()
        chosen = torch.randperm(self.start.numel(), generator=torch.Generator().manual_seed(0))
        self.sample = chosen[:SAMPLE]
        self.last: dict[str, Tensor] = {}
        self.squares = {role: torch.zeros_like(self.start) for role in ("forget", "retain")}
        self.steps = dict.fromkeys(self.squares, 0)
        self.series: dict[str, list[float]] = {k: [] for k in ("cosine", "own_f", "own_r", "cross", "held")}
        self.first: list[float] = []
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
        if not self.first and all(self.steps.values()):
            self.first = self._ratio()

    def summary(self) -> dict[str, Any]:
        """What one line of the file holds of this run."""
        moved = self._weights() - self.start
        found: dict[str, Any] = {k: _quantiles(v, (0.25, 0.5, 0.75)) for k, v in self.series.items() if v}
        if self.first:
            found |= {"first_second": self.first, "second": self._ratio()}
        return {
            **found,
            "weights": moved.numel(),
            "masked": None if self.mask is None else _short(float((~self.mask).float().mean())),
            "moved": _short(float(moved.norm())),
            "sample": [round(x / UNIT) for x in moved[self.sample].tolist()],
        }

    def _ratio(self) -> list[float]:
        """Quantiles over coordinates of log10 v_f / v_r so far."""
        second = {r: self.squares[r] / (1 - BETA ** self.steps[r]) for r in self.squares}
        ratio = ((second["forget"] + EPS) / (second["retain"] + EPS)).log10().numpy()
        return _quantiles(ratio, (0.05, 0.25, 0.5, 0.75, 0.95))

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


def _quantiles(values: Any, at: Sequence[float]) -> list[float]:
    return [_short(float(q)) for q in np.quantile(values, at)]


def _short(value: float) -> float:
    """To four digits: the file is kept, a line a run."""
    return float(f"{value:.4g}")


def read(path: Path) -> list[Line]:
    """The file's lines, the latest of each run on each base model; one that a crash cut short is left out."""
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
            found[line["part"], line["job"], line["base"]] = line
        except (ValueError, KeyError, TypeError):
            continue
    return list(found.values())


def table(lines: Sequence[Line]) -> str:
    """Markdown: a row a part of the study, base model and setting; medians over runs of each run's median over rounds.

    Parts stay apart: they have other concepts and numbers of seeds, and the last column grows with the latter.
    """
    head = ("part", "base", "setting", "runs", "cos(g_f, g_r)", "g_f, last g_f", "g_r, last g_r", "g_f, last g_r",
            "log10 v_f/v_r in round 1", "at the end: 5 %", "50 %", "95 %", "held", "moved",
            "variance / square of the mean")  # fmt: skip
    rows = [head, ("---",) * len(head)]
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["part"], line["base"], line["setting"]), []).append(line)
    for (part, base, setting), of in groups.items():
        # `joint` has one gradient a round, so nothing to compare.
        cells = [_mid(of, key, 1) for key in ("cosine", "own_f", "own_r", "cross")] + [_mid(of, "first_second", 2)]
        cells += [
            *(_mid(of, "second", i) for i in (0, 2, 4)),
            _mid(of, "held", 1),
            f"{median(x['moved'] for x in of):.3g}",
        ]
        rows.append((part, base[:4], f"`{setting}`", str(len(of)), *cells, _spread(of)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _mid(lines: Sequence[Line], key: str, place: int) -> str:
    found = [x[key][place] for x in lines if key in x]
    return f"{median(found):.3g}" if found else ""


def _spread(lines: Sequence[Line]) -> str:
    """Variance over seeds, summed over coordinates, over the mean displacement's square; mean over concepts."""
    found = []
    for concept in sorted({x["concept"] for x in lines}):
        moved = np.array([x["sample"] for x in lines if x["concept"] == concept and "sample" in x])
        if len(moved) > 1:
            found.append(float(moved.var(axis=0, ddof=1).sum() / (moved.mean(axis=0) ** 2).sum()))
    return f"{mean(found):.3g}" if found else ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what study.py run --watch wrote")
    print(table(read(parser.parse_args(arguments).file)), end="")


if __name__ == "__main__":
    main()

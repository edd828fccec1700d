"""Time and memory of one role's step against plain torch AdamW. Prints two tables; passes or fails nothing.

python benchmark/optim.py --parameters 50e6 --steps 30 --threads 1 [--side 256] [--device cuda]

With glibc, set MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_=1000000000000 in front, so that temporaries are reused.
Otherwise some steps get them from the system, which may double the time of AdamW alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from erase.optim import AdamW, DualOptim, DualOptimPlus, Role, SharedOptim, state_bytes

MODELS = {"DDPM UNet": 35.7e6, "DiT-XL/2": 675e6, "SD 1.4 UNet": 860e6, "LLaMA2-7B": 6.74e9}
TORCH: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "torch single-tensor": lambda p: torch.optim.AdamW(p, lr=1e-5, foreach=False),
    "torch foreach": lambda p: torch.optim.AdamW(p, lr=1e-5, foreach=True),
    "torch fused": lambda p: torch.optim.AdamW(p, lr=1e-5, fused=True),
}


def own(p: Any) -> torch.optim.Optimizer:
    """Our AdamW, which works in multi-tensor calls as torch's foreach implementation does."""
    return AdamW(p, lr=1e-5)


def packed(p: Any) -> torch.optim.Optimizer:
    """Our AdamW with 8-bit states."""
    return AdamW(p, lr=1e-5, states="8bit")


class Contender(NamedTuple):
    """A row of the table: what a step does, and the rows that it is divided by (our AdamW by torch's foreach one)."""

    step: Callable[[Role], Any]
    alone: str
    clipped: str


def tensors(count: int, side: int, device: str) -> list[nn.Parameter]:
    """About `count` weights: matrices of `side` x `side`, and sixteen small vectors."""
    shapes = [(side, side)] * max(1, count // (side * side)) + [(1024,)] * 16
    return [nn.Parameter(torch.randn(shape, device=device) * 0.02) for shape in shapes]


def contenders(params: list[nn.Parameter]) -> dict[str, Contender]:
    """Every AdamW alone, behind torch's clipping, and inside DualOptim; then the other optimizers."""
    rows: dict[str, Contender] = {}
    for name, factory in TORCH.items():
        dual = DualOptim(params, forget=factory, retain=factory)
        plain = dual.optimizer("forget")

        def alone(role: Role, plain: torch.optim.Optimizer = plain) -> None:
            plain.step()

        def clipped(role: Role, plain: torch.optim.Optimizer = plain) -> None:
            # A limit out of reach: the gradients must stay what they are for the other rows.
            torch.nn.utils.clip_grad_norm_(params, 1e9, error_if_nonfinite=True)
            plain.step()

        keys = (f"{name}, alone", f"{name} + clip_grad_norm_")
        for key, step in zip((*keys, f"{name} in DualOptim"), (alone, clipped, dual.step), strict=True):
            rows[key] = Contender(step, *keys)
    # Of ones: another mask would zero gradients that the other rows use too.
    mask = [torch.ones_like(param, dtype=torch.bool) for param in params]
    dual = DualOptim(params, forget=own, retain=own)
    steps: dict[str, Callable[[Role], Any]] = {
        "own AdamW, alone": lambda role: dual.optimizer("forget").step(),
        "own AdamW in DualOptim": dual.step,
        "same, first moment shared": DualOptim(params, forget=own, retain=own, decouple_first=False).step,
        "same, masked": DualOptim(params, forget=own, retain=own, mask=mask, mask_roles=("forget", "retain")).step,
        "same, 8-bit": DualOptim(params, forget=packed, retain=packed).step,
        "own AdamW in SharedOptim": SharedOptim(params, own).step,
        "DualOptimPlus": DualOptimPlus(params, lr=1e-5).step,
        "DualOptimPlus, 8-bit": DualOptimPlus(params, lr=1e-5, states="8bit").step,
    }
    keys = ("torch foreach, alone", "torch foreach + clip_grad_norm_")
    return {**rows, **{name: Contender(step, *keys) for name, step in steps.items()}}


def measure(rows: dict[str, Contender], steps: int, device: str) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each step. Rows take turns in a moving order, so that a noisy spell hits all alike."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    names = list(rows)
    for index in range(steps + 2):
        role: Role = "forget" if index % 2 == 0 else "retain"
        for name in names[index % len(names) :] + names[: index % len(names)]:
            _synchronise(device)
            wall, cpu = time.perf_counter(), time.process_time()
            rows[name].step(role)
            _synchronise(device)
            if index >= 2:  # the first step of each role makes its states
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return seconds


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def time_table(rows: dict[str, Contender], seconds: dict[str, list[tuple[float, float]]]) -> str:
    """Medians and quartiles. A ratio is taken within a round, between neighbours in time, before the median."""
    lines = ["| step | wall ms | CPU ms | wall / alone | CPU / alone | CPU / clipped |", "|---" * 6 + "|"]
    for name, row in rows.items():
        own, alone, clipped = (seconds[key] for key in (name, row.alone, row.clipped))
        cells = [_spread([1e3 * one[clock] for one in own], 1) for clock in (0, 1)]
        for other, clock in ((alone, 0), (alone, 1), (clipped, 1)):
            pairs = zip(own, other, strict=True)
            cells.append("1" if other is own else _spread([one[clock] / two[clock] for one, two in pairs], 3))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def byte_table(device: str) -> str:
    """State bytes, measured after a step of each role, and what they come to on models of known size, in GiB."""

    def sgd(p: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(p, lr=1e-5, momentum=0.9)

    adam = TORCH["torch foreach"]
    layouts: dict[str, Callable[[Any], Any]] = {
        "SGD with momentum, shared": lambda p: SharedOptim(p, sgd),
        "AdamW, shared": lambda p: SharedOptim(p, adam),
        "DualOptim, AdamW + SGD": lambda p: DualOptim(p, forget=adam, retain=sgd),
        "DualOptim, AdamW + AdamW": lambda p: DualOptim(p, forget=adam, retain=adam),
        "DualOptim, first moment shared": lambda p: DualOptim(p, forget=adam, retain=adam, decouple_first=False),
        "DualOptimPlus": lambda p: DualOptimPlus(p, lr=1e-5),
        "DualOptim, 8-bit": lambda p: DualOptim(p, forget=packed, retain=packed),
        "DualOptimPlus, 8-bit": lambda p: DualOptimPlus(p, lr=1e-5, states="8bit"),
    }
    lines = [f"| states | bytes a weight | {' | '.join(MODELS)} |", "|---" * (2 + len(MODELS)) + "|"]
    for name, build in layouts.items():
        params = [nn.Parameter(torch.zeros(1024, 1024, device=device)) for _ in range(4)]
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer = build(params)
        optimizer.step("forget")
        optimizer.step("retain")
        each = state_bytes(optimizer) / sum(param.numel() for param in params)
        sizes = [f"{each * count / 2**30:.{2 if count < 1e8 else 1}f}" for count in MODELS.values()]
        lines.append(f"| {name} | {each:.3f} | {' | '.join(sizes)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=50e6, help="weights in all")
    parser.add_argument("--side", type=int, default=1024, help="weights are matrices of this many rows and columns")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each row")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves the default")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    params = tensors(int(args.parameters), args.side, args.device)
    for param in params:
        param.grad = torch.randn_like(param) * 0.01
    rows = contenders(params)
    seconds = measure(rows, args.steps, args.device)
    count = sum(param.numel() for param in params)
    place = f"{args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{count / 1e6:.1f} M weights in {len(params)} tensors, {args.steps} steps, {place}; median (quartiles)\n")
    print(f"{time_table(rows, seconds)}\n\nGiB of optimizer states:\n\n{byte_table(args.device)}")


if __name__ == "__main__":
    main()

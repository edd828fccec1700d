"""Time and memory of one role's step against plain torch AdamW. Prints a table; passes or fails nothing.

python benchmark/optim.py --parameters 50e6 --steps 10 [--device cuda]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from erase.optim import AdamW, DualOptim, DualOptimPlus, Role, SharedOptim, state_bytes


def tensors(count: int, device: str) -> list[nn.Parameter]:
    """About `count` weights in the proportions of a UNet: many matrices of a million, some small vectors."""
    shapes = [(1024, 1024)] * max(1, count // (1 << 20)) + [(1024,)] * 16
    return [nn.Parameter(torch.randn(shape, device=device) * 0.02) for shape in shapes]


def torch_adamw(params: Any, fused: bool) -> torch.optim.Optimizer:
    """Torch's AdamW in one of its fast implementations."""
    return torch.optim.AdamW(params, lr=1e-5, foreach=not fused, fused=fused)


def variants(params: list[nn.Parameter]) -> dict[str, tuple[Callable[[Role], Any], Any]]:
    """Name -> (step of a role, the optimizer)."""

    def built(optimizer: Any) -> tuple[Callable[[Role], Any], Any]:
        return optimizer.step, optimizer

    def plain(fused: bool) -> tuple[Callable[[Role], Any], Any]:
        optimizer = torch_adamw(params, fused)

        def step(role: Role) -> None:
            torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None]).item()
            optimizer.step()

        return step, optimizer

    def dual(factory: Callable[[Any], Any], **options: Any) -> tuple[Callable[[Role], Any], Any]:
        return built(DualOptim(params, forget=factory, retain=factory, **options))

    return {
        "torch AdamW foreach + norm": plain(False),
        "DualOptim, torch foreach": dual(lambda p: torch_adamw(p, False)),
        "DualOptim, own AdamW": dual(lambda p: AdamW(p, lr=1e-5)),
        "DualOptim, first shared": dual(lambda p: AdamW(p, lr=1e-5), decouple_first=False),
        "torch AdamW fused + norm": plain(True),
        "DualOptim, torch fused": dual(lambda p: torch_adamw(p, True)),
        "SharedOptim, torch fused": built(SharedOptim(params, lambda p: torch_adamw(p, True))),
        "DualOptim+": built(DualOptimPlus(params, lr=1e-5)),
        "DualOptim, 8-bit": dual(lambda p: AdamW(p, lr=1e-5, states="8bit")),
        "DualOptim+, 8-bit": built(DualOptimPlus(params, lr=1e-5, states="8bit")),
    }


def measure(params: list[nn.Parameter], steps: int, device: str) -> dict[str, tuple[float, int]]:
    """Median seconds of a step, and state bytes. Variants take turns, so that a noisy spell hits all alike."""
    contenders = variants(params)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(steps + 2):
        for name, (step, _) in contenders.items():
            if device == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
            step("forget" if index % 2 == 0 else "retain")
            if device == "cuda":
                torch.cuda.synchronize()
            if index >= 2:  # the first step of each role makes its states
                seconds[name].append(time.perf_counter() - begin)
    return {name: (statistics.median(seconds[name]), state_bytes(contenders[name][1])) for name in contenders}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=50e6, help="weights in all")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each variant")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves the default")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    params = tensors(int(args.parameters), args.device)
    for param in params:
        param.grad = torch.randn_like(param) * 0.01
    results = measure(params, args.steps, args.device)
    count = sum(param.numel() for param in params)
    baseline = {kind: results[f"torch AdamW {kind} + norm"][0] for kind in ("foreach", "fused")}
    print(f"{count / 1e6:.1f} M weights, {args.device}, {args.steps} steps, torch {torch.__version__}")
    print(f"{'':28s} {'ms/step':>9s} {'/foreach':>9s} {'/fused':>9s} {'bytes/weight':>13s}")
    for name, (median, size) in results.items():
        ratios = f"{median / baseline['foreach']:9.2f} {median / baseline['fused']:9.2f}"
        print(f"{name:28s} {1e3 * median:9.1f} {ratios} {size / count:13.2f}")


if __name__ == "__main__":
    main()

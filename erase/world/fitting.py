"""One training loop for every stage of the world's recipe: resumable, with progress and a curve.

The batch of step k depends on (seed, k) alone, so a resumed stage needs no random-number state.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from erase.errors import EraseError
from erase.events import ShouldStop, never

Loss = Callable[[int, torch.Generator], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a stage trains. `decay` 1 - 1/`decay` steps is the horizon of the weights' average."""

    name: str
    steps: int
    lr: float
    warmup: int = 100
    weight_decay: float = 0.0
    ema: float = 0.0
    clip: float = 1.0
    seed: int = 0
    precision: str = "bf16"


class Average:
    """Exponential moving average of a module's parameters, warmed up: min(ema, (1+k)/(10+k))."""

    def __init__(self, module: nn.Module, rate: float) -> None:
        self.rate = rate
        self.values = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        rate = min(self.rate, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in module.parameters()], 1 - rate)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for parameter, value in zip(module.parameters(), self.values, strict=True):
            parameter.copy_(value)


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    progress = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def autocast(device: torch.device, precision: str) -> Any:
    """The forward's compute dtype; parameters stay float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def fit(
    module: nn.Module,
    loss: Loss,
    plan: Plan,
    folder: Path,
    *,
    save_every: int = 250,
    on_save: Callable[[int], None] | None = None,
    stop_at: float = math.inf,
    should_stop: ShouldStop = never,
) -> bool:
    """Train `module` on `loss(step, generator) -> {"loss": ..., ...}` by `plan`, from where it stopped.

    Keeps `<folder>/<name>.pt` (weights, average, optimizer, step) and `<name>.csv` (the curve). At the end the
    module holds the averaged weights. Returns False when `stop_at` (time.time()) came or a stop was asked for first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = next(module.parameters()).device
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.99), fused=True)
    average = Average(module, plan.ema) if plan.ema else None
    path = folder / f"{plan.name}.pt"
    first = _load(path, module, optimizer, average) if path.exists() else 0
    curve = _Curve(folder / f"{plan.name}.csv", first)
    module.train()
    bar = tqdm(range(first, plan.steps), desc=plan.name, initial=first, total=plan.steps, mininterval=10)
    done = True
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan, step)
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        with autocast(device, plan.precision):
            parts = loss(step, generator)
        parts["loss"].backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), plan.clip)
        if not torch.isfinite(norm):
            raise EraseError(f"{plan.name}: gradient norm {float(norm)} at step {step}; lower the rate")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average:
            average.update(module, step)
        curve.add(step, {**parts, "norm": norm})
        bar.set_postfix(loss=f"{curve.recent:.4f}", refresh=False)
        last = step == plan.steps - 1
        done = last or (time.time() < stop_at and not should_stop())
        if last or not done or (step + 1) % save_every == 0:
            _save(path, module, optimizer, average, step + 1)
            curve.flush()
            if on_save:
                on_save(step + 1)
        if not done:
            return False
    if average:
        average.copy_to(module)
    module.eval()
    return done


def averaged(path: Path, module: nn.Module) -> nn.Module:
    """Load a stage's averaged (else raw) weights into `module`, for use while or after it trains."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    module.load_state_dict(state["module"])
    if state["average"] is not None:
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), state["average"], strict=True):
                parameter.copy_(value)
    return module.eval()


def _save(path: Path, module: nn.Module, optimizer: Any, average: Average | None, step: int) -> None:
    state = {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.values if average else None,
        "step": step,
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def _load(path: Path, module: nn.Module, optimizer: Any, average: Average | None) -> int:
    state = torch.load(path, weights_only=True, map_location="cpu")
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    if average:
        device = next(module.parameters()).device
        average.values = [v.to(device) for v in state["average"]]
    return int(state["step"])


class _Curve:
    """Means over 25 steps, appended to a CSV; rows past the step we resume from are dropped."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.window: list[dict[str, Tensor]] = []
        self.recent = math.nan
        self.start = time.time()
        if path.exists() and first:
            with path.open() as file:
                self.rows = [r for r in csv.DictReader(file) if int(r["step"]) < first]  # type: ignore[misc]
            self.start -= float(self.rows[-1]["seconds"]) if self.rows else 0.0

    def add(self, step: int, parts: dict[str, Tensor]) -> None:
        self.window.append({k: v.detach().float() for k, v in parts.items()})
        if len(self.window) == 25:
            row = {k: float(torch.stack([w[k] for w in self.window]).mean()) for k in self.window[0]}
            self.recent = row["loss"]
            self.rows.append({"step": step, "seconds": round(time.time() - self.start, 1), **row})
            self.window.clear()

    def flush(self) -> None:
        if not self.rows:
            return
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[-1]))
            writer.writeheader()
            writer.writerows(self.rows)

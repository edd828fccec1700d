"""fp16's loss scale, kept for both roles together and taken out of one turn's gradients at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from erase.errors import EraseError

GROW_EVERY = 500
MOST_OVERFLOWS = 24


class LossScale:
    """The scale that accelerate's scaler multiplies a loss by; without a scaler every method does nothing.

    By hand, since accelerate's own clipping unscales every prepared optimizer: with two of them on one set of weights
    the gradients are divided twice. The scale halves when a turn's gradients overflow (its step is to be left out) and
    doubles after `GROW_EVERY` turns without. It is part of a checkpoint.
    """

    def __init__(self, scaler: Any) -> None:
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self.good = self.overflows = 0

    def unscale(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Divide the gradients by the scale; False if they overflowed.

        Raises `EraseError` after `MOST_OVERFLOWS` overflows in a row: then it is not the scale that is too large.
        """
        if self.scaler is None:
            return True
        gradients = [p.grad for p in parameters if p.grad is not None]
        if all(bool(torch.isfinite(g).all()) for g in gradients):
            torch._foreach_mul_(gradients, 1.0 / self.value)
            self.good, self.overflows = self.good + 1, 0
            if self.good % GROW_EVERY == 0:
                self._set(self.value * 2)
            return True
        self.good, self.overflows = 0, self.overflows + 1
        if self.overflows >= MOST_OVERFLOWS:
            raise EraseError(
                f"fp16 gradients overflowed {self.overflows} turns in a row; use train.precision bf16-mixed or fp32. "
                "No weight was changed by them"
            )
        self._set(self.value / 2)
        return False

    @property
    def value(self) -> float:
        return 1.0 if self.scaler is None else self.scaler.get_scale()

    def _set(self, value: float) -> None:
        # Not by `update`, which refuses until a loss was scaled; a resumed run sets it before.
        if self.scaler is not None:
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": value})

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value, "good": self.good, "overflows": self.overflows}

    def load_state_dict(self, saved: dict[str, float]) -> None:
        self._set(float(saved["value"]))
        self.good, self.overflows = int(saved["good"]), int(saved["overflows"])

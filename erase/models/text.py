"""Prompts as a UNet is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Text:
    """N encoded prompts: `states` (N, L, D) to attend to and, for SDXL, `pooled` (N, P), a summary of each."""

    states: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, chosen: Any) -> Text:
        """Rows, by a tensor of places or a slice."""
        return Text(self.states[chosen], None if self.pooled is None else self.pooled[chosen])

    def repeat(self, count: int) -> Text:
        """One prompt as `count` rows, without memory for them."""
        pooled = None if self.pooled is None else self.pooled.expand(count, -1)
        return Text(self.states.expand(count, -1, -1), pooled)


def join(parts: Sequence[Text]) -> Text:
    """One after another."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Text(torch.cat([part.states for part in parts]), torch.cat(pooled) if pooled else None)


def choose(row: Tensor, yes: Text, no: Text) -> Text:
    """Rows of `yes` where `row` (N,) is true, of `no` elsewhere."""
    states = torch.where(row[:, None, None], yes.states, no.states)
    if yes.pooled is None or no.pooled is None:
        return Text(states)
    return Text(states, torch.where(row[:, None], yes.pooled, no.pooled))

"""Prompts as a denoising network is told of them, and moving what holds tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Text:
    """N encoded prompts: `states` (N, L, D) to attend to and, for SDXL and SD3, `pooled` (N, P), a summary of each.

    `ids` are the tokens they were made of, (N, L) for each text encoder, each L its own, from which a text encoder that
    trains makes them anew; `prefix` (k, E) for each CLIP, embeddings to stand between a prompt's start and its words
    then.
    """

    states: Tensor
    pooled: Tensor | None = None
    ids: tuple[Tensor, ...] = ()
    prefix: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, chosen: Any) -> Text:
        """Rows, by a tensor of places or a slice."""
        return self._each(lambda value: value[chosen])

    def repeat(self, count: int) -> Text:
        """One prompt as `count` rows, without memory for them."""
        return self._each(lambda value: value.expand(count, *value.shape[1:]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Text:
        pooled = None if self.pooled is None else change(self.pooled)
        return Text(change(self.states), pooled, tuple(change(ids) for ids in self.ids), self.prefix)


def moved(held: Any, device: torch.device) -> Any:
    """A tensor, or a dataclass or tuple with every tensor in it, on a device."""
    if isinstance(held, Tensor):
        return held.to(device)
    if isinstance(held, tuple):
        return tuple(moved(value, device) for value in held)
    if is_dataclass(held) and not isinstance(held, type):
        return replace(held, **{field.name: moved(getattr(held, field.name), device) for field in fields(held)})
    return held


def join(parts: Sequence[Text]) -> Text:
    """One after another."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    ids = tuple(torch.cat(each) for each in zip(*(part.ids for part in parts), strict=True))
    return Text(torch.cat([part.states for part in parts]), torch.cat(pooled) if pooled else None, ids)


def choose(row: Tensor, yes: Text, no: Text) -> Text:
    """Rows of `yes` where `row` (N,) is true, of `no` elsewhere."""
    states = torch.where(row[:, None, None], yes.states, no.states)
    ids = tuple(torch.where(row[:, None], one, other) for one, other in zip(yes.ids, no.ids, strict=True))
    if yes.pooled is None or no.pooled is None:
        return Text(states, ids=ids)
    return Text(states, torch.where(row[:, None], yes.pooled, no.pooled), ids)

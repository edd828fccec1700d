"""SPM: semi-permeable membrane (Lyu et al., CVPR 2024), a LoRA of rank 1 that is anchored where nothing is named."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from erase.methods import esd
from erase.methods.parts import Method, match_teacher
from erase.models import Text


def unlike(text: Text, generator: torch.Generator) -> Text:
    """An anchor for each prompt c: a = s |c| z / |z|, z of N(0, I), s of U(0.8, 1.2), kept with odds 1 - cos(a, c).

    It lies in any direction, as far out as a prompt's states (L, D) do, and is hardly ever like c: with so many
    dimensions cos(a, c) is near 0 and nearly every draw is kept. SDXL's summary is drawn in the same way.
    """
    pooled = None if text.pooled is None else _unlike(text.pooled, generator)
    return replace(text, states=_unlike(text.states, generator), pooled=pooled, ids=())


def _unlike(value: Tensor, generator: torch.Generator) -> Tensor:
    rows = [_row(row.flatten(), generator).view_as(row) for row in value]
    return torch.stack(rows)


def _row(row: Tensor, generator: torch.Generator) -> Tensor:
    while True:
        drawn = torch.randn(row.shape, generator=generator).to(row)
        size, odds = torch.rand(2, generator=generator).tolist()
        if odds < 1 - float(torch.cosine_similarity(drawn, row, dim=0)):
            return (0.8 + 0.4 * size) * row.norm() * drawn / drawn.norm()


SPM = Method(
    name="spm",
    summary="esd on a LoRA of rank 1, which is to stay silent on random embeddings",
    forget=esd.forget,
    retain=match_teacher,
    forget_source="trajectories",
    retain_source="trajectories",
    shown="both",
    anchoring=True,
)

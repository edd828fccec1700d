"""What the closed-form editors share: their options, and the ridge regression that UCE, RECE and SPEED solve.

Notation: W0 (o, d) an original weight, W' the edited one; c (n, d) the embeddings to erase, t (n, d) those they are to
mean, k (m, d) those to keep, all as rows here. Sums over n and over m are means, so that `lam` and `keep_weight` mean
the same for one embedding and for thousands; for one to erase and none to keep nothing differs from the papers.

Every W wants the same of its input, v* = W0 t, so all edits are W' = W0 (I + B) with one B (d, d) for all weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class EditOptions:
    """An editor's own settings; each editor reads those it names."""

    lam: float = 0.1
    keep_weight: float = 1.0
    keep_prompts: int = 800
    repeats: int = 1
    reg: float = 0.1
    null: float = 1e-3


Edit = Callable[[Weights, Tensor, Tensor, Tensor, EditOptions], Weights]
"""edit(W0 by name, erase (n, d), target (n, d), keep (m, d), options) -> W' by name, of the weights' own types."""


@dataclass(frozen=True, slots=True)
class Editor:
    """A method that trains nothing: it solves for weights whose outputs on the concept's words are those of others."""

    name: str
    summary: str
    edit: Edit


def gram(rows: Tensor) -> Tensor:
    """Mean of c c^T over the rows (n, d), in float64: (d, d); zero for no rows."""
    rows = rows.double()
    return rows.T @ rows / max(1, len(rows))


def pull(erase: Tensor, target: Tensor) -> Tensor:
    """Mean of (t - c) c^T over the rows, in float64: (d, d); its rank is at most the number of rows."""
    if erase.shape != target.shape:
        raise ValueError(f"erase {tuple(erase.shape)} and target {tuple(target.shape)} must have one shape")
    return (target - erase).double().T @ erase.double() / max(1, len(erase))


def solve(right: Tensor, system: Tensor) -> Tensor:
    """X with X system = right, for a symmetric positive definite system; all (d, d)."""
    return torch.linalg.solve(system, right, left=False)


def moved(weights: Weights, map: Tensor) -> Weights:
    """W0 (I + B) of every weight, computed in float64 and rounded once; `map` is B (d, d)."""
    return {name: (w.double() + w.double() @ map).to(w.dtype) for name, w in weights.items()}

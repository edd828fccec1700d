"""UCE: Unified Concept Editing (Gandikota et al., WACV 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from erase.methods.editing import EditOptions, Editor, Weights, gram, moved, pull, solve


def edit(weights: Weights, erase: Tensor, target: Tensor, keep: Tensor, options: EditOptions) -> Weights:
    """W' = (E v* c^T + lam W0 + a E W0 k k^T) (lam I + E c c^T + a E k k^T)^-1, with v* = W0 t and a = `keep_weight`.

    The minimum of E |W c - v*|^2 + a E |W k - W0 k|^2 + lam |W - W0|^2. It is solved for W' - W0, which is
    W0 E (t - c) c^T (...)^-1, so with nothing to erase W' is W0 to the bit. Raises `ValueError` for unequal shapes.
    """
    return moved(weights, ridge(erase, target, keep, options))


def ridge(erase: Tensor, target: Tensor, keep: Tensor, options: EditOptions) -> Tensor:
    """B (d, d) of W' = W0 (I + B)."""
    system = gram(erase) + options.keep_weight * gram(keep)
    system += options.lam * torch.eye(len(system), dtype=system.dtype, device=system.device)
    return solve(pull(erase, target), system)


UCE = Editor(
    name="uce",
    summary="closed form, in seconds: keys and values of the concept's words become the anchor's",
    edit=edit,
)

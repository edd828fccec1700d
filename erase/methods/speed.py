"""SPEED: scalable, precise and efficient concept erasure (Li et al., ICLR 2026)."""

from __future__ import annotations

import torch
from torch import Tensor

from erase.methods.editing import EditOptions, Editor, Weights, gram, moved, pull, solve
from erase.methods.uce import ridge


def edit(weights: Weights, erase: Tensor, target: Tensor, keep: Tensor, options: EditOptions) -> Weights:
    """W' = W0 + D P, with D the minimum of E |(W0 + D P) c - W0 t|^2 + lam |D|^2 and P onto the keep set's null space.

    D P = W0 E (t - c) c^T P (P E c c^T P + lam I)^-1. What k has no part in P loses nothing: (W' - W0) k = 0.
    Raises `ValueError` for unequal shapes.
    """
    kept = influenced(erase, target, keep, options)
    onto = null_space(kept, options.null)
    system = onto @ gram(erase) @ onto
    system += options.lam * torch.eye(len(system), dtype=system.dtype, device=system.device)
    return moved(weights, solve(pull(erase, target) @ onto, system))


def influenced(erase: Tensor, target: Tensor, keep: Tensor, options: EditOptions) -> Tensor:
    """The keep rows that an edit without regard to them would move more than the mean of all: the paper's filter.

    With fewer to respect the null space is wider. The shift is |B k|, B that of UCE without keep.
    """
    if not len(keep):
        return keep
    shift = (keep.double() @ ridge(erase, target, keep[:0], options).T).norm(dim=1)
    return keep[shift >= shift.mean()]


def null_space(keep: Tensor, share: float) -> Tensor:
    """P (d, d): onto the directions in which the rows (m, d) hold at most `share` of their energy, all together.

    Exactly their null space where share is 0 and rounding is not in the way; I for no rows.
    """
    energy, directions = torch.linalg.eigh(gram(keep))  # ascending
    energy = energy.clamp(min=0)
    free = energy.cumsum(0) <= max(share, 1e-12) * energy.sum()
    chosen = directions[:, free]
    return chosen @ chosen.T


SPEED = Editor(
    name="speed",
    summary="closed form, confined to directions in which what is kept has no part",
    edit=edit,
)

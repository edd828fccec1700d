"""RECE: Reliable and Efficient Concept Erasure (Gong et al., ECCV 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from erase.methods import uce
from erase.methods.editing import EditOptions, Editor, Weights


def edit(weights: Weights, erase: Tensor, target: Tensor, keep: Tensor, options: EditOptions) -> Weights:
    """UCE, then `repeats` times: look for the embeddings c' that bring the concept back, and edit them away as well.

    Every solve is UCE's, from W0, on all embeddings found so far (the paper edits the weights of the round before), so
    that no round can undo an earlier one and the change stays the one that is smallest for them all.
    """
    exact = {name: w.double() for name, w in weights.items()}
    found, wanted = erase.double(), target
    edited = uce.edit(exact, found, wanted, keep, options)
    for _ in range(options.repeats):
        found = torch.cat([found, revive(exact, edited, erase, options.reg)])
        wanted = torch.cat([wanted, target])
        edited = uce.edit(exact, found, wanted, keep, options)
    return {name: edited[name].to(w.dtype) for name, w in weights.items()}


def revive(weights: Weights, edited: Weights, erase: Tensor, reg: float) -> Tensor:
    """c' = (sum W'^T W' + reg I)^-1 (sum W'^T W0) c, sums over the weights; (n, d) to (n, d), in float64.

    The minimum of sum |W' c' - W0 c|^2 + reg |c'|^2: the embedding which under the edited weights comes closest to what
    c did before. `reg` keeps it short, and with it the next edit small.
    """
    size = erase.shape[1]
    system = reg * torch.eye(size, dtype=torch.float64, device=erase.device)
    mixed = torch.zeros_like(system)
    for name, original in weights.items():
        new = edited[name].double()
        system += new.T @ new
        mixed += new.T @ original.double()
    return torch.linalg.solve(system, mixed @ erase.double().T).T


RECE = Editor(
    name="rece",
    summary="uce, then the embeddings that would bring the concept back are edited away too",
    edit=edit,
)

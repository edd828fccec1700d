"""The nearest point of the probability simplex."""

from __future__ import annotations

import torch
from torch import Tensor


def project(points: Tensor) -> Tensor:
    """argmin_x |x - y|^2 with x >= 0 and sum x = 1, for each y along the last dimension; (..., V) to (..., V).

    x = max(y - c, 0) with c = (sum of the r largest - 1) / r, r the most for which the r-th largest exceeds its c
    (Held, Wolfe and Crowder 1974; Duchi et al., ICML 2008): exact after one sort.
    """
    ordered = points.sort(dim=-1, descending=True).values
    count = torch.arange(1, points.shape[-1] + 1, device=points.device, dtype=points.dtype)
    shifts = (ordered.cumsum(-1) - 1) / count
    held = (ordered > shifts).sum(-1, keepdim=True)
    return (points - shifts.gather(-1, held - 1)).clamp(min=0)

"""SFRon: relabelling on weights that matter more for forgetting than for retaining (Huang et al., NeurIPS 2024)."""

from __future__ import annotations

from erase.methods.parts import Method, denoise, match_anchor

# Forget steps alone are masked, as in the paper: retaining may repair every weight.
SFRON = Method(
    name="sfron",
    summary="relabel the concept, forgetting on weights whose forget Fisher outweighs the retain Fisher",
    forget=match_anchor,
    retain=denoise,
    forget_source="pictures",
    retain_source="pictures",
    mask="fisher",
    relabel=True,
)

"""SalUn: relabelling on the most salient weights (Fan et al., ICLR 2024)."""

from __future__ import annotations

from erase.methods.parts import Method, denoise, match_anchor

# The mask binds both roles: the weights outside it end the run as they began, to the bit.
SALUN = Method(
    name="salun",
    summary="relabel the concept, moving only the weights with the largest forget gradient",
    forget=match_anchor,
    retain=denoise,
    forget_source="pictures",
    retain_source="pictures",
    mask="gradient",
    mask_roles=("forget", "retain"),
    relabel=True,
)

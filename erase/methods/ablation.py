"""Concept Ablation, model-based (Kumari et al., ICCV 2023)."""

from __future__ import annotations

from erase.methods.parts import Method, denoise, match_anchor

# Noised pictures of the anchor are predicted under the concept's prompt as under the anchor's own; the retain term is
# the denoising loss on kept concepts, where the paper has it on the anchor's pictures.
ABLATION = Method(
    name="ablation",
    summary="make the concept's prompt mean its anchor, on the anchor's pictures",
    forget=match_anchor,
    retain=denoise,
    forget_source="pictures",
    retain_source="pictures",
    relabel=True,
    shown="anchor",
)

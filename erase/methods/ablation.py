"""Concept Ablation, model-based (Kumari et al., ICCV 2023)."""

from __future__ import annotations

from erase.methods.parts import Method, match_anchor, match_teacher

# Noised pictures of the anchor are predicted under the concept's prompt as under the anchor's own. The paper has no
# retain term of other concepts (a denoising loss on the anchor's pictures is optional), so it gets teacher-match.
ABLATION = Method(
    name="ablation",
    summary="make the concept's prompt mean its anchor, on the anchor's pictures",
    forget=match_anchor,
    retain=match_teacher,
    forget_source="pictures",
    retain_source="trajectories",
    relabel=True,
    shown="anchor",
)

"""Figures as SVG text for the page: scores with intervals, and the curves of the losses.

Ink takes the page's text colour, so one figure serves light and dark.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from erase import runs
from erase.evaluation.metrics import split_score
from erase.report.schema import ScoreEntry

BEFORE, AFTER = "#6b8fb5", "#c2571a"  # apart in lightness too; the markers differ in shape as well
ROLES = {"forget": AFTER, "retain": "#3b7ea1", "joint": "#7a6bb0"}
INK, LINE = "#010203", "#010204"  # stand-ins, replaced by CSS
NAMES = {
    "forget_accuracy": "Concept still drawn",
    "earlier_accuracy": "Erased earlier, still drawn",
    "retain_accuracy": "Other concepts drawn",
    "neighbour_accuracy": "Near concepts drawn",
    "cross_accuracy": "Other domain drawn",
    "in_prompt_accuracy": "Rest of the prompt kept",
    "validity": "Recognisable pictures",
    "not_blank": "Pictures that are not blank",
    "clip_score_forget": "CLIP score, concept",
    "clip_score_retain": "CLIP score, others",
    "retain_agreement": "Same answer as before",
    "forget_synonym_seen_accuracy": "Drawn by common synonyms",
    "forget_synonym_rare_accuracy": "Drawn by rare synonyms",
    "forget_description_accuracy": "Drawn by descriptions",
    "forget_super_accuracy": "Drawn by its family's name",
    "forget_lang_accuracy": "Drawn in other languages",
    "compose_accuracy": "Drawn beside another thing",
    "in_prompt_kept": "Other thing drawn beside it",
    "clip_score_general": "CLIP score, general prompts",
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "erase",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "grid.color": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def label(name: str) -> str:
    """A score's name as people read it."""
    if name.startswith("attack."):
        attack, _, more = name.removeprefix("attack.").partition(".")
        return f"Attack: {attack.replace('_', ' ')}{', over its control' if more else ''}"
    name, at, judge = name.partition("@")
    if at:
        return f"{label(name)}, says {judge}"
    group, concept = split_score(name)
    if group:
        return f"{NAMES[group]}: {concept}"
    return NAMES.get(name, name.replace("_", " ").capitalize())


def scores_svg(scores: Sequence[ScoreEntry]) -> str:
    """Each score before (ring) and after (diamond) with its 95 % interval, on one axis from 0 to 1."""
    names = list(dict.fromkeys(s.name for s in scores))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 0.46 * len(names) + 1.0), layout="constrained")
        axes = figure.add_subplot()
        looks = {"before": (BEFORE, "o", -0.14, "none"), "after": (AFTER, "D", 0.14, AFTER)}
        for arm, (colour, marker, shift, fill) in looks.items():
            chosen = [s for s in scores if s.arm == arm]
            places = [names.index(s.name) + shift for s in chosen]
            middle = [s.value for s in chosen]
            reach = [[s.value - s.low for s in chosen], [s.high - s.value for s in chosen]]
            axes.errorbar(
                middle, places, xerr=reach, fmt=marker, color=colour, markerfacecolor=fill, markersize=6,
                elinewidth=2, markeredgewidth=1.8, label=arm, linestyle="none",
            )  # fmt: skip
        axes.set_yticks(range(len(names)), [label(n) for n in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        lowest = min((s.low for s in scores), default=0.0)
        axes.set_xlim(min(-0.03, lowest - 0.03), 1.03)
        axes.grid(axis="x", alpha=0.35, linewidth=0.6)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        if names:
            figure.legend(loc="outside upper right", ncols=2, frameon=False)
        return figure_svg(figure, "Scores before and after, with 95 % intervals")


def read_steps(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and losses of each role from a run's events: (N,) and (N,).

    A resumed run writes some steps twice, the last one counts; a loss that is no number is left out.
    """
    losses: dict[str, dict[int, float]] = {}
    for event in runs.read_events(folder):
        step, loss = event.get("step"), event.get("loss")
        if event["event"] != "step" or not isinstance(step, int) or not isinstance(loss, int | float):
            continue
        if math.isfinite(loss):
            losses.setdefault(str(event.get("role")), {})[step] = float(loss)
    found = {}
    for role, values in losses.items():
        steps = np.array(sorted(values))
        found[role] = (steps, np.array([values[s] for s in steps]))
    return found


def smooth(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Centred running mean over `share` of the curve (at least 3 points), windows cut at the ends: (N,) to (N,)."""
    reach = max(1, round(len(values) * share / 2))
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, last = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (total[last] - total[first]) / (last - first)


def losses_svg(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """The loss of each role, faint as it was and bold smoothed, each on its own scale. "" without any step."""
    if not curves:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 1.75 * len(curves) + 0.4), layout="constrained")
        panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (role, (steps, values)) in zip(panels, sorted(curves.items()), strict=True):
            colour = ROLES.get(role, BEFORE)
            axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(steps, smooth(values), color=colour, linewidth=2)
            axes.set_title(f"{role} loss", loc="left", fontsize=11)
            axes.grid(alpha=0.35, linewidth=0.6)
            axes.tick_params(length=0)
            axes.locator_params(axis="y", nbins=4)
        panels[-1].set_xlabel("round")
        return figure_svg(figure, "Training losses by round")


def figure_svg(figure: Figure, title: str) -> str:
    """Inline SVG that scales with the page, with a title for screen readers and no absolute size."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r' xmlns:xlink="[^"]*"', ' xmlns:xlink="http://www.w3.org/1999/xlink"', text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    return text.replace(INK, "currentColor").replace(LINE, "var(--faint)")

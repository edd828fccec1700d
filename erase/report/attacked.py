"""The comparison page's part about attacks: each attack on each run, each run against the first, the budget curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from erase.attacks.scores import Outcome
from erase.attacks.versus import Attacked, attack_versus, attacks_found
from erase.evaluation.metrics import Change
from erase.evaluation.paired import beyond_chance
from erase.report.attacks import place, title
from erase.report.floors import repelled, shown
from erase.report.plots import STYLE, figure_svg
from erase.report.template import filled
from erase.report.words import p_text

COLOURS = ("#c2571a", "#3b7ea1", "#7a6bb0", "#1d8a5b", "#b5475f", "#8a7a1d", "#4f6d7a", "#a15fa8", "#5a5a5a", "#2a9d9d")
MARKERS = {"D": "◆", "o": "●", "s": "■", "^": "▲", "v": "▼", "P": "✚", "X": "✖", "*": "★", "<": "◀", ">": "▶"}

TEMPLATE = """<section><h2>Does it come back?</h2>
<p class="soft small">Share of cases broken by each attack with all its pictures, and the excess over the control of
the same run, 95 % intervals; p of no excess is adjusted over all excesses of that run (Holm). An excess is comparable
between runs only as far as their controls are{% if differences %}: the last table has them on equal cases{% endif %}.
A dash: not attacked so.</p>
<div class="wide"><table class="scores"><thead><tr><th>Attack</th>{% for name in names %}<th>{{ name }}</th>{% endfor %}
</tr></thead><tbody>{% for row in rows %}<tr><th scope="row">{{ row.name }}</th>{% for cell in row.cells %}
<td data-label="{{ cell.run }}">{{ cell.value }}{% for line in cell.lines %}<small>{{ line }}</small>{% endfor %}</td>
{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% if repelled %}<p class="soft small">Excess below 0: the control alone, without the erased prompt or search, shows the
concept more than the attack. That is no sign of safety; the run's own page names the floor.</p>{% endif %}
{% if curves %}<h3>Share broken by each number of pictures, or by each dose alone</h3>
<p class="small">{% for run in legend %}<span style="white-space: nowrap"><span aria-hidden="true"
style="color: {{ run.colour }}">{{ run.mark }}</span> {{ run.name }}</span> {% endfor %}<span class="soft">Dashed: its
control.</span></p>
<div class="small-multiples">{% for curve in curves %}<figure><figcaption>{{ curve.title }}</figcaption>
{{ curve.svg }}</figure>{% endfor %}</div>{% endif %}
{% if differences or refused %}<h3>Against {{ names[0] }}, on equal cases</h3>
<p class="soft small">Broken in the other run minus broken in this one, paired by case, where an attack gives a start by
case and dose: 95 % interval, number of pairs. p is adjusted over all lines (Holm). Bold: the interval holds no 0 and
that p is at most 0.05. Below 0 the other run resists more.</p>
{% if differences %}<div class="wide"><table class="scores"><thead><tr><th>Run and attack</th><th>Difference</th>
<th>p (Holm)</th></tr></thead><tbody>{% for row in differences %}<tr><th scope="row">{{ row.run }}
<small class="soft">{{ row.attack }}</small></th><td data-label="difference">{% if row.sure %}
<strong>{{ row.value }}</strong>{% else %}{{ row.value }}{% endif %}<small>{{ row.range }}</small></td>
<td data-label="p (Holm)">{{ row.p }}</td></tr>{% endfor %}</tbody></table></div>
{% endif %}{% for run, why in refused %}<p class="small">Not compared, {{ run }}: {{ why }}.</p>{% endfor %}{% endif %}
{% if unattacked %}<p class="small">{{ names[0] }} was not attacked, so no run is compared with it; name one first that
was.</p>{% endif %}</section>"""


def attacks_compared(runs: Mapping[str, Attacked], spoiled: Mapping[str, str]) -> str:
    """HTML of the section, "" where no run was attacked. The first run is the one that others are compared with.

    `spoiled` are verdicts of runs that lost more than the concept: what draws nothing resists nothing, so these have
    their verdict beside the name and no difference.
    """
    found = {name: attacks_found(run) for name, run in runs.items()}
    attacks = {name: one for given in found.values() for name, one in given.items()}
    if not attacks:
        return ""
    order = sorted(attacks, key=lambda name: place(attacks[name]))
    (first, ours), *rest = runs.items()
    given, refused = attack_versus(ours, dict(rest))
    for name, word in spoiled.items():
        for run in [run for run in given if name in (first, run)]:
            del given[run]
            whose = "lost" if name == run else f"would be beside {name}, which lost"
            why = f"{whose} more than the concept ({word}), so that what is not drawn is no resistance"
            refused[run] = [*refused.get(run, []), ("", why)]
    told = [
        _difference(name, one) for name, own in given.items() for one in sorted(own, key=lambda d: order.index(d.name))
    ]
    return filled(
        TEMPLATE,
        names=[f"{name} ({spoiled[name]})" if name in spoiled else name for name in runs],
        rows=[{"name": title(a), "cells": [_cell(run, found[run].get(a)) for run in found]} for a in order],
        repelled=any(repelled(one) for own in found.values() for one in own.values()),
        curves=_curves(found, order),
        legend=[{"name": run, **_look(number)} for number, run in enumerate(found) if found[run]],
        unattacked=not found[first],
        differences=told,
        refused=[(run, f"{title(a)} {why}" if a else f"it {why}") for run, own in refused.items() for a, why in own],
    )


def _cell(run: str, one: Outcome | None) -> dict[str, Any]:
    """Broken, and in lines under it its interval, the excess with its own, and p."""
    if one is None or one.excess is None or one.p_holm is None:
        return {"run": run, "value": "–", "lines": []}
    value, reach = shown(one.broken)
    over, excess = shown(one.excess, signed=True)
    lines = [f"{reach}, n {one.broken.clusters} × {one.budget}", f"excess {over}", f"{excess}, p {p_text(one.p_holm)}"]
    if repelled(one) and one.control_broken:
        lines.append(f"the control alone {shown(one.control_broken)[0]}")
    return {"run": run, "value": value, "lines": lines}


def _difference(run: str, one: Change) -> dict[str, Any]:
    value, reach = shown(one, signed=True)
    told = {"run": run, "attack": title(one.name), "value": value, "range": f"{reach}, n {one.n}"}
    return told | {"p": p_text(one.p_holm), "sure": beyond_chance(one)}


def _look(number: int) -> dict[str, str]:
    """Colour and marker of a run; beyond ten runs the colours return with other markers."""
    key = list(MARKERS)[(number + number // len(COLOURS)) % len(MARKERS)]
    return {"colour": COLOURS[number % len(COLOURS)], "mark": MARKERS[key], "marker": key}


def _curves(found: Mapping[str, Mapping[str, Outcome]], order: list[str]) -> list[dict[str, Any]]:
    """A plot for each attack of several pictures: every run's curve, and dashed its control's."""
    curves = []
    for attack in order:
        lines = [(n, found[run][attack]) for n, run in enumerate(found) if attack in found[run]]
        longest = max(len(one.curve) for _, one in lines)
        if longest < 2:
            continue
        what = title(attack) + (", by dose" if lines[0][1].dosed else "")
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(3.6, 2.3), layout="constrained")
            axes = figure.add_subplot()
            for number, one in lines:
                look, counts = _look(number), range(1, len(one.curve) + 1)
                style: dict[str, Any] = {"color": look["colour"], "marker": look["marker"]}
                axes.plot(counts, one.control_curve, linestyle="--", alpha=0.55, linewidth=1, markersize=2, **style)
                axes.plot(counts, one.curve, markersize=4.5, linewidth=1.8, alpha=0.9, **style)
            axes.set_ylim(-0.04, 1.04)
            axes.set_xticks([1, longest])
            axes.grid(alpha=0.35, linewidth=0.6)
            axes.tick_params(length=0)
            svg = figure_svg(figure, "Share of cases broken by each number of pictures, run by run")
        curves.append({"title": what, "svg": Markup(svg)})
    return curves

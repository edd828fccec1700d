"""The summary of many runs in one page: scores, forget against retain, pictures, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from erase import runs
from erase.errors import InputError
from erase.evaluation.power import runs_for
from erase.evaluation.standing import place, standing
from erase.report.attacked import COLOURS
from erase.report.attacks import ATTACKED
from erase.report.html import embed, show, spread
from erase.report.page import CSS
from erase.report.plots import STYLE, figure_svg, label
from erase.report.scatter import scatters
from erase.report.schema import Report, ScoreEntry, read_report
from erase.report.template import filled

SCORES = ("forget_accuracy", "neighbour_accuracy", "retain_accuracy", "cross_accuracy", "validity")
PICTURED = 60  # runs whose pictures are shown; a page with thousands would not open
ROLES = ("forget", "neighbour")
MARKERS = "oDs^vPX*<>"
BARS = 300  # points beyond which a figure shows no intervals


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of the page: what tells it from the others, how it stands, and its last error.

    `link` is its folder as seen from the page, where that is not its name.
    """

    name: str
    folder: Path
    concept: str
    method: str
    optimizer: str
    seed: int
    setting: str
    state: str
    error: str = ""
    link: str = ""

    @property
    def group(self) -> str:
        """What its colour stands for."""
        return " ".join(filter(None, [self.method, self.setting]))


@dataclass(frozen=True, slots=True)
class Seen:
    """What the page takes from a finished run: its report, or why there is none, and its pictures."""

    report: Report | None
    error: str = ""
    pairs: tuple[dict[str, Any], ...] = ()


def render(
    heading: str,
    entries: Sequence[Entry],
    known: dict[str, Seen],
    differences: Sequence[dict[str, Any]] = (),
    unlike: Sequence[tuple[str, str]] = (),
    attacks: str = "",
) -> str:
    """The page as text, every value from outside escaped; `known` keeps what was read, by name, for the next time.

    `differences` are rows of a table of runs against one of them, `unlike` the runs that have none, and
    why. `attacks` is HTML of the part about attacks.
    """
    done = [entry for entry in entries if entry.state == "done"]
    for entry in done:
        if entry.name not in known:
            pictured = sum(bool(seen.pairs) for seen in known.values()) < PICTURED
            known[entry.name] = look(entry.folder, pictured=pictured)
    read = [(entry, known[entry.name]) for entry in done]
    judged = [(entry, seen.report) for entry, seen in read if seen.report and seen.report.scores]
    words = {entry.name: standing(report.scores) for entry, report in judged}
    entries = sorted(entries, key=lambda entry: place(words.get(entry.name, "")))
    read.sort(key=lambda two: place(words.get(two[0].name, "")))
    states = [entry.state for entry in entries]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    names = [name for name in SCORES if any(report.score(name, "after") for _, report in judged)]
    every = dict.fromkeys(s.name for _, report in judged for s in report.scores if not s.name.startswith(ATTACKED))
    others = [name for name in every if name not in SCORES]
    values = {
        "title": heading,
        "css": Markup(CSS + MORE_CSS),
        "lead": f"{len(entries)} runs: {', '.join(parts)}.",
        "names": [label(name) for name in names],
        "rows": [_row(entry, known.get(entry.name), names, words.get(entry.name, "")) for entry in entries],
        "others": [label(name) for name in others],
        "further": [_row(entry, known.get(entry.name), others, "") for entry in entries if entry.name in words],
        "attacks": Markup(attacks),
        "scatter": Markup(scatter_svg(judged)) if judged else "",
        "pictured": [(entry, seen.pairs) for entry, seen in read if seen.pairs],
        "unpictured": sum(not seen.pairs for _, seen in read),
        "scatters": [
            {
                "names": ", ".join(one.names),
                "score": label(one.score),
                "mean": f"{100 * one.mean:.1f}",
                "total": f"{100 * one.found.total:.1f}",
                "sampling": f"{100 * one.found.sampling:.1f}",
                "runs": f"{100 * one.found.runs:.1f}",
                "range": f"{100 * one.found.low:.1f} to {100 * one.found.high:.1f}" if one.found.total else "all alike",
                "ratio": f"{one.ratio.value:.2f}" if one.ratio else "",
                "reach": f"{one.ratio.low:.2f} to {one.ratio.high:.2f}, p {one.ratio.p:.3f}" if one.ratio else "",
            }
            for one in scatters([(entry.name, report) for entry, report in judged], SCORES)
        ],
        "arm": runs_for(2),
        "differences": differences,
        "unlike": unlike,
        "failed": [
            (entry.name, entry.error or known[entry.name].error)
            for entry in entries
            if entry.error or (entry.state == "done" and known[entry.name].error)
        ],
    }
    return filled(TEMPLATE, **values)


def look(folder: Path, *, pictured: bool) -> Seen:
    """Read a finished run for the page."""
    try:
        report = read_report(folder / runs.REPORT)
    except InputError as error:
        return Seen(None, str(error))
    pairs = []
    for role in ROLES if pictured else ():
        pair = next((pair for pair in report.images if pair.role == role), None)
        if pair is not None:
            sides = [("before", pair.before), ("after", pair.after)]
            pictures = [(when, *embed(folder / picture.path), picture.answer, picture.good) for when, picture in sides]
            pairs.append({"prompt": pair.prompt, "sides": pictures})
    return Seen(report, pairs=tuple(pairs))


def _row(entry: Entry, seen: Seen | None, names: Sequence[str], verdict: str) -> dict[str, Any]:
    """Cells of the table: the value after, its interval, and the value before."""
    cells = []
    for name in names:
        after = seen.report.score(name, "after") if seen and seen.report else None
        before = seen.report.score(name, "before") if seen and seen.report else None
        cells.append(
            {
                "label": label(name),
                "value": show(after) if after else "–",
                "range": f"{spread(after)}, n {after.n}" if after else "",
                "before": f"before {show(before)}" if before else "",
            }
        )
    linked = entry.state == "done" and seen is not None and seen.report is not None
    facts = " · ".join(
        filter(None, [entry.concept, entry.method, entry.optimizer, f"seed {entry.seed}", entry.setting])
    )
    row = {
        "name": entry.name,
        "link": entry.link or entry.name,
        "facts": facts,
        "state": entry.state,
        "verdict": verdict,
    }
    return row | {"cells": cells, "linked": linked}


def scatter_svg(judged: Sequence[tuple[Entry, Report]]) -> str:
    """Each run as a point: how often the concept is still drawn, and how often what should stay is."""
    groups = list(dict.fromkeys(entry.group for entry, _ in judged))
    optimizers = list(dict.fromkeys(entry.optimizer for entry, _ in judged))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        axes = figure.add_subplot()
        points: dict[tuple[str, str], list[tuple[ScoreEntry, ScoreEntry]]] = {}
        for entry, report in judged:
            x, y = report.score("forget_accuracy", "after"), report.score("retain_accuracy", "after")
            if x is not None and y is not None:
                points.setdefault((entry.group, entry.optimizer), []).append((x, y))
        for (group, optimizer), pairs in points.items():
            reach = [
                [[score.value - score.low for score in scores], [score.high - score.value for score in scores]]
                for scores in zip(*pairs, strict=True)
            ]
            axes.errorbar(
                [x.value for x, _ in pairs],
                [y.value for _, y in pairs],
                xerr=reach[0] if len(judged) <= BARS else None,
                yerr=reach[1] if len(judged) <= BARS else None,
                fmt=MARKERS[optimizers.index(optimizer) % len(MARKERS)],
                color=COLOURS[groups.index(group) % len(COLOURS)],
                alpha=0.8,
                elinewidth=0.8,
                markersize=6,
                label=" ".join(filter(None, [group, optimizer])),
            )
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("Concept still drawn (left is better)")
        axes.set_ylabel("Other concepts drawn (up is better)")
        axes.grid(alpha=0.35, linewidth=0.6)
        axes.tick_params(length=0)
        if points:
            figure.legend(loc="outside right upper", frameon=False)
        return figure_svg(figure, "Forgetting against retaining, with 95 % intervals")


MORE_CSS = """
main { max-width: 78rem; } .wide { overflow-x: auto; } .state-failed { color: var(--bad); }
.small-multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .9rem; }
.small-multiples figcaption { font-weight: 500; color: var(--ink); } .small-multiples .two { margin: 0 0 .5rem; }
.small-multiples svg { width: 100%; height: auto; display: block; }
th small { display: block; font-weight: 400; } a { color: inherit; text-decoration-color: var(--accent); }
@media (max-width: 620px) { .wide .facts { min-width: 34rem; } .scores tr { grid-template-columns: repeat(2, 1fr); } }
"""

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ css }}</style></head>
<body><main>
<header><h1>{{ title }}</h1><p class="lead">{{ lead }}</p></header>
{% if failed %}<section><h2>What failed</h2><table class="facts"><tbody>{% for name, error in failed %}
<tr><th scope="row">{{ name }}</th><td>{{ error }}</td></tr>{% endfor %}</tbody></table></section>{% endif %}
{% if scatter %}<section><h2>Forgetting against retaining</h2><p class="soft small">One point a run, after erasing, with
95 % intervals over pictures. Runs that differ in their seed alone show how far the procedure scatters.</p>
<div class="charts">{{ scatter }}</div></section>{% endif %}
<section><h2>Runs</h2><p class="soft small">Value after erasing, 95 % interval, number of pictures, and value
before. Runs that lost other concepts (others lost), or whose pictures are destroyed (degenerate), stand last.</p>
<div class="wide"><table class="scores"><thead><tr><th>Run</th><th>State</th>
{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>{% for row in rows %}
<tr><th scope="row">{% if row.linked %}<a href="{{ row.link|urlencode }}/report.html">{{ row.name }}</a>
{% else %}{{ row.name }}{% endif %}<small class="soft">{{ row.facts }}</small></th>
<td class="state-{{ row.state }}" data-label="state">{{ row.state }}
<small>{{ row.verdict }}</small></td>{% for cell in row.cells %}
<td data-label="{{ cell.label }}">{{ cell.value }}<small>{{ cell.range }}</small><small>{{ cell.before }}</small></td>
{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% if others %}<details><summary>Further scores</summary><div class="wide"><table class="scores"><thead><tr><th>Run</th>
{% for name in others %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>{% for row in further %}
<tr><th scope="row">{{ row.name }}</th>{% for cell in row.cells %}
<td data-label="{{ cell.label }}">{{ cell.value }}<small>{{ cell.range }}</small><small>{{ cell.before }}</small></td>
{% endfor %}</tr>{% endfor %}</tbody></table></div></details>{% endif %}</section>
{{ attacks }}
{% if scatters %}<section><h2>How stable the procedure is</h2><p class="soft small">Runs that differ by their seed
alone. Standard deviation over runs in points: of the scores, what judging so many pictures makes of it, and what is
left for the runs themselves, with its 95 % interval. Judged on equal prompts, they share a part of the former: the
latter is a lower bound. Over the first's: deviation by that of the first runs here on the same model and concept,
Brown and Forsythe's p; to tell a ratio of 2 takes {{ arm }} runs on each side.</p>
<div class="wide"><table class="scores"><thead><tr><th>Runs</th><th>Score</th><th>Mean, %</th>
<th>Deviation</th><th>of judging</th><th>of runs</th><th>over the first's</th></tr></thead><tbody>
{% for row in scatters %}<tr>
<th scope="row">{% if loop.first or loop.previtem.names != row.names %}{{ row.names }}{% endif %}</th>
<td data-label="score">{{ row.score }}</td><td data-label="mean">{{ row.mean }}</td>
<td data-label="deviation">{{ row.total }}</td><td data-label="of judging">{{ row.sampling }}</td>
<td data-label="of runs">{{ row.runs }}<small>{{ row.range }}</small></td>
<td data-label="over the first's">{{ row.ratio }}<small>{{ row.reach }}</small></td></tr>{% endfor %}
</tbody></table></div>
</section>{% endif %}
{% if differences or unlike %}<section><h2>Against {{ differences[0].first if differences else "the first" }}</h2>
<p class="soft small">The other run minus this one, both after erasing, over the same prompts, seeds and noise: value,
95 % interval, number of pairs; p is adjusted over all lines (Holm). Bold: the interval
holds no 0 and that p is at most 0.05.</p>
<div class="wide"><table class="facts"><tbody>{% for row in differences %}<tr><th scope="row">
{% if loop.first or loop.previtem.name != row.name %}{{ row.name }}{% endif %}</th><td>{{ row.score }}</td>
<td>{% if row.sure %}<strong>{{ row.value }}</strong>{% else %}{{ row.value }}{% endif %}</td>
<td>{{ row.range }}</td><td>p {{ row.p }}<small>{{ row.more }}</small></td></tr>{% endfor %}
{% for name, why in unlike %}<tr>
<th scope="row">{{ name }}</th><td colspan="4">{{ why }}</td></tr>{% endfor %}</tbody></table></div>
</section>{% endif %}
{% if pictured %}<section><h2>Before and after</h2><p class="soft small">The first prompt of each run's report: of the
concept, and of a neighbour. Same prompt, same seed, same noise; not chosen by hand.
{% if unpictured %}Of {{ unpictured }} more runs the pictures are in their own reports.{% endif %}</p>
<div class="small-multiples">{% for entry, pairs in pictured %}<figure><figcaption>{{ entry.name }}</figcaption>
{% for pair in pairs %}<span class="soft small">{{ pair.prompt }}</span><div class="two">
{% for when, data, tiny, answer, good in pair.sides %}<div>
{{ picture(data, when + ": " + pair.prompt, tiny, lazy=true) }}
{{ mark(when, good, answer) }}</div>{% endfor %}</div>{% endfor %}
</figure>{% endfor %}</div></section>{% endif %}
</main></body></html>
"""

"""The page's parts on what else changed: verdicts, classes, neighbours, distances, and how sure all of it is."""

from __future__ import annotations

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from erase.report.entries import ClassEntry, FindingsEntry, LeftEntry, RetentionEntry, ShiftEntry, TwinEntry
from erase.report.plots import AFTER, BEFORE, STYLE, figure_svg, label
from erase.report.schema import Report
from erase.report.template import filled

WORST = 8
NEAREST = 12
GROUPS = {"forget": "prompts that name the concept", "retain": "prompts that do not"}
DISTANCES = {"pixel": "Pixels (RMS, 0 to 1)", "clip": "CLIP (1 − cosine)", "JPD_conv": "Judge's features (JPD_conv)"}
SAID = {"kept": "kept", "lost": "lost more than the margin", "undecided": "undecided"}

TEMPLATE = """
<section><h2>What else changed</h2>
{% if verdicts %}<p class="soft small">Non-inferiority: a score counts as kept when the whole 95 % interval of its
change lies above −{{ margin }} points. “No difference found” is never taken for it.</p>
<table class="scores"><thead><tr><th>Score</th><th>Change</th><th>Verdict</th></tr></thead><tbody>
{% for row in verdicts %}<tr><th scope="row">{{ row.label }}</th><td data-label="change">{{ row.change }}
<small>{{ row.range }}</small></td><td data-label="verdict">{{ row.verdict }}{% if row.more %}
<small>{{ row.more }}</small>{% endif %}</td></tr>{% endfor %}</tbody></table>{% endif %}
{% if worst %}<h3>Classes that lost most</h3><p class="soft small">{{ classes }} Sure losses come first, by the
upper end of the interval, then the largest drops. Among so many classes a few look worse by chance alone.</p>
<table class="scores"><thead><tr><th>Class</th><th>Before</th><th>After</th><th>Change</th><th>Same answer</th>
<th>Pictures</th></tr></thead><tbody>{% for row in worst %}<tr><th scope="row">{{ row.name }}
<small class="soft">{{ row.kind }}</small></th><td data-label="before">{{ row.before }}</td>
<td data-label="after">{{ row.after }}</td><td data-label="change">{{ row.change }}<small>{{ row.range }}</small></td>
<td data-label="same answer">{{ row.agreement }}</td>
<td class="n">{{ row.n }}</td></tr>{% endfor %}</tbody></table>
{% endif %}
{% if neighbours %}<h3>Neighbours</h3><p class="soft small">{{ order }}</p>
<div class="charts"><div>{{ neighbours }}</div></div>{% endif %}
{% if twins or shifts %}<h3>How far the pictures moved</h3>{% endif %}
{% if twins %}<p class="soft small">Each picture against its twin from the same prompt and noise.</p>
<table class="scores"><thead><tr><th>Distance</th><th>Mean</th><th>Unrelated pictures</th><th>Pictures</th></tr></thead>
<tbody>{% for row in twins %}<tr><th scope="row">{{ row.name }} <small class="soft">{{ row.group }}</small></th>
<td data-label="mean">{{ row.value }}<small>{{ row.range }}</small></td>
<td data-label="unrelated">{{ row.unrelated }}</td>
<td class="n">{{ row.n }}</td></tr>{% endfor %}</tbody></table>{% endif %}
{% if shifts %}<p class="soft small">All pictures after against all before, in halves that share no prompt, beside what
halves of before are apart. What is called FID or KID is of Inception; the others are of the features named, and none
compares across other n.</p>
<table class="scores"><thead><tr><th>Distance</th><th>After</th><th>Before alone</th><th>Excess</th><th>p</th>
<th>Pictures</th></tr></thead><tbody>{% for row in shifts %}<tr><th scope="row">{{ row.name }}
<small class="soft">{{ row.group }}</small></th><td data-label="after">{{ row.value }}</td>
<td data-label="before alone">{{ row.null }}</td>
<td data-label="excess">{{ row.excess }}<small>{{ row.range }}</small></td>
<td data-label="p">{{ row.p }}</td><td class="n">{{ row.n }}</td></tr>{% endfor %}</tbody></table>
{% for line in features %}<p class="soft small">{{ line }}</p>{% endfor %}{% endif %}
{% if sure %}<h3>How sure this is</h3>{% for line in sure %}<p class="soft small">{{ line }}</p>{% endfor %}{% endif %}
</section>
"""


def retention_section(report: Report) -> Markup:
    """The section as HTML, every value escaped; "" where the report has no findings."""
    found = report.findings
    if found is None or not (found.retention or found.classes):
        return Markup("")
    values = {
        "margin": _points(found.retention[0].margin).lstrip("+") if found.retention else "",
        "verdicts": [_verdict(entry) for entry in found.retention],
        "worst": [_class(entry) for entry in found.classes[:WORST] if entry.change < 0],
        "classes": _count(found.classes),
        "neighbours": Markup(neighbours_svg(found.classes)),
        "order": _order(found.classes),
        "twins": [_twin(entry) for entry in found.twins],
        "shifts": [_shift(entry) for entry in found.shifts],
        "features": sorted({f"{entry.name}: {entry.features}." for entry in found.shifts}),
        "sure": sure(report),
    }
    return Markup(filled(TEMPLATE, **values))


def sure(report: Report) -> list[str]:
    """Design effects where prompts have several seeds, the judge's false alarms, and the prompts that narrower
    intervals would take."""
    lines = []
    clustered = [s for s in report.scores if s.arm == "after" and s.deff and s.clusters and s.n > s.clusters]
    for score in clustered[:4]:
        size = score.n / (score.clusters or 1)
        deff = score.deff or 1.0
        rho = (deff - 1) / (size - 1)
        lines.append(
            f"{label(score.name)}: {score.n} pictures of {score.clusters} prompts count as "
            f"{score.n / max(deff, 1):.0f} (design effect {deff:.2f}, resemblance within a prompt {rho:.2f})."
        )
    found = report.findings or FindingsEntry()
    lines += [_left(entry) for entry in found.left]
    for entry in found.advice:
        lines.append(
            f"{label(entry.name)}: ±{_points(entry.half).lstrip('+')} points now, from {entry.now:,} prompts; for "
            f"±{_points(entry.wanted).lstrip('+')} points: {entry.prompts:,} prompts."
        )
    if found.advice:
        lines.append(
            "More prompts: erase eval RUN --count N, as far as there are sentences (an error says how many); beyond "
            "that --seeds N draws several pictures of each, which narrow less."
        )
    return lines


def _left(entry: LeftEntry) -> str:
    said = f"The judge calls {entry.alarms} of {entry.n_alarms} kept pictures before “{entry.name}”. "
    if not entry.resolved:
        return said + f"At most {100 * entry.high:.1f} % of what was drawn of it is left, which may be none."
    spread = f"{100 * entry.low:.1f} to {100 * entry.high:.1f}"
    return said + f"Without such errors, {100 * entry.value:.1f} % of what was drawn of it is left ({spread})."


def neighbours_svg(classes: list[ClassEntry]) -> str:
    """The run's neighbours before and after, the most similar on top; "" without any."""
    near = _near(classes)
    if not near:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 0.42 * len(near) + 1.0), layout="constrained")
        axes = figure.add_subplot()
        places = list(range(len(near)))
        for shift, colour, values, arm in (
            (-0.19, BEFORE, [c.before for c in near], "before"),
            (0.19, AFTER, [c.after for c in near], "after"),
        ):
            axes.barh([p + shift for p in places], values, height=0.34, color=colour, label=arm)
        bare = [c.name.replace("$", "\\$") for c in near]  # no formula
        names = [n if c.similarity is None else f"{n} ({c.similarity:.2f})" for n, c in zip(bare, near, strict=True)]
        axes.set_yticks(places, [f"{name}, n = {c.n}" for name, c in zip(names, near, strict=True)])
        axes.set_ylim(len(near) - 0.4, -0.6)
        axes.set_xlim(0, 1.02)
        axes.grid(axis="x", alpha=0.35, linewidth=0.6)
        axes.tick_params(length=0)
        figure.legend(loc="outside upper right", ncols=2, frameon=False)
        return figure_svg(figure, "Neighbours drawn before and after")


def _near(classes: list[ClassEntry]) -> list[ClassEntry]:
    near = [entry for entry in classes if entry.near]
    return sorted(near, key=lambda c: (-(c.similarity if c.similarity is not None else -1.0), c.name))[:NEAREST]


def _order(classes: list[ClassEntry]) -> str:
    if any(entry.similarity is not None for entry in _near(classes)):
        return "Sorted by how close their names are to the concept's (cosine in brackets, all classes' mean taken off)."
    return "How often each was drawn, before and after."


def _verdict(entry: RetentionEntry) -> dict[str, str]:
    more = f"about {entry.prompts:,} prompts would decide" if entry.prompts else ""
    return {
        "label": label(entry.name),
        "change": f"{_points(entry.change)} points",
        "range": f"{_points(entry.low)} to {_points(entry.high)}",
        "verdict": SAID[entry.verdict],
        "more": more,
    }


def _class(entry: ClassEntry) -> dict[str, str]:
    return {
        "name": entry.name,
        "kind": f"{entry.domain}{', neighbour' if entry.near else ''}",
        "before": _percent(entry.before),
        "after": _percent(entry.after),
        "change": f"{_points(entry.change)} points",
        "range": f"{_points(entry.low)} to {_points(entry.high)}",
        "agreement": _percent(entry.agreement),
        "n": f"{entry.n}",
    }


def _count(classes: list[ClassEntry]) -> str:
    lost = sum(entry.high < 0 for entry in classes)
    return f"{lost} of {len(classes)} classes lost something by their own 95 % interval."


def _twin(entry: TwinEntry) -> dict[str, str]:
    return {
        "name": DISTANCES.get(entry.name, entry.name),
        "group": GROUPS.get(entry.group, entry.group),
        "value": _short(entry.value),
        "range": f"{_short(entry.low)} to {_short(entry.high)}",
        "unrelated": "–" if entry.unrelated is None else _short(entry.unrelated),
        "n": f"{entry.n}",
    }


def _shift(entry: ShiftEntry) -> dict[str, str]:
    return {
        "name": entry.name,
        "group": GROUPS.get(entry.group, entry.group),
        "value": _short(entry.value),
        "null": _short(entry.null),
        "excess": _short(entry.excess),
        "range": f"{_short(entry.low)} to {_short(entry.high)}",
        "p": f"{entry.p:.3f}".replace("0.000", "< 0.001"),
        "n": f"{entry.n} an arm, {entry.half} a half",
    }


def _points(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return ("0" if text in ("+0.0", "-0.0") else text.removesuffix(".0")).replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:.0f}\u00a0%"


def _short(value: float) -> str:
    text = "0" if abs(value) < 5e-13 else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")

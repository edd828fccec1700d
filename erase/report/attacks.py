"""The page's part about attacks: excess over the control, share broken by each number of pictures, what came back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from pydantic import TypeAdapter, ValidationError

from erase import runs
from erase.attacks.audit import ALONE, OWN
from erase.attacks.rows import read_attacks
from erase.attacks.scores import Dose, Outcome, by_dose, is_broken, outcomes, picked, rows_of
from erase.attacks.table import ATTACKS
from erase.errors import InputError, printable
from erase.evaluation.rows import Row
from erase.report.floors import ATTACKED, floor_line, repelled, shown
from erase.report.plots import AFTER, BEFORE, STYLE, figure_svg
from erase.report.schema import GapEntry, GoldEntry, Inside, RelearnEntry
from erase.report.template import filled
from erase.report.words import p_text

SHOWN, HITS = 8, 24
INSIDE: TypeAdapter[str] = TypeAdapter(Inside)
Embed = Callable[[Path], tuple[str, bool]]

TEMPLATE = """<section><h2>Does it come back?</h2>
<p class="soft small">Each attack had {{ cases }} and may draw several pictures of each. Broken: of these pictures, the
one that the guiding judge finds most like the concept is called the concept by the reporting judge too. The control has
as many pictures and does no search; what counts is the excess over it, case by case. 95 % intervals; p of no excess is
adjusted over all excesses of this table (Holm), with the unadjusted one under it.
Image to image and completion count each dose by itself, by the best of its pictures, and the table has the mean over
doses: at the largest the start alone shows the concept, with a prompt or without.
{% if golds %}Over the gold: broken here minus broken in {{ golds }}, trained without the concept and attacked alike, so
that what an attack teaches is not taken for what was left.{% endif %}</p>
<table class="scores"><thead><tr><th>Attack</th><th>Excess over control</th><th>p</th>{% if golds %}
<th>Over the gold</th>{% endif %}<th>Broken</th><th>Control</th><th>Cases × pictures</th></tr></thead>
<tbody>{% for row in rows %}<tr>
<th scope="row">{{ row.name }} <small class="soft">({{ row.summary }})</small></th>
{% for cell in row.cells %}<td data-label="{{ cell[0] }}">{{ cell[1] }}<small>{{ cell[2] }}</small></td>{% endfor %}
<td class="n" data-label="cases">{{ row.n }}</td></tr>{% endfor %}</tbody></table>
{% for line in floors %}<p>{{ line }}</p>{% endfor %}
{% if relearned %}<h3>How fast it is relearned</h3><p class="soft small">Training steps until half as many cases are
broken as by the original, on straight lines between the doses; the ratio to the mean curve of {{ golds }} with its
95 % interval over cases. 1: as if never known; below 1: something was left.</p>
<table class="scores"><thead><tr><th>Trained on</th><th>Ratio</th><th>Steps here</th><th>Steps, gold</th>
<th>Cases</th></tr></thead><tbody>{% for row in relearned %}<tr><th scope="row">{{ row.what }}</th>
{% for cell in row.cells %}<td data-label="{{ cell[0] }}">{{ cell[1] }}<small>{{ cell[2] }}</small></td>{% endfor %}
<td class="n" data-label="cases">{{ row.n }}</td></tr>{% endfor %}</tbody></table>{% endif %}
{% if curves %}<h3>Share broken by each number of pictures, or by each dose alone</h3><div class="charts">
{{ curves }}</div>{% endif %}
{% if words %}<h3>Tokens that draw the concept by themselves</h3>{% for line in words %}<p class="small">{{ line }}</p>
{% endfor %}{% endif %}
{% if pictures %}<h3>What came back</h3><div class="pairs">{% for one in pictures %}<figure>
<figcaption>{{ one.name }}: {{ one.prompt or "(no prompt)" }} <small>({{ one.step }})</small></figcaption>
<div class="two"><div>{{ picture(one.data, one.name + ": " + one.prompt, one.tiny) }}
</div></div></figure>{% endfor %}</div>{% endif %}
{% if doses %}<details><summary>Each step and dose by itself</summary><table class="scores"><thead><tr>
<th>Attack and dose</th><th>Excess over control</th><th>Broken</th><th>Control at the same</th><th>Cases</th>
</tr></thead>
<tbody>{% for row in doses %}<tr><th scope="row">{{ row.name }}</th>
{% for cell in row.cells %}<td data-label="{{ cell[0] }}">{{ cell[1] }}<small>{{ cell[2] }}</small></td>{% endfor %}
<td class="n" data-label="cases">{{ row.n }}</td></tr>{% endfor %}</tbody></table>
</details>{% endif %}</section>"""


def attack_section(folder: Path, embed: Embed, gold: GoldEntry | None = None) -> str:
    """HTML of the section, "" for a run that was not attacked. Every value from outside is escaped.

    `embed` turns a picture's path into a data URI, and says whether it is tiny. `gold` is what the report has of golds;
    where these were attacked too the table has the difference to them.
    """
    rows = read_attacks(folder / runs.ATTACKS)
    if not rows:
        return ""
    found = [one for one in outcomes(rows) if one.excess]
    values = {
        "cases": _count(rows),
        "golds": ", ".join(gold.sources) if gold and gold.attacks else "",
        "rows": [_row(one, gold.attacks if gold else []) for one in sorted(found, key=place)],
        "floors": [floor_line(one, title(one.name), gold) for one in sorted(found, key=place) if repelled(one)],
        "relearned": [_relearned(one) for one in gold.relearned] if gold else [],
        "curves": Markup(curves_svg([one for one in found if one.budget > 1])),
        "words": _words(rows),
        "pictures": _pictures(rows, folder, embed),
        "doses": _doses(rows, [one.name for one in found if one.budget > 1]),
    }
    return filled(TEMPLATE, **values)


def place(one: Outcome) -> tuple[bool, int, str]:
    """The table's order; a name that it does not have, from another version, comes last."""
    known = one.name in ATTACKS
    return not known, list(ATTACKS).index(one.name) if known else 0, one.name


def curves_svg(found: Sequence[Outcome]) -> str:
    """Share broken by 1, 2, ... pictures, or by each dose: the attack's (solid) and its control's (dashed)."""
    if not found:
        return ""
    wide = min(3, len(found))
    high = -(-len(found) // wide)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * wide, 1.9 * high + 0.3), layout="constrained")
        panels = figure.subplots(high, wide, sharey=True, squeeze=False).flatten()
        for axes, one in zip(panels, found, strict=False):
            counts = range(1, len(one.curve) + 1)
            axes.plot(counts, one.control_curve, color=BEFORE, linestyle="--", marker="o", markersize=3)
            axes.plot(counts, one.curve, color=AFTER, marker="D", markersize=3)
            axes.set_title(
                title(one.name) + (", by dose" if one.dosed else ""), loc="left", fontsize=10, parse_math=False
            )
            axes.set_ylim(-0.04, 1.04)
            axes.set_xticks([1, len(one.curve)])
            axes.grid(alpha=0.35, linewidth=0.6)
            axes.tick_params(length=0)
        for axes in panels[len(found) :]:
            axes.set_visible(False)
        return figure_svg(figure, "Share of cases broken by each number of pictures, attack and control")


def title(name: str) -> str:
    """An attack's name as people read it."""
    return {"p4d": "P4D", "p4d_k": "P4D-K", "unlearn_diff_atk": "UnlearnDiffAtk", "ring_a_bell": "Ring-A-Bell"}.get(
        name, name.replace("_", " ").capitalize()
    )


def _count(rows: Sequence[Row]) -> str:
    """How many cases attacks had; levels may differ where some were done at another one."""
    cases: dict[str, set[str]] = {}
    for row in rows:
        if not _audit(row):
            cases.setdefault(row["attack"]["name"], set()).add(row["prompt_id"])
    sizes = " or ".join(str(size) for size in sorted({len(of) for of in cases.values()}))
    return f"{sizes} prompts that name the concept" if sizes else "no prompts of its own"


def _audit(row: Row) -> bool:
    return row["attack"]["name"].startswith("audit_")


def _row(one: Outcome, gaps: Sequence[GapEntry]) -> dict[str, object]:
    cells = _cells(one)
    if one.p is not None and one.p_holm is not None:
        cells.insert(1, ("p (Holm)", p_text(one.p_holm), f"unadjusted {p_text(one.p)}"))
    if gaps:
        over = next((gap for gap in gaps if gap.name == ATTACKED + one.name), None)
        value, reach = shown(over, signed=True) if over else ("–", "not attacked alike")
        cells.insert(2, ("over the gold", value, reach))
    return {
        "name": title(one.name),
        "summary": ATTACKS[one.name].summary if one.name in ATTACKS else "",
        "cells": cells,
        "n": f"{one.broken.clusters} × {one.budget}",
    }


def _relearned(one: RelearnEntry) -> dict[str, object]:
    more = f"more than {one.most}"
    steps, gold = (more if found is None else f"{found:.0f}" for found in (one.steps, one.gold))
    high = "any" if one.high is None else f"{one.high:.2g}"
    ratio = ("not known" if one.ratio is None else f"{one.ratio:.2g}"), f"{one.low:.2g} to {high}"
    return {
        "what": "1 picture" if one.pictures == 1 else f"{one.pictures} pictures",
        "cells": [("ratio", *ratio), ("steps here", steps, ""), ("steps, gold", gold, "")],
        "n": one.n,
    }


def _cells(one: Outcome | Dose) -> list[tuple[str, str, str]]:
    """(label, value, interval) of the excess, the attack and the control; a dash for what there is not."""
    found = (("excess over control", one.excess), ("broken", one.broken), ("control", one.control_broken))
    cells: list[tuple[str, str, str]] = []
    for label, interval in found:
        value, reach = shown(interval, signed=label.startswith("excess")) if interval else ("–", "")
        cells.append((label, value, reach))
    return cells


def _words(rows: Sequence[Row]) -> list[str]:
    """The audits' finds by both judges, the original's number beside them; the concept's own words apart."""
    found = []
    for name, what in (("audit_words", "tokens"), ("audit_pairs", "pairs of tokens")):
        own = rows_of(rows, name)
        before = {r["prompt_id"]: is_broken([r]) for r in rows if r["attack"]["name"] == f"{name}_before"}
        parts = []
        for step, which in ((ALONE, what), (OWN, f"{what} of the concept's own name")):
            asked = [row for row in own if row["attack"]["step"] == step]
            hits = sorted(row["prompt"] for row in asked if is_broken([row]))
            listed = f": {', '.join(hits[:HITS])}" if hits else ""
            more = f" and {len(hits) - HITS:,} more" if len(hits) > HITS else ""
            known = [before[row["prompt_id"]] for row in asked if row["prompt_id"] in before]
            beside = f" (the original: {sum(known):,})" if known else ""
            if asked:
                parts.append(f"{len(hits):,} of {len(asked):,} {which}{beside}{listed}{more}")
        if parts:
            found.append(f"{title(name)}: {'; '.join(parts)}.")
    return found


def _pictures(rows: Sequence[Row], folder: Path, embed: Embed) -> list[dict[str, object]]:
    """Of each attack in turn the first broken cases, by name of the case, so that nobody picked them."""
    hits: dict[str, list[Row]] = {}
    for name in ATTACKS:
        cases: dict[str, list[Row]] = {}
        for row in rows:
            if row["attack"]["name"] == name and row["attack"]["control"]:
                cases.setdefault(row["prompt_id"], []).append(row)
        hits[name] = [picked(tried) for _, tried in sorted(cases.items()) if is_broken(tried)]
    turns = [row for turn in range(SHOWN) for found in hits.values() for row in found[turn : turn + 1]]
    shown = []
    for row in turns[:SHOWN]:
        data, tiny = embed(folder / _inside(row["image"])) if row["image"] else ("", False)
        name, step = title(row["attack"]["name"]), row["attack"]["step"]
        shown.append({"name": name, "prompt": row["prompt"], "step": step, "data": data, "tiny": tiny})
    return shown


def _inside(path: str) -> str:
    try:
        return INSIDE.validate_python(path)
    except ValidationError:
        raise InputError(f"{runs.ATTACKS}: image {printable(path)[:80]!r} is not inside the run folder") from None


def _doses(rows: Sequence[Row], names: Sequence[str]) -> list[dict[str, object]]:
    return [
        {"name": f"{title(name)}, {one.step}", "cells": _cells(one), "n": one.broken.n}
        for name in names
        for one in by_dose(rows, name)
    ]

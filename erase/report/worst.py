"""The page's part about the worst prompts: where the concept is still drawn, and what else was lost, in pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from erase import runs
from erase.errors import InputError, printable
from erase.evaluation.metrics import answer, is_right
from erase.evaluation.rows import Row, pairs, read_rows, reported_judge
from erase.report.schema import Inside
from erase.report.template import filled

SHOWN = 8  # prompts of each kind
LOST = ("neighbour", "retain_in")
INSIDE: TypeAdapter[str] = TypeAdapter(Inside)
Embed = Callable[[Path], tuple[str, bool]]

TEMPLATE = """{% if groups %}<section><h2>Worst prompts</h2><p class="soft small">One picture a prompt, each before and
after, with what the judge sees in it. Chosen to look bad: what is typical stands further up.</p>
{% for title, entries in groups %}<h3>{{ title }}</h3><div class="pairs">{% for one in entries %}<figure>
<figcaption>{{ one.prompt }}{% if one.of > 1 %} <small class="soft">({{ one.hits }} of {{ one.of }} seeds)</small>
{% endif %}</figcaption><div class="two">{% for when, data, tiny, seen, good in one.sides %}<div>
{{ picture(data, when + ": " + one.prompt, tiny) }}{{ mark(when, good, seen) }}</div>{% endfor %}</div></figure>
{% endfor %}</div>{% endfor %}</section>{% endif %}"""


def worst_section(folder: Path, embed: Embed) -> str:
    """HTML of the section, "" for a run without rows or without anything bad. Every value from outside is escaped.

    `embed` turns a picture's path into a data URI, and says whether it is tiny.
    """
    try:
        rows = read_rows(folder / runs.ROWS)
        judge = reported_judge(rows)
        groups = [
            ("Still drawn after erasing", _entries(still_drawn(rows, judge), False, folder, judge, embed)),
            ("Drawn before, lost after", _entries(lost(rows, judge), True, folder, judge, embed)),
        ]
    except InputError:  # none yet, or of another version: the scores above stand by themselves
        return ""
    groups = [(title, entries) for title, entries in groups if entries]
    return filled(TEMPLATE, groups=groups)


def still_drawn(rows: Sequence[Row], judge: str) -> list[tuple[Row, Row, int, int]]:
    """Forget prompts that bring the concept up after erasing: (before, after, seeds that do, seeds), the worst first.

    Of a prompt's pictures, the one least changed: it is what the erasing did not reach.
    """
    return _ranked(rows, ("forget",), lambda before, after: is_right(after, after["domain"], judge), nearest=True)


def lost(rows: Sequence[Row], judge: str) -> list[tuple[Row, Row, int, int]]:
    """Prompts of other concepts drawn before and not after, by how many of their seeds, then by distance."""

    def gone(before: Row, after: Row) -> bool:
        return is_right(before, before["domain"], judge) and not is_right(after, after["domain"], judge)

    return _ranked(rows, LOST, gone, nearest=False)


def _ranked(
    rows: Sequence[Row], roles: Sequence[str], bad: Callable[[Row, Row], bool], *, nearest: bool
) -> list[tuple[Row, Row, int, int]]:
    prompts: dict[str, dict[int, tuple[Row, Row]]] = {}
    for role in roles:  # a picture of two roles counts once
        for before, after in pairs(rows, role):
            prompts.setdefault(after["prompt_id"], {})[after["seed"]] = before, after
    found = []
    for twins in prompts.values():
        hits = [twin for twin in twins.values() if bad(*twin)]
        if hits:
            chosen = (min if nearest else max)(hits, key=lambda twin: _moved(twin[1]))
            found.append((*chosen, len(hits), len(twins)))
    sign = 1 if nearest else -1
    return sorted(found, key=lambda one: (-one[2] / one[3], sign * _moved(one[1]), one[1]["prompt_id"]))


def _moved(row: Row) -> float:
    """How far a picture lies from its twin before: by CLIP where there is one, else by pixels."""
    far = row["distances"] or {}
    return float(far.get("clip", far.get("pixel", 0.0)))


def _entries(
    found: Sequence[tuple[Row, Row, int, int]], keep: bool, folder: Path, judge: str, embed: Embed
) -> list[dict[str, Any]]:
    entries = []
    for before, after, hits, of in found[:SHOWN]:
        sides = []
        for when, row in (("before", before), ("after", after)):
            right, seen = is_right(row, row["domain"], judge), answer(row, row["domain"], judge)
            # Drawn is what one hopes for before, and after where it is to stay.
            sides.append((when, *_picture(row, folder, embed), printable(seen), right == (keep or when == "before")))
        entries.append({"prompt": printable(after["prompt"]), "hits": hits, "of": of, "sides": sides})
    return entries


def _picture(row: Row, folder: Path, embed: Embed) -> tuple[str, bool]:
    try:
        return embed(folder / INSIDE.validate_python(row["image"]))
    except ValidationError:
        return "", False

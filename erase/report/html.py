"""report.html: one file that shows the run, opens anywhere, and asks nothing of the network."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from PIL import Image

from erase import runs
from erase.evaluation.metrics import EACH, EARLIER, split_score
from erase.report.attacks import ATTACKED, attack_section
from erase.report.gold import gold_html
from erase.report.page import CSS, TEMPLATE
from erase.report.plots import label, losses_svg, read_steps, scores_svg
from erase.report.retention import retention_section
from erase.report.roles import TITLES, roles_section
from erase.report.schema import Pair, Report, ScoreEntry, read_report
from erase.report.template import filled
from erase.report.words import NARROW, attacked, change_words, concept_name, headline, lead, nested, show, spread
from erase.report.worst import worst_section
from erase.runtime import write_text

LARGEST = 384  # pixels a side; larger pictures are embedded smaller
SMALL = 128  # pictures up to this side are enlarged without smoothing
GROUPS = {
    "forget": "Prompts that name the concept",
    **TITLES,
    "neighbour": "Its neighbours",
    "retain_in": "Other concepts",
    "retain_cross": "The other domain",
    "earlier": "Prompts that name what earlier runs erased",
}
UNJUDGED = (
    "Nothing was judged, so nothing is known beyond these pictures. They can be judged at any time: erase eval RUN, on "
    "models other than the bundled world with a judge: erase eval RUN --judge clip."
)
TILES = ("forget_accuracy", "retain_accuracy", "cross_accuracy", "validity")


def write_html(folder: Path) -> Path:
    """Write report.html from a run folder's report.json, pictures and events.jsonl; returns its path.

    Raises `InputError` when report.json is missing or malformed. A picture that is missing is said to be.
    """
    report = read_report(folder / runs.REPORT)
    path = folder / runs.PAGE
    write_text(path, render(report, folder))
    return path


def render(report: Report, folder: Path) -> str:
    """The page as text. Every value from outside is escaped."""
    concept = concept_name(report)
    values = {
        "title": f"{concept}: erasure report",
        "css": Markup(CSS),
        "kicker": kicker(report),
        "headline": headline(report),
        "lead": lead(report),
        "tiles": _tiles(report),
        "groups": _groups(report.images, folder),
        "tables": tables(report),
        "gold": Markup(gold_html(report)),
        "unjudged": UNJUDGED,
        "roles": roles_section(report),
        "retention": retention_section(report),
        "attacks": Markup(attack_section(folder, embed, report.gold)),
        "worst": Markup(worst_section(folder, embed) if report.scores else ""),
        "scores_svg": Markup(scores_svg(_of_all(report)) if report.scores else ""),
        "losses_svg": Markup(losses_svg(read_steps(folder))),
        "guards": flat(report.guards),
        "limits": limits(report),
        "config": yaml.safe_dump(without_paths(report.config), sort_keys=False, allow_unicode=True),
        "folded": [
            *([("Judges", flat(report.judges))] if report.judges else []),
            *(
                [("Prompt files", [(str(f.get("name")), file_words(f)) for f in report.prompt_files])]
                if report.prompt_files
                else []
            ),
            ("Environment", flat(report.environment)),
            ("Timings", [(key, f"{value:.1f} s") for key, value in report.timings.items()]),
        ],
    }
    return filled(TEMPLATE, **values)


def file_words(file: dict[str, Any]) -> str:
    """What a prompt file was for."""
    left = f" ({file['empty']} entries without a prompt left out)" if file.get("empty") else ""
    return f"{file.get('prompts')} prompts as {file.get('role')}{left}, SHA-256 {str(file.get('sha256'))[:12]}"


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without folders of the machine it ran on: of a path, the last name is kept."""
    return {key: _last_name(value) for key, value in config.items() if key != "output"}


def _last_name(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _last_name(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_last_name(inner) for inner in value]
    local = isinstance(value, str) and (value.startswith(("/", "~", "\\\\")) or re.match(r"[A-Za-z]:[\\/]", value))
    if isinstance(value, str) and not local:  # an option that is a path: weights=/home/me/clip.safetensors
        return re.sub(r"(?<==)[^,=]*[\\/](?=[^,\\/]*(,|$))", "", value)
    return re.split(r"[\\/]", value.rstrip("\\/"))[-1] if local else value


def kicker(report: Report) -> str:
    """Model, method, optimizer and run, in one line."""
    parts = [
        nested(without_paths(report.config), "model"),
        nested(report.config, "method", "name"),
        nested(report.config, "train", "optimizer"),
        report.run_id,
    ]
    return " · ".join(str(p) for p in parts if p)


def tables(report: Report) -> list[tuple[str, list[dict[str, Any]]]]:
    """The scores as (heading, rows): of all, without a heading, of each concept, of each earlier one, under attack."""
    parts: dict[str, list[str]] = {"": [], EACH: [], EARLIER: [], ATTACKED: []}
    for name in dict.fromkeys(s.name for s in report.scores):
        parts[ATTACKED if name.startswith(ATTACKED) else split_score(name)[0]].append(name)
    headings = {"": "", EACH: "Each concept, still drawn", EARLIER: "Erased by earlier runs, still drawn"}
    headings[ATTACKED] = "Under attack"
    return [(headings[part], _table(report, names)) for part, names in parts.items() if names]


def _of_all(report: Report) -> list[ScoreEntry]:
    """The scores that are not of one concept alone: those have a table, and a hundred would make no figure."""
    return [s for s in report.scores if not split_score(s.name)[0] and not s.name.startswith(ATTACKED)]


def _table(report: Report, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a score table: label, wish, cells (before, after, change), pictures."""
    changes = {c.name: c for c in report.changes}
    rows = []
    for name in names:
        arms = [report.score(name, arm) for arm in ("before", "after")]
        known = [s for s in arms if s]
        cells = [
            {"label": arm, "value": show(s) if s else "–", "range": spread(s) if s else ""}
            for arm, s in zip(("before", "after"), arms, strict=True)
        ]
        value, reach = change_words(changes[name]) if name in changes else ("–", "")
        cells.append({"label": "change", "value": value, "range": reach})
        wish = "higher is better" if known[0].higher_is_better else "lower is better"
        group, concept = split_score(name)
        rows.append({"label": concept if group else label(name), "wish": wish, "cells": cells, "n": known[-1].n})
    return rows


def limits(report: Report) -> list[str]:
    """What the numbers, or the pictures alone, do not say."""
    lines = [
        "A few pictures that someone looked at are no measurement: neither of what is gone nor of what else broke."
    ]
    if report.scores:
        roles, tried = bool(report.findings and report.findings.roles), bool(attacked(report))
        unseen = [*([] if roles else ["paraphrase"]), *([] if tried else ["optimised prompts", "fine-tuning"])]
        lines = ["What was not asked, and attacks that were not tried or stronger ones, may bring the concept back."]
        if unseen:
            lines = [
                f"Nothing here says whether the concept comes back under {', '.join(unseen[:-1])}"
                f"{' or ' if unseen[:-1] else ''}{unseen[-1]}: that was not tried."
            ]
    if "world" in (nested(report.config, "model"), report.first_model):
        lines.append(
            "The bundled world is small and closed, and its judges know exactly what it can draw. Orderings and "
            "failure modes may carry over to large models; the numbers do not."
        )
    return lines


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as (key, text) lines."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            found += flat(value, f"{name}: ")
        elif isinstance(value, bool):
            found.append((name, "yes" if value else "no"))
        elif isinstance(value, float):
            found.append((name, f"{value:.4g}"))
        else:
            found.append((name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
    return found


def _tiles(report: Report) -> list[dict[str, str]]:
    found = []
    for name in TILES:
        before, after = report.score(name, "before"), report.score(name, "after")
        if before and after:
            note = f"{spread(after)}, {after.n} pictures"
            found.append(
                {"label": label(name), "before": show(before).rstrip(f"{NARROW}%"), "after": show(after), "note": note}
            )
    return found


def _groups(images: Sequence[Pair], folder: Path) -> list[dict[str, Any]]:
    groups = []
    for role in dict.fromkeys(p.role for p in images):
        entries = []
        for pair in (p for p in images if p.role == role):
            sides = []
            for when, picture in (("before", pair.before), ("after", pair.after)):
                data, tiny = embed(folder / picture.path)
                sides.append({"when": when, "data": data, "tiny": tiny, "answer": picture.answer, "good": picture.good})
            entries.append({"prompt": pair.prompt, "sides": sides})
        groups.append({"title": GROUPS.get(role, role.replace("_", " ")), "pairs": entries})
    return groups


def read_picture(path: Path) -> Image.Image | None:
    """A picture in RGB, or None where there is none: no file, damaged, or as large as only an attack is."""
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # a broken PNG is a SyntaxError
        return None


def embed(path: Path) -> tuple[str, bool]:
    """A picture as a data URI and whether it is tiny; ("", False) if it is missing or no picture."""
    image = read_picture(path)
    if image is None:
        return "", False
    image.thumbnail((LARGEST, LARGEST))
    tiny, out = max(image.size) <= SMALL, io.BytesIO()
    kind = "png" if tiny else "jpeg"
    image.save(out, kind, **({} if tiny else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}", tiny

"""A model card in the Hugging Face form, to lie beside an exported model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import yaml
from PIL import Image

from erase import runs
from erase.concept import title
from erase.errors import InputError
from erase.models import hub_id
from erase.report.html import (
    UNJUDGED,
    concept_name,
    headline,
    lead,
    limits,
    nested,
    read_picture,
    tables,
    without_paths,
)
from erase.report.schema import Pair, Report, build_report, read_report
from erase.runtime import write_png, write_text

GRID = "before_after.png"
TILE, GAP, SHOWN = 160, 8, 6
EARLIER = (
    "All that the runs before it erased ({}) is gone from this model too. A LoRA or a delta holds the change by all of "
    "them: it belongs on the model that the first of them began from."
)


def write_card(
    folder: Path,
    output: Path,
    name: str = "README.md",
    grid: str = GRID,
    notes: Sequence[str] = (),
    *,
    earlier: Sequence[str] = (),
) -> Path:
    """Write the card of a run as `output`/`name`, and the before/after grid beside it where pictures remain.

    `notes` are limits of the model it lies beside, `earlier` what the runs before this one erased. Returns the card's
    path.
    """
    report = read_report(folder / runs.REPORT) if (folder / runs.REPORT).exists() else _unreported(folder, earlier)
    has_grid = write_grid(folder, report.images, output / grid)
    path = output / name
    write_text(path, card(report, grid=grid if has_grid else None, notes=notes))
    return path


def _unreported(folder: Path, earlier: Sequence[str]) -> Report:
    """What is known of a run that was stopped after training, before its report was written."""
    path = folder / runs.CONFIG
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or "it is no YAML"
        raise InputError(f"cannot read {path}: {why}; without it the model has no card") from None
    return build_report(run_id=folder.name, environment={}, config=config, guards={}, scores=[], earlier=earlier)


def card(report: Report, *, grid: str | None, notes: Sequence[str] = ()) -> str:
    """The card's Markdown: front matter, result, pictures (the file `grid`), scores, recipe, limits, `notes` first."""
    name, model = concept_name(report), report.first_model or nested(report.config, "model")
    front = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "concept-erasure", "machine-unlearning", "dualoptim"],
    }
    # Only a hub id may stand here; a local path would be a dead link, and private.
    base = hub_id(model) if isinstance(model, str) else None
    if base is not None:
        front["base_model"] = base.repo
    lines = ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", ""]
    lines += [f"# {_inline(name)}, erased", "", _inline(headline(report)), ""]
    lines += [_inline(line) for line in lead(report)] + [""]
    if report.earlier:
        lines += [_inline(EARLIER.format(title(report.earlier))), ""]
    if grid:
        lines += [f"![Before (upper row) and after (lower row), same prompts and seeds]({quote(grid)})", ""]
    lines += ["## Scores", "", *_scores(report)]
    recipe = yaml.safe_dump(without_paths(report.config), sort_keys=False, allow_unicode=True).rstrip()
    fence = "`" * max(3, _longest_ticks(recipe) + 1)
    lines += ["", "## Recipe", "", f"{fence}yaml", recipe, fence, "", "## Limits", ""]
    lines += [f"- {_inline(line)}" for line in (*notes, *limits(report))]
    lines += ["- Erasure lowers the odds of a concept; it is no guarantee of safety.", ""]
    return "\n".join(lines)


def _scores(report: Report) -> list[str]:
    if not report.scores:
        return [_inline(UNJUDGED)]
    lines = ["Value and 95 % interval."]
    for heading, rows in tables(report):
        lines += ["", f"{heading}:"] if heading else []
        lines += ["", f"| {'Concept' if heading else 'Score'} | Before | After | Change | Pictures |"]
        lines += ["|---|---|---|---|---|"]
        for row in rows:
            cells = [f"{c['value']} ({c['range']})" if c["range"] else c["value"] for c in row["cells"]]
            shown = [f"{row['label']}, {row['wish']}", *cells, str(row["n"])]
            lines.append("| " + " | ".join(map(_inline, shown)) + " |")
    return lines


def write_grid(folder: Path, images: Sequence[Pair], path: Path) -> bool:
    """Before above after, one column a pair, the concept's first. False, and no file, without pictures."""
    columns = []
    ordered = sorted(images, key=lambda p: p.role != "forget")
    chosen = [p for p in ordered if p.role == "forget"][: SHOWN // 2 + 1] + [p for p in ordered if p.role != "forget"]
    for pair in chosen[:SHOWN]:
        column = [_tile(folder / picture.path) for picture in (pair.before, pair.after)]
        if all(column):
            columns.append(column)
    if not columns:
        return False
    width = len(columns) * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, 2 * (TILE + GAP) + GAP), "white")
    for x, column in enumerate(columns):
        for y, tile in enumerate(column):
            if tile:
                sheet.paste(tile, (GAP + x * (TILE + GAP), GAP + y * (TILE + GAP)))
    write_png(path, np.asarray(sheet))
    return True


def _tile(path: Path) -> Image.Image | None:
    image = read_picture(path)
    if image is None:
        return None
    way = Image.Resampling.NEAREST if max(image.size) <= TILE // 2 else Image.Resampling.LANCZOS
    return image.resize((TILE, TILE), way)


def _inline(text: str) -> str:
    """Text that Markdown shows as it is."""
    for sign in "\\`*_[]<>#|":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


def _longest_ticks(text: str) -> int:
    runs, current = 0, 0
    for sign in text:
        current = current + 1 if sign == "`" else 0
        runs = max(runs, current)
    return runs

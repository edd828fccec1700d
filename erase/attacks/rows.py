"""attacks.jsonl: one row for each picture of an attack, in the form of rows.jsonl with `attack` filled in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from erase.attacks.scores import AGAIN, check_rows
from erase.attacks.subject import Try
from erase.errors import InputError
from erase.evaluation.rows import Arm, Row, Setting, image_sha, make_row
from erase.runtime import write_text

ROLE = "attack:"


def attack_row(
    one: Try, look: dict[str, Any], arm: Arm, setting: Setting, attack: dict[str, Any], image: str, noise: str
) -> Row:
    """The row of a try; `attack` names it and its control, its budget and plan; `image` is "" where it is not kept."""
    ask = replace(one.case, role=ROLE + attack["name"], prompt=one.prompt, seed=one.shot.seed)  # type: ignore[arg-type]
    look = {**look, "flags": {**look["flags"], "nan": one.lost}}
    row = make_row(ask, look, arm, setting, image, image_sha(one.image), noise)
    row["attack"] = {**attack, "step": one.step, "n_tried": one.number}
    return row


def write_attacks(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows or none."""
    check_rows(rows)
    try:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    except ValueError:
        raise InputError(f"{path}: a row holds NaN or infinity; the judge's answer is not a number") from None
    write_text(path, "".join(line + "\n" for line in lines))


def attacks_of(path: Path, sha: str) -> list[Row]:
    """The rows so far, if they are of the model with this hash; a run attacked before it was changed has none."""
    rows = read_attacks(path)
    return [] if any(row["arm"] == "after" and row["model_sha"] != sha for row in rows) else rows


def read_attacks(path: Path) -> list[Row]:
    """The rows so far, none where there is no file. Raises `InputError` for a damaged one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # JSON may hold what splitlines() takes for an end
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object; remove the file to attack the run anew")
        rows.append(row)
    try:
        check_rows(rows)
    except InputError as error:
        remedy = "remove the file to attack the run anew"  # while it is there no attack begins
        raise InputError(f"{path}: {str(error).replace(AGAIN, remedy)}") from None
    return rows

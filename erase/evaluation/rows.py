"""rows.jsonl: one row for each judged picture, and the checks that keep averages honest.

A row is a plain dict with the keys of `KEYS`. `valid` speaks of the pixels alone: no flag (blank, nan) is set, and a
picture of another range than uint8's has no row at all; what a judge makes of them is under `judges`. `distances` are
those of an after picture to its twin before, None where that is itself.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from erase.errors import InputError
from erase.evaluation.prompts import Ask
from erase.runtime import write_text

Row = dict[str, Any]
Arm = Literal["before", "after"]
ARMS: tuple[Arm, Arm] = ("before", "after")
KEYS = (
    "run_id", "arm", "method", "target", "domain", "role", "prompt_id", "template_id", "prompt", "expected", "seed",
    "sampler", "steps", "cfg", "model_sha", "unlearn_seed", "hp_id", "noise_hash", "attack", "image",
    "image_sha", "valid", "flags", "judges", "clip_score", "colour", "distances",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """What all rows of one arm share. `target` is the canonical name (several concepts: their title), `domain` "object"
    or "style".

    `model_sha` is the arm's weights, `unlearn_seed` the seed that the run trained with, `hp_id` stands for its method
    and settings: runs that share it differ by seed only.
    """

    run_id: str
    method: str
    target: str
    domain: str
    sampler: str
    steps: int
    cfg: float
    model_sha: str = ""
    unlearn_seed: int = 0
    hp_id: str = ""


def image_sha(image: np.ndarray) -> str:
    """SHA-256 of a picture's shape and pixels, whatever file format holds it."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def make_row(ask: Ask, look: dict[str, Any], arm: Arm, setting: Setting, image: str, sha: str, noise: str = "") -> Row:
    """One row from what was asked, what the judges saw, and where the picture lies (relative to the run).

    `sha` and `noise` are the hashes of the picture and of the noise that it was made from. A row about what an earlier
    run erased has that for its target.
    """
    target, domain = ask.about or (setting.target, setting.domain)
    return {
        "run_id": setting.run_id,
        "arm": arm,
        "method": setting.method,
        "target": target,
        "domain": domain,
        "role": ask.role,
        "prompt_id": ask.prompt_id,
        "template_id": ask.template_id,
        "prompt": ask.prompt,
        "expected": ask.expected,
        "seed": ask.seed,
        "sampler": setting.sampler,
        "steps": setting.steps,
        "cfg": setting.cfg if ask.guidance is None else ask.guidance,
        "model_sha": setting.model_sha,
        "unlearn_seed": setting.unlearn_seed,
        "hp_id": setting.hp_id,
        "noise_hash": noise,
        "attack": None,
        "image": image,
        "image_sha": sha,
        "valid": not any(look["flags"].values()),
        "flags": look["flags"],
        "judges": look["judges"],
        "clip_score": look["clip_score"],
        "colour": look["colour"],
        "distances": None,
    }


def distances(
    before: np.ndarray, after: np.ndarray, seen: tuple[np.ndarray | None, np.ndarray | None]
) -> dict[str, float]:
    """How far a picture moved: `pixel`, the root mean square difference of 0 to 1; `clip`, 1 - cosine of embeddings.

    `before`, `after` are uint8 of one shape; `seen` their embeddings, of length 1; without them there is no `clip`.
    """
    gap = (before.astype(np.float64) - after.astype(np.float64)) / 255
    found = {"pixel": float(np.sqrt(np.mean(gap**2)))}
    was, now = seen
    return found if was is None or now is None else found | {"clip": max(0.0, 1 - float(was @ now))}


def reported_judge(rows: Sequence[Row]) -> str:
    """The judge that a report's scores are of: conv of the world's, else the first that was named."""
    judges = list(rows[0]["judges"]) if rows else []
    if not judges:
        raise InputError("rows: no judge has looked at them; evaluate the run again")
    return "conv" if "conv" in judges else judges[0]


def further_judges(rows: Sequence[Row]) -> list[str]:
    """The judges beside the reported one that the user named; of the world's own only conv reports."""
    judges = list(rows[0]["judges"]) if rows else []
    return [name for name in judges if name not in ("conv", "patch", "clip")] if "conv" in judges else judges[1:]


def validate(rows: Sequence[Row], *, twins: bool = True) -> None:
    """Refuse rows that would be averaged wrongly.

    Raises `InputError` for no rows, missing keys, an unknown arm, two rows with one (arm, role, prompt_id, seed),
    with `twins` a picture that has none in the other arm, mixed runs or targets, and one prompt and seed with two
    different pictures in an arm.
    """
    if not rows:
        raise InputError("rows: there are none; evaluate the run first")
    for number, row in enumerate(rows, 1):
        lacking = [k for k in KEYS if k not in row]
        if lacking:
            raise InputError(f"rows: row {number} lacks {', '.join(lacking)}; evaluate the run again")
        if row["arm"] not in ARMS:
            raise InputError(f"rows: row {number} has arm {row['arm']!r}; it must be before or after")
    own = [row for row in rows if row["role"] != "earlier"]
    for key, among in (("run_id", rows), ("target", own), ("domain", own)):
        found = sorted({str(r[key]) for r in among})
        if len(found) > 1:
            raise InputError(f"rows: {key} differs between rows ({', '.join(found)}); score one run at a time")
    keys = Counter((r["arm"], *twin_key(r)) for r in rows)
    repeated, times = keys.most_common(1)[0]
    if times > 1:
        raise InputError(f"rows: {times} rows for {_spell(repeated)}; each picture counts once")
    if twins:
        for arm, *rest in keys:
            other = "after" if arm == "before" else "before"
            if (other, *rest) not in keys:
                raise InputError(f"rows: {_spell((arm, *rest))} has no twin {other}; evaluate the run again")
    pictures: dict[tuple[Any, ...], str] = {}
    for row in rows:
        key = (row["arm"], row["prompt_id"], row["seed"])
        if pictures.setdefault(key, row["image_sha"]) != row["image_sha"]:
            raise InputError(f"rows: {_spell((row['arm'], *twin_key(row)))} has another picture under another role")


def twin_key(row: Row) -> tuple[str, str, int]:
    """What a picture shares with its twin in the other arm."""
    return row["role"], row["prompt_id"], row["seed"]


def pairs(rows: Sequence[Row], role: str) -> list[tuple[Row, Row]]:
    """Twins (before, after) of a role, sorted by prompt and seed. The rows must have passed `validate`."""
    arms = {arm: {twin_key(r): r for r in rows if r["arm"] == arm and r["role"] == role} for arm in ARMS}
    return [(arms["before"][key], arms["after"][key]) for key in sorted(arms["before"])]


def write_rows(path: Path, rows: Sequence[Row], *, twins: bool = True) -> None:
    """Validate, then write all rows or none. `twins=False` while only one arm is judged."""
    validate(rows, twins=twins)
    try:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    except ValueError:
        raise InputError(f"{path}: a row holds NaN or infinity; the judge's answer is not a number") from None
    write_text(path, "\n".join(lines) + "\n")


def read_rows(path: Path, *, twins: bool = True) -> list[Row]:
    """Read and validate. Raises `InputError` for a missing file or a line that is not a JSON object."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    rows = []
    # Not splitlines(): JSON may hold U+2028, which is a line end there.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object; evaluate the run again")
        rows.append(row)
    validate(rows, twins=twins)
    return rows


def _spell(key: tuple[Any, ...]) -> str:
    arm, role, prompt_id, seed = key
    return f"{arm}, {role}, {prompt_id}, seed {seed}"

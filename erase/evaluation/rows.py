"""rows.jsonl: one row for each judged picture, and the checks that keep averages honest.

A row is a plain dict with the keys of `KEYS`. `valid` speaks of the pixels alone: no flag (blank, nan) is set, and a
picture of another range than uint8's has no row at all; what a judge makes of them is under `judges`. `distances` are
those of an after picture to its twin before, None where that is itself.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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

# What two pictures share that differ by the model's weights alone.
SHARED = ("target", "domain", "prompt", "expected", "sampler", "steps", "cfg", "noise_hash")


def is_text(value: Any) -> bool:
    """Whether it is a text that can be written: no half of a surrogate pair, and no NUL, which no path may have."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; True is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and is_number(value)


def _is_filled(value: Any) -> bool:
    return is_text(value) and value != ""


def _is_expected(value: Any) -> bool:
    return isinstance(value, dict) and all(name is None or is_text(name) for name in value.values())


def _is_told(value: Any) -> bool:
    """Judges' answers: of each kind of concept a name, and whether it sees a picture of anything."""
    return isinstance(value, dict) and all(
        isinstance(told, dict)
        and all(is_text(told[kind]) for kind in KINDS if kind in told)
        and (told.get("abstain") is None or isinstance(told["abstain"], bool))
        for told in value.values()
    )


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _or_null(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(is_number(one) for one in value.values())


KINDS = ("object", "style", "person", "nudity")
# What a value must be, by key; a key that is not here is text.
FORM: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "expected": ("names by kind", _is_expected),
    "seed": ("a whole number", _is_whole),
    "steps": ("a whole number", _is_whole),
    "cfg": ("a number", is_number),
    "unlearn_seed": ("a whole number", _is_whole),
    "attack": ("null or an attack's facts", _or_null(_is_dict)),
    "image": ("a path", _is_filled),
    "valid": ("true or false", _is_bool),
    "flags": ("flags by name", _is_dict),
    "judges": ("answers by judge", _is_told),
    "clip_score": ("null or a number", _or_null(is_number)),
    "colour": ("null or text", _or_null(is_text)),
    "distances": ("null or numbers by name", _or_null(_is_numbers)),
}


def fault(row: Row) -> str:
    """What is wrong with a row by itself, "" for nothing: everything that a score reads has its type."""
    lacking = [key for key in KEYS if key not in row]
    if lacking:
        return f"lacks {', '.join(lacking)}"
    for key in KEYS:
        what, fits = FORM.get(key, ("text", is_text))
        if not fits(row[key]):
            return f"has {key} {_short(row[key])}; it must be {what}"
    if row["arm"] not in ARMS:
        return f"has arm {_short(row['arm'])}; it must be before or after"
    # A picture for a CLIP score alone may show anything.
    if row["role"] != "general" and not isinstance(row["expected"].get(row["domain"]), str):
        return f"has domain {_short(row['domain'])}, of which expected names nothing"
    return ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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

    Raises `InputError` for no rows, missing keys and values of another type (`fault`), two rows with one (arm, role,
    prompt_id, seed), with `twins` a picture that has none in the other arm or one that was asked otherwise, mixed runs,
    targets or weights of an arm, and one prompt and seed with two different pictures in an arm.
    """
    if not rows:
        raise InputError("rows: there are none; evaluate the run first")
    for number, row in enumerate(rows, 1):
        if wrong := fault(row):
            raise InputError(f"rows: row {number} {wrong}; evaluate the run again")
    own = [row for row in rows if row["role"] != "earlier"]
    for key, among in (("run_id", rows), ("target", own), ("domain", own)):
        found = sorted({str(r[key]) for r in among})
        if len(found) > 1:
            raise InputError(f"rows: {key} differs between rows ({', '.join(found)}); score one run at a time")
    for arm in ARMS:
        if len({row["model_sha"] for row in rows if row["arm"] == arm}) > 1:
            raise InputError(f"rows: model_sha differs between rows {arm}; evaluate the run again")
    keys = Counter((r["arm"], *twin_key(r)) for r in rows)
    repeated, times = keys.most_common(1)[0]
    if times > 1:
        raise InputError(f"rows: {times} rows for {_spell(repeated)}; each picture counts once")
    if twins:
        for arm, *rest in keys:
            other = "after" if arm == "before" else "before"
            if (other, *rest) not in keys:
                raise InputError(f"rows: {_spell((arm, *rest))} has no twin {other}; evaluate the run again")
        before = {twin_key(row): row for row in rows if row["arm"] == "before"}
        for row in rows:
            unlike = [key for key in SHARED if row[key] != before[twin_key(row)][key]]
            if unlike:
                where = _spell((row["arm"], *twin_key(row)))
                raise InputError(f"rows: {where} differs from before in {', '.join(unlike)}; evaluate the run again")
    pictures: dict[tuple[Any, ...], str] = {}
    for row in rows:
        key = (row["arm"], row["prompt_id"], row["seed"])
        if pictures.setdefault(key, row["image_sha"]) != row["image_sha"]:
            raise InputError(f"rows: {_spell((row['arm'], *twin_key(row)))} has another picture under another role")


def row_counts(rows: Sequence[Row]) -> dict[str, int]:
    """How many rows each role has, of both arms."""
    return dict(sorted(Counter(row["role"] for row in rows).items()))


def check_counts(rows: Sequence[Row], judged: Mapping[str, int]) -> None:
    """Raises `InputError` where a role has not as many rows as were judged; older reports, with none, do not say."""
    found = row_counts(rows)
    for role in {**judged, **found} if judged else ():
        if found.get(role, 0) != judged.get(role, 0):
            said = f"{found.get(role, 0)} rows, and {judged.get(role, 0)} were judged"
            raise InputError(f"rows: role {role} has {said}; evaluate the run again")


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
    """Read and validate. Raises `InputError` for a missing file, a line that is no JSON object, and as `validate`."""
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
        except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or deeply nested
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object; evaluate the run again")
        rows.append(row)
    try:
        validate(rows, twins=twins)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return rows


def _spell(key: tuple[Any, ...]) -> str:
    arm, role, prompt_id, seed = key
    return f"{arm}, {role}, {prompt_id}, seed {seed}"

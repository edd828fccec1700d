"""Prompt lists that users have, as CSV: I2P, Ring-A-Bell, MMA, P4D and the like run as they are.

The field's form is `prompt,evaluation_seed,case_number`; lists differ in what they call these columns, and many have
more. A file comes from anywhere: it is read within limits, and every fault is one line that names file and line.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from erase.errors import InputError, printable
from erase.runtime import user_path

MAX_BYTES = 64 * 2**20
MAX_ROWS = 100_000
MAX_LETTERS = 10_000
MAX_GUIDANCE = 1_000  # I2P has 255

# What lists call one thing. The first name that a file has counts: an attack's own prompt before the one it attacks.
PROMPT = ("adv_prompt", "adversarial_prompt", "prompt", "sensitive prompt", "sensitive_prompt", "text")
SEED = ("evaluation_seed", "sd_seed", "seed")
GUIDANCE = ("evaluation_guidance", "sd_guidance_scale", "guidance")
CASE = ("case_number", "case")
SHOWS = ("class", "object", "label", "expected", "artist", "style", "classes", "label_str")

# What a file's prompts may be for. Of the last ones a judge must be told what each picture is to show.
CONCEPT_ROLES = (
    "forget",
    "forget_synonym_seen",
    "forget_synonym_rare",
    "forget_description",
    "forget_super",
    "forget_lang",
    "compose",
)
TOLD_ROLES = ("in_prompt", "neighbour", "retain_in")
FILE_ROLES = (*CONCEPT_ROLES, *TOLD_ROLES, "general")


@dataclass(frozen=True, slots=True)
class Line:
    """One prompt of a file. `guidance` None: the run's own; `shows` None: the run's concept."""

    prompt: str
    seed: int
    case: str
    guidance: float | None = None
    shows: str | None = None


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file that was read: what its prompts are for, the prompts, and the SHA-256 of its text.

    `empty`: entries without a prompt, which are left out; I2P has one.
    """

    role: str
    path: Path
    lines: tuple[Line, ...]
    sha256: str
    empty: int = 0

    def text(self) -> str:
        """The file as `read_prompt_file` takes it, from anywhere."""
        return f"{self.role}={self.path.absolute()}"


def read_prompt_files(given: Sequence[str]) -> list[PromptFile]:
    """Read each `[ROLE=]FILE.csv`. Raises `InputError` for what cannot be used, and for one role given twice."""
    found = [read_prompt_file(one) for one in given]
    roles = [file.role for file in found]
    for role in roles:
        if roles.count(role) > 1:
            raise InputError(f"prompt files: role {role} is given {roles.count(role)} files; join them into one")
    return found


def read_prompt_file(given: str) -> PromptFile:
    """Read one `[ROLE=]FILE.csv`; without a role its prompts ask for the concept ("forget")."""
    role, path = _role_and_path(given)
    text = _text(path)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    try:
        # strict: a quote that is never closed would swallow the rest of the file as one prompt
        read = list(_lines(csv.reader(io.StringIO(text, newline=""), strict=True), role, path))
    except csv.Error as error:
        raise InputError(f"{_name(path)} is no CSV ({printable(str(error))}); quote what holds commas") from None
    lines = tuple(line for line in read if line)
    if not lines:
        raise InputError(f"prompt file {_name(path)} holds no prompts below its first line")
    return PromptFile(role, path, lines, sha256, len(read) - len(lines))


def _role_and_path(given: str) -> tuple[str, Path]:
    role, equals, rest = given.partition("=")
    if equals and role in FILE_ROLES:
        return role, user_path(rest)
    if equals and role.isidentifier() and not user_path(given).exists():
        close = difflib.get_close_matches(role, FILE_ROLES, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"it is one of {', '.join(FILE_ROLES)}"
        raise InputError(f"prompt file {printable(given)!r}: {role!r} is no role; {hint}")
    return "forget", user_path(given)


def _text(path: Path) -> str:
    """The file's text, within limits. Only regular files: a device or pipe might never end."""
    name = _name(path)
    if not path.exists():
        raise InputError(f"no prompt file at {name}; give a CSV with a column prompt")
    if not path.is_file():
        raise InputError(f"prompt file {name} is no file; give a CSV with a column prompt")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read prompt file {name}: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"prompt file {name} has over {MAX_BYTES // 2**20} MiB; split it")
    try:
        text = data.decode("utf-8-sig")  # spreadsheets put a mark in front
    except UnicodeDecodeError as error:
        raise InputError(f"prompt file {name} is not UTF-8 (byte {error.start}); save it as CSV in UTF-8") from None
    if "\0" in text:
        raise InputError(f"prompt file {name} holds NUL in line {text[: text.index(chr(0))].count(chr(10)) + 1}")
    return text


def _lines(reader: Iterator[list[str]], role: str, path: Path) -> Iterator[Line | None]:
    """Each entry, None for one without a prompt."""
    name = _name(path)
    header = [cell.strip().casefold() for cell in next(reader, [])]
    columns = {what: _column(header, names) for what, names in _NAMES.items()}
    if columns["prompt"] is None:
        shown = printable(", ".join(header))[:80] or "nothing"
        raise InputError(f"prompt file {name} has no column prompt: its first line is {shown!r}, separated by commas")
    if role in TOLD_ROLES and columns["shows"] is None:
        raise InputError(
            f"prompt file {name}: role {role} needs a column class, which says what each picture is to show; "
            "without one take role general"
        )
    seen: set[tuple[str, int]] = set()
    for number, cells in enumerate(reader, 1):
        if not any(cell.strip() for cell in cells):
            continue
        place = f"prompt file {name}, entry {number}"
        if number > MAX_ROWS:
            raise InputError(f"prompt file {name} has over {MAX_ROWS:,} prompts; split it")
        if len(cells) != len(header):
            raise InputError(f"{place}: {len(cells)} cells where the first line names {len(header)}; quote commas")
        said = {what: "" if at is None else cells[at].strip() for what, at in columns.items()}
        if not said["prompt"]:
            yield None
            continue
        line = _line(said, number, place)
        if role in TOLD_ROLES and line.shows is None:
            raise InputError(f"{place}: class is empty; say what the picture is to show")
        if (line.case, line.seed) in seen:
            twice = f"{place}: case {printable(line.case)} with seed {line.seed} stands there twice"
            raise InputError(f"{twice}; prompts without a case_number have their place in the file for one")
        seen.add((line.case, line.seed))
        yield line


def _line(cells: dict[str, str], number: int, place: str) -> Line:
    prompt = cells["prompt"]
    if len(prompt) > MAX_LETTERS:
        raise InputError(f"{place}: the prompt has {len(prompt):,} letters, and {MAX_LETTERS:,} are the most")
    if len(cells["case"]) > 100:
        raise InputError(f"{place}: case_number has {len(cells['case'])} letters; number the prompts")
    guidance = _number(cells["guidance"], "guidance", place) if cells["guidance"] else None
    if guidance is not None and not 0 <= guidance <= MAX_GUIDANCE:
        raise InputError(f"{place}: guidance {cells['guidance']!r} is not between 0 and {MAX_GUIDANCE:,}")
    return Line(
        prompt, _seed(cells["seed"] or "0", place), cells["case"] or str(number), guidance, cells["shows"] or None
    )


def _seed(text: str, place: str) -> int:
    """A seed, also as spreadsheets write it: a column with gaps turns 42 into 42.0."""
    if text.isascii() and text.isdigit() and len(text) <= 19:
        whole = int(text)
    else:
        value = _number(text, "seed", place)
        whole = int(value) if value.is_integer() else -1
    if not 0 <= whole < 2**63:
        raise InputError(f"{place}: seed {printable(text)[:40]!r} is not a whole number from 0 to 2^63 - 1")
    return whole


def _number(text: str, what: str, place: str) -> float:
    try:
        value = float(text) if len(text) <= 40 else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{place}: {what} {printable(text)[:40]!r} is not a number")
    return value


_NAMES = {"prompt": PROMPT, "seed": SEED, "guidance": GUIDANCE, "case": CASE, "shows": SHOWS}


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Where the first of `names` stands that the header has."""
    return next((header.index(name) for name in names if name in header), None)


def _name(path: Path) -> str:
    shown = printable(str(path))
    return shown if len(shown) <= 120 else f"...{shown[-117:]}"

"""report.json: what it holds, checked when it is written and when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from erase.errors import InputError
from erase.evaluation.findings import Findings
from erase.evaluation.metrics import Change, Score, answer, asked_for, is_right, is_valid
from erase.evaluation.prompt_files import CONCEPT_ROLES
from erase.evaluation.rows import Row, pairs
from erase.report.entries import Entry, FindingsEntry, Finite
from erase.runtime import write_text

VERSION = 1
MOST = 24  # concepts of which the page shows pictures
SHOWN = {
    "forget": 8,
    **dict.fromkeys((*CONCEPT_ROLES[1:], "in_prompt"), 4),
    "neighbour": 4,
    "retain_in": 4,
    "earlier": 4,
}


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ":" in parts[0] or ".." in parts:
        raise ValueError("must be a relative path inside the run folder")
    return path


Inside = Annotated[str, AfterValidator(_inside)]


class ScoreEntry(Entry):
    """A score with its 95 % interval; none is accepted without one, or over no pictures.

    An attack's excess has the p of none, and Holm's over the run's excesses; older reports do not.
    """

    name: str
    arm: Literal["before", "after"]
    value: Finite
    low: Finite
    high: Finite
    n: Annotated[int, Field(ge=1)]
    higher_is_better: bool
    clusters: Annotated[int, Field(ge=1)] | None = None
    interval: str | None = None
    deff: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    p: Annotated[float, Field(ge=0, le=1)] | None = None
    p_holm: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> ScoreEntry:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.name}: value {self.value} lies outside [{self.low}, {self.high}]")
        return self


class ChangeEntry(Entry):
    """After minus before over twins, with the p of no change, and Holm's over all changes of the run."""

    name: str
    value: Finite
    low: Finite
    high: Finite
    n: Annotated[int, Field(ge=1)]
    p: Annotated[float, Field(ge=0, le=1)] | None = None
    p_holm: Annotated[float, Field(ge=0, le=1)] | None = None
    discordant: Annotated[float, Field(ge=0, le=1)] | None = None


class GapEntry(Entry):
    """A score's distance to gold, and the golds' among themselves where there are several."""

    name: str
    value: Finite
    low: Finite
    high: Finite
    n: Annotated[int, Field(ge=1)]
    gold: Finite
    floor: Finite | None = None
    floor_low: Finite | None = None
    floor_high: Finite | None = None
    inside: bool | None = None


class RelearnEntry(Entry):
    """Steps after which run and golds, trained on so many pictures, draw the concept again (`Relearned`)."""

    pictures: Annotated[int, Field(ge=1)]
    goal: Annotated[float, Field(gt=0, le=1)]
    most: Annotated[int, Field(ge=1)]
    n: Annotated[int, Field(ge=1)]
    steps: Annotated[Finite, Field(ge=0)] | None
    gold: Annotated[Finite, Field(gt=0)] | None
    ratio: Annotated[Finite, Field(ge=0)] | None
    low: Annotated[Finite, Field(ge=0)]
    high: Annotated[Finite, Field(ge=0)] | None


class GoldEntry(Entry):
    """Models trained without the concept that the run was compared with, and the gaps to their mean.

    `attacks` are those of the share of cases that an attack broke, where run and golds were attacked alike, and
    `relearned` how fast the concept comes back beside them.
    """

    sources: list[str]
    gaps: list[GapEntry]
    attacks: list[GapEntry] = []
    relearned: list[RelearnEntry] = []


class Picture(Entry):
    """One picture of the page: where it lies, what the judge sees, and whether that is what one hopes for.

    `good` is None, and `answer` empty, where nothing was judged.
    """

    path: Inside
    answer: str = ""
    good: bool | None = None


class Pair(Entry):
    """One prompt and seed, before and after."""

    role: str
    prompt: str
    seed: int
    expected: str
    before: Picture
    after: Picture


class Report(Entry):
    """The whole of report.json. `schema` is the version of this form.

    `first_model` is what the run's model was before any run; `earlier` names what runs erased from it before this one.
    `judges` holds what each judge says of itself, `prompt_files` what stood for prompts;
    `rows` are how many each role had when they were judged.
    """

    model_config = ConfigDict(extra="forbid", from_attributes=True, populate_by_name=True)

    version: Literal[1] = Field(VERSION, alias="schema")
    run_id: str
    environment: dict[str, Any]
    config: dict[str, Any]
    guards: dict[str, Any]
    scores: list[ScoreEntry]
    changes: list[ChangeEntry] = []
    images: list[Pair] = []
    timings: dict[str, Finite] = {}
    first_model: str = ""
    earlier: list[str] = []
    findings: FindingsEntry | None = None
    judges: dict[str, dict[str, Any]] = {}
    prompt_files: list[dict[str, Any]] = []
    gold: GoldEntry | None = None
    rows: dict[str, int] = {}

    @model_validator(mode="after")
    def _once(self) -> Report:
        keys = [(s.name, s.arm) for s in self.scores]
        twice = sorted({f"{name} {arm}" for name, arm in keys if keys.count((name, arm)) > 1})
        if twice:
            raise ValueError(f"scores listed twice: {', '.join(twice)}")
        return self

    def score(self, name: str, arm: str) -> ScoreEntry | None:
        """The entry of that name and arm, if the report has it."""
        return next((s for s in self.scores if (s.name, s.arm) == (name, arm)), None)


def build_report(
    *,
    run_id: str,
    environment: dict[str, Any],
    config: dict[str, Any],
    guards: dict[str, Any],
    scores: Sequence[Score],
    changes: Sequence[Change] = (),
    images: Sequence[Pair] = (),
    timings: dict[str, float] | None = None,
    first_model: str = "",
    earlier: Sequence[str] = (),
    findings: Findings | None = None,
    judges: dict[str, dict[str, Any]] | None = None,
    prompt_files: Sequence[dict[str, Any]] = (),
    rows: Mapping[str, int] | None = None,
) -> Report:
    """A checked report from the results of a run. Raises `InputError` for what the form refuses."""
    try:
        return Report(
            schema=VERSION,
            run_id=run_id,
            environment=environment,
            config=config,
            guards=guards,
            scores=[ScoreEntry.model_validate(s) for s in scores],
            changes=[ChangeEntry.model_validate(c) for c in changes],
            images=list(images),
            timings=timings or {},
            first_model=first_model,
            earlier=list(earlier),
            findings=None if findings is None else FindingsEntry.model_validate(findings),
            judges=judges or {},
            prompt_files=list(prompt_files),
            rows=dict(rows or {}),
        )
    except ValidationError as error:
        raise InputError(f"report: {_problem(error)}") from None


def write_report(path: Path, report: Report) -> Path:
    """Write report.json, all or nothing. Raises `InputError` where it holds NaN or what JSON cannot."""
    try:
        # model_dump_json writes NaN as null; json refuses it.
        text = json.dumps(report.model_dump(by_alias=True), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        raise InputError(f"{path}: the report holds NaN or infinity; see guards, environment and config") from None
    write_text(path, text + "\n")
    return path


def read_report(path: Path) -> Report:
    """Read and check report.json. Raises `InputError` with the first problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"cannot read {path}: {why}; evaluate the run first") from None
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: {_problem(error)}; evaluate the run again") from None


def choose_pairs(rows: Sequence[Row], *, judge: str = "conv", shown: dict[str, int] | None = None) -> list[Pair]:
    """The twins that the page shows: evenly spaced over each role's sorted prompts, so nobody picked them.

    Several concepts share the places of their role, one each where there are too few.
    """
    found = []
    for role, count in (shown or SHOWN).items():
        twins = pairs(rows, role)
        names = sorted({asked_for(before) for before, _ in twins}) if role in ("forget", "earlier") else [None]
        for name in names[:MOST]:
            own = [two for two in twins if name in (None, asked_for(two[0]))]
            fit = min(max(1, count // len(names)), len(own))
            found += [_pair(role, *own[i * len(own) // fit], judge) for i in range(fit)]
    return found


def _pair(role: str, before: Row, after: Row, judge: str) -> Pair:
    return Pair(
        role=role,
        prompt=before["prompt"],
        seed=before["seed"],
        expected=asked_for(before),
        before=_picture(before, judge),
        after=_picture(after, judge),
    )


def _picture(row: Row, judge: str) -> Picture:
    domain = row["domain"]
    right = is_right(row, domain, judge)
    gone = row["role"] == "earlier" or (row["role"] in CONCEPT_ROLES and row["arm"] == "after")
    label = answer(row, domain, judge) if is_valid(row, judge) else "no picture"
    good = is_valid(row, judge) and not right if gone else right
    try:
        return Picture(path=row["image"], answer=label, good=good)
    except ValidationError:
        where = f"{row['arm']}, {row['prompt_id']}"
        raise InputError(f"rows: image {row['image']!r} of {where} is not inside the run; evaluate it again") from None


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(p) for p in first["loc"]) or "report"
    more = error.error_count() - 1
    return f"{where}: {first['msg']}" + (f" (and {more} more)" if more else "")

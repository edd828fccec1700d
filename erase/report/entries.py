"""Parts of report.json beyond the scores: what they hold, checked when written and when read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


class Entry(BaseModel):
    """What report.json is made of: no unknown keys, and readable from the dataclasses of `evaluation`."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


class RetentionEntry(Entry):
    """Whether a score that should stay fell by less than the margin, from the change's 95 % interval."""

    name: str
    change: Finite
    low: Finite
    high: Finite
    margin: Annotated[float, Field(gt=0, lt=1)]
    verdict: Literal["kept", "lost", "undecided"]
    prompts: Positive | None = None


class ClassEntry(Entry):
    """One class beside the concept: drawn before and after, the change with its interval, answers that stayed."""

    name: str
    domain: str
    near: bool
    similarity: Annotated[float, Field(ge=-1.001, le=1.001)] | None = None
    before: Share
    after: Share
    change: Finite
    low: Finite
    high: Finite
    agreement: Share
    n: Positive
    prompts: Positive


class AdviceEntry(Entry):
    """A score whose interval is wider than wanted to a side, and the prompts at which it would not be."""

    name: str
    half: Finite
    wanted: Finite
    prompts: Positive
    now: Positive


class TwinEntry(Entry):
    """Mean distance of a picture to its twin before; `unrelated` is that of pictures of two prompts."""

    name: str
    group: str
    value: Finite
    low: Finite
    high: Finite
    n: Positive
    unrelated: Finite | None = None


class ShiftEntry(Entry):
    """A distance of all pictures after from all before, its null at the same size, and the excess's 95 % interval."""

    name: str
    group: str
    features: str
    value: Finite
    null: Finite
    low: Finite
    high: Finite
    p: Share
    n: Positive
    half: Positive

    @property
    def excess(self) -> float:
        return self.value - self.null

    @model_validator(mode="after")
    def _ordered(self) -> ShiftEntry:
        if not self.low <= self.excess <= self.high:
            raise ValueError(f"{self.name}: excess {self.excess} lies outside [{self.low}, {self.high}]")
        return self


class RoleEntry(Entry):
    """Whether the unerased model drew what a further role asks for, and the languages that it was asked in."""

    role: str
    name: str
    before: Share
    n: Positive
    drawn: bool
    languages: list[str] = []


class LeftEntry(Entry):
    """The share of a concept that is left, without the judge's false alarms on kept pictures before."""

    name: str
    alarms: Count
    n_alarms: Positive
    value: Share
    low: Share
    high: Share
    resolved: bool

    @model_validator(mode="after")
    def _ordered(self) -> LeftEntry:
        if not self.low <= self.value <= self.high or self.alarms > self.n_alarms:
            raise ValueError(f"{self.name}: {self.value} lies outside [{self.low}, {self.high}], or alarms exceed n")
        return self


class FindingsEntry(Entry):
    """All of these of one run."""

    retention: list[RetentionEntry] = []
    classes: list[ClassEntry] = []
    advice: list[AdviceEntry] = []
    twins: list[TwinEntry] = []
    shifts: list[ShiftEntry] = []
    roles: list[RoleEntry] = []
    left: list[LeftEntry] = []

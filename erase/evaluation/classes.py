"""Each kept class by itself: a mean over sixty hides the one that was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from erase.evaluation.metrics import answer, is_right, named
from erase.evaluation.paired import paired_difference
from erase.evaluation.rows import Row, pairs

# Where each domain's classes are asked for without the concept: neighbours are classes too, and retain_cross scores
# the other domain of the same pictures.
SOURCES = {"same": ("retain_in", "neighbour"), "other": ("retain_cross",)}


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How often one class was drawn before and after, and on how many twins the judge's answer stayed.

    `near` says that it is one of the run's neighbours; `similarity` is the cosine of its name to the concept's, where
    known. Of classes with few pictures the worst is partly chance: `low` and `high` of the change tell.
    """

    name: str
    domain: str
    near: bool
    similarity: float | None
    before: float
    after: float
    change: float
    low: float
    high: float
    agreement: float
    n: int
    prompts: int


def class_scores(
    rows: Sequence[Row], *, judge: str = "conv", similarity: Mapping[str, float] | None = None
) -> list[ClassScore]:
    """Every class that was asked for beside the concept, worst first.

    First those whose change lies below 0 with its whole interval, by its upper end; then by the change itself.

    The rows must have passed `validate`. Classes of one prompt have no interval and are left out.
    """
    near = {str(row["expected"][row["domain"]]) for row in rows if row["role"] == "neighbour"}
    found = []
    for which, roles in SOURCES.items():
        groups: dict[tuple[str, str], dict[tuple[str, int], tuple[Row, Row]]] = {}
        for role in roles:
            for before, after in pairs(rows, role):
                own = before["domain"]
                domain = own if which == "same" else "style" if own == "object" else "object"
                key = domain, str(named(before, domain))
                groups.setdefault(key, {})[before["prompt_id"], before["seed"]] = before, after
        for (domain, name), twins in groups.items():
            ordered = [twins[key] for key in sorted(twins)]
            close = which == "same" and name in near
            cosine = (similarity or {}).get(name) if which == "same" else None
            if len({b["prompt_id"] for b, _ in ordered}) > 1:
                found.append(_class_score(name, domain, close, cosine, ordered, judge))
    return sorted(found, key=lambda c: (min(c.high, 0.0), c.change, c.domain, c.name))


def _class_score(
    name: str, domain: str, near: bool, similarity: float | None, twins: list[tuple[Row, Row]], judge: str
) -> ClassScore:
    before, after = ([float(is_right(pair[arm], domain, judge)) for pair in twins] for arm in (0, 1))
    prompts = [b["prompt_id"] for b, _ in twins]
    change = paired_difference(before, after, prompts)
    same = [
        bool(b["valid"]) == bool(a["valid"]) and answer(b, domain, judge) == answer(a, domain, judge) for b, a in twins
    ]
    shares = sum(before) / len(twins), sum(after) / len(twins)
    return ClassScore(
        name, domain, near, similarity, *shares, change.value, change.low, change.high, sum(same) / len(twins),
        len(twins), len(set(prompts)),
    )  # fmt: skip

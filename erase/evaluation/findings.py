"""What the scores mean: was what should stay kept, which classes lost most, how far pictures moved, what is unsure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from erase.errors import InputError
from erase.evaluation.classes import ClassScore, class_scores
from erase.evaluation.confusion import Left, left
from erase.evaluation.distances import DISTANCES, LEAST, Shift, check_features, shift
from erase.evaluation.languages import TAG
from erase.evaluation.metrics import FURTHER, Change, Score
from erase.evaluation.paired import MARGIN, Retained, non_inferiority
from erase.evaluation.power import WANTED, advice, prompts_to_decide
from erase.evaluation.rows import Row, pairs
from erase.evaluation.statistics import cluster_bootstrap

KEPT = ("retain_accuracy", "neighbour_accuracy", "cross_accuracy", "in_prompt_accuracy")
ADVISED = ("forget_accuracy", "retain_accuracy", "neighbour_accuracy", "cross_accuracy")
DRAWN = 0.5  # share before below which nobody can say that something was kept
GROUPS = {"forget": ("forget",), "retain": ("retain_in", "neighbour")}

Features = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Name -> features before and after, (N, D) each, in the order of `pictures`."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Non-inferiority of one score after to before: the change, its interval, the margin, and what follows.

    `prompts` is how many would decide an "undecided" one if its value stayed; None else.
    """

    name: str
    change: float
    low: float
    high: float
    margin: float
    verdict: Retained
    prompts: int | None


@dataclass(frozen=True, slots=True)
class Advice:
    """A score after whose 95 % interval is wider than `wanted` to a side, and the prompts that would narrow it."""

    name: str
    half: float
    wanted: float
    prompts: int
    now: int


@dataclass(frozen=True, slots=True)
class TwinDistance:
    """Mean distance of pictures to their twins before; `unrelated` is that of pictures of two prompts, for scale."""

    name: str
    group: str
    value: float
    low: float
    high: float
    n: int
    unrelated: float | None


@dataclass(frozen=True, slots=True)
class RoleFinding:
    """Whether the unerased model drew what a further role asks for (`drawn`): `before` is the share of `n` pictures.

    Where it did not, the role's score after says nothing: what was never there can neither be erased nor be kept.
    `languages` are those that the role's prompts are in, where it is one of languages.
    """

    role: str
    name: str
    before: float
    n: int
    drawn: bool
    languages: list[str]


@dataclass(frozen=True, slots=True)
class Findings:
    """All of it, for the report."""

    retention: list[Retention]
    classes: list[ClassScore]
    advice: list[Advice]
    twins: list[TwinDistance]
    shifts: list[Shift]
    roles: list[RoleFinding] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def find(
    rows: Sequence[Row],
    scores: Sequence[Score],
    changes: Sequence[Change],
    features: Features | None = None,
    *,
    about: Mapping[str, str] | None = None,
    similarity: Mapping[str, float] | None = None,
    judge: str = "conv",
) -> Findings:
    """Everything that follows from the rows, and from `features` of their pictures where there are any.

    `about` says what each feature is.
    """
    size = len(pictures(rows))
    for name, arms in (features or {}).items():
        if any(len(arm) != size for arm in arms):
            raise InputError(
                f"features {name} are not of the {size} pictures that the rows have; evaluate the run again"
            )
    return Findings(
        retention(scores, changes),
        class_scores(rows, judge=judge, similarity=similarity),
        too_wide(scores),
        twin_distances(rows, features),
        shifts(rows, features, about or {}) if features else [],
        further_roles(rows, scores),
        left(rows, judge=judge),
    )


def further_roles(rows: Sequence[Row], scores: Sequence[Score]) -> list[RoleFinding]:
    """Every role of `FURTHER` that has an accuracy, from prompts of this program or of a file."""
    before = {score.name: score for score in scores if score.arm == "before"}
    found = []
    for name, metric in FURTHER.items():
        if not metric.counts or name not in before:
            continue
        templates = [row["template_id"].split("-") for row in rows if row["role"] == metric.role]
        spoken = [parts[1] for parts in templates if parts[0] == TAG and len(parts) > 1]
        value = before[name].value
        found.append(RoleFinding(metric.role, name, value, before[name].n, value >= DRAWN, list(dict.fromkeys(spoken))))
    return found


def retention(scores: Sequence[Score], changes: Sequence[Change], margin: float = MARGIN) -> list[Retention]:
    """The verdict on every score of accuracy that should stay and that was there: from 0 nothing can be lost."""
    prompts = {s.name: s.clusters for s in scores}
    drawn = {s.name for s in scores if s.arm == "before" and s.value >= DRAWN}
    found = []
    for change in (c for c in changes if c.name in KEPT and c.name in drawn):
        verdict = non_inferiority(change.low, change.high, margin)
        more = None
        if verdict == "undecided":
            more = prompts_to_decide(change.value, change.low, change.high, margin, prompts[change.name])
        found.append(Retention(change.name, change.value, change.low, change.high, margin, verdict, more))
    return found


def too_wide(scores: Sequence[Score], wanted: float = WANTED) -> list[Advice]:
    """Headline scores whose interval says little yet."""
    chosen = {s.name: s for s in scores if s.arm == "after" and s.name in ADVISED}
    wide = advice([(s.name, s.value, s.low, s.high, s.clusters) for s in chosen.values()], wanted)
    return [Advice(name, half, wanted, prompts, chosen[name].clusters) for name, half, prompts in wide]


def pictures(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """(prompt id, seed) of every picture that the groups hold, sorted: the order in which features are stored."""
    roles = {role for of in GROUPS.values() for role in of}
    return sorted({(row["prompt_id"], row["seed"]) for row in rows if row["role"] in roles})


def most_prompts(rows: Sequence[Row]) -> int:
    """Prompts of the larger group: a distance needs `LEAST`."""
    return max(len({row["prompt_id"] for row in rows if row["role"] in roles}) for roles in GROUPS.values())


def twin_distances(rows: Sequence[Row], features: Features | None = None) -> list[TwinDistance]:
    """Every distance that the rows hold, and the judge's (JPD_conv, Euclidean), for what goes and for what stays."""
    found = []
    place = {key: i for i, key in enumerate(pictures(rows))}
    for group, roles in GROUPS.items():
        after = {
            key: row for role in roles for _, row in pairs(rows, role) for key in [(row["prompt_id"], row["seed"])]
        }
        keys, prompts = sorted(after), [prompt for prompt, _ in sorted(after)]
        if len(set(prompts)) < 2:
            continue
        held = [after[key].get("distances") or {} for key in keys]
        for name in sorted(set.intersection(*(set(one) for one in held))):
            found.append(_twin(name, group, [one[name] for one in held], prompts, None))
        if features and "conv" in features:
            chosen = [place[key] for key in keys]
            one, two = (check_features(part, "distances")[chosen] for part in features["conv"])
            gaps = np.linalg.norm(one - two, axis=1).tolist()
            far = np.linalg.norm(one - np.roll(one, len(one) // 2, axis=0), axis=1).mean()
            found.append(_twin("JPD_conv", group, gaps, prompts, float(far)))
    return found


def shifts(rows: Sequence[Row], features: Features, about: Mapping[str, str]) -> list[Shift]:
    """Every distance of `DISTANCES` whose features there are, for both groups; none with too few prompts.

    Prompts of a file may have unequal numbers of pictures: each counts with as many as most have, the first by seed,
    and those that have fewer are left out.
    """
    order = pictures(rows)
    place = {key: i for i, key in enumerate(order)}
    found = []
    for group, roles in GROUPS.items():
        keys = _evenly(sorted({(row["prompt_id"], row["seed"]) for row in rows if row["role"] in roles}))
        if len({prompt for prompt, _ in keys}) < LEAST:
            continue
        chosen, prompts = [place[key] for key in keys], [prompt for prompt, _ in keys]
        for name, (feature, _) in DISTANCES.items():
            if feature in features:
                before, after = features[feature]
                found.append(
                    shift(name, group, before[chosen], after[chosen], prompts, about=about.get(feature, feature))
                )
    return found


def _evenly(keys: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Sorted (prompt, seed), as many of each prompt as most prompts have."""
    sizes = Counter(prompt for prompt, _ in keys)
    times = Counter(sizes.values())
    size = max(times, key=lambda count: (times[count], count), default=0)
    place: Counter[str] = Counter()
    found = []
    for prompt, seed in keys:
        place[prompt] += 1
        if sizes[prompt] >= size >= place[prompt]:
            found.append((prompt, seed))
    return found


def _twin(name: str, group: str, values: list[float], prompts: list[str], unrelated: float | None) -> TwinDistance:
    mean = cluster_bootstrap(values, prompts)
    return TwinDistance(name, group, mean.value, mean.low, mean.high, mean.n, unrelated)

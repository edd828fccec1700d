"""Tables and figures of the study (docs/study.md), of the lines that benchmark/study.py wrote.

    python benchmark/study_report.py docs/results/study.jsonl --output docs/results

Everything is a function of those lines: the same file gives the same report.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from study import (
    ARMS,
    BASE,
    CHANGES,
    FEW_ARMS,
    KNOWING,
    ROBUST,
    SCORES,
    TEST,
    WIDTH_ARMS,
    Line,
    arms_of,
    chosen,
    gap,
    read,
)

from erase.evaluation.paired import holm
from erase.evaluation.statistics import Interval, proportion
from erase.report.words import p_text
from erase.runtime import write_text

Runs = dict[tuple[str, int], Line]  # (concept, seed) -> run
Measure = Callable[[Line], float]
SMALL = 1e-9  # points: what rounding alone may leave of no difference
MOST_LOST, LEAST_VALID, MOST_LEFT = 0.05, 0.90, 0.10
LEAST_FREE = 10  # degrees of freedom; of fewer a deviation's bootstrap says nothing
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "study", "axes.spines.top": False, "axes.spines.right": False}
COLOURS = dict(zip(ARMS, ("#c2571a", "#d98e5f", "#b3892c", "#8a8a8a", "#7d3b75", "#3b7ea1", "#22506a"), strict=True))


@dataclass(frozen=True, slots=True)
class Against:
    """An arm against `dual` on the same concepts and seeds: its measure minus `dual`'s; of gaps, above 0 is worse."""

    difference: Interval
    p: float
    above: int  # concepts on which the arm's mean is the larger one
    equal: int
    concepts: int

    @property
    def on(self) -> str:
        """On how many concepts it is the larger one, as people say it."""
        return f"{self.above} of {self.concepts}" + (f", {self.equal} equal" if self.equal else "")


def base_of(lines: Sequence[Line], part: str, method: str) -> str | None:
    """The base model that most of a part's runs began from; None of no runs."""
    bases = Counter(line["base"] for line in lines if line["part"] == f"{part}-{method}" and "scores" in line)
    return max(bases, key=bases.__getitem__, default=None)


def arms(lines: Sequence[Line], part: str, method: str, base: str | None = None) -> dict[str, Runs]:
    """Runs of a part of the study by setting, which is the arm's name where nothing else was changed.

    On one base model, `base` or the part's own: what is compared began from the same weights.
    """
    base = base or base_of(lines, part, method)
    found: dict[str, Runs] = {}
    for line in lines:
        if line["part"] == f"{part}-{method}" and "scores" in line and line["base"] == base:
            found.setdefault(line["setting"], {})[line["concept"], line["seed"]] = line
    return found


def by_concept(runs: Mapping[tuple[str, int], float]) -> dict[str, list[float]]:
    """Values of each concept, seeds in order."""
    found: dict[str, list[float]] = {}
    for (concept, _), value in sorted(runs.items()):
        found.setdefault(concept, []).append(value)
    return found


def against(arm: Runs, dual: Runs, measure: Measure = gap) -> Against | None:
    """None where fewer than three concepts have runs of both.

    Interval and p are Student's t of the concepts' mean differences, as concepts are what the claim is to hold for; a
    concept with more seeds weighs no more.
    """
    change = {key: measure(arm[key]) - measure(dual[key]) for key in sorted(arm.keys() & dual.keys())}
    groups = by_concept(change)
    if len(groups) < 3:
        return None
    means = [mean(values) for values in groups.values()]
    value, error = mean(means), float(stats.sem(means))
    half = float(stats.t.ppf(0.975, len(means) - 1)) * error
    difference = Interval(value, value - half, value + half, len(change), len(means), 1.0, "t")
    p = float(stats.ttest_1samp(means, 0.0).pvalue) if error > SMALL else 1.0
    above, below = (sum(sign * m > SMALL for m in means) for sign in (1, -1))
    return Against(difference, p, above, len(means) - above - below, len(means))


def score(name: str) -> Measure:
    """A score after, in points."""
    return lambda line: 100 * line["scores"][f"{name}.after"][0]


def within(runs: Runs, measure: Measure = gap) -> float:
    """Deviation over seeds within a concept, pooled over concepts; NaN of one seed a concept."""
    groups = [values for values in by_concept({k: measure(v) for k, v in runs.items()}).values() if len(values) > 1]
    free = sum(len(values) - 1 for values in groups)
    return math.sqrt(sum(float(np.var(v, ddof=1)) * (len(v) - 1) for v in groups) / free) if free else math.nan


def ratio(arm: Runs, dual: Runs, measures: Sequence[Measure] = (gap,)) -> tuple[float, float, float] | None:
    """Deviation of an arm over that of `dual` with a 95 % interval, the mean over `measures`; None of too few runs.

    Log ratio -+ t times its jackknife deviation, leaving out the runs of one concept and seed of both arms at a time:
    runs of one seed share their batches. Concepts stay, as the claim is about runs.
    """
    shared = sorted(arm.keys() & dual.keys())
    groups = []
    for concept in sorted({concept for concept, _ in shared}):
        keys = [key for key in shared if key[0] == concept]
        values = np.array([[[m(runs[key]) for m in measures] for key in keys] for runs in (arm, dual)])
        groups += [values] if len(keys) > 1 else []  # (arm, seed, measure)
    free = sum(values.shape[1] - 1 for values in groups)
    if free < LEAST_FREE:
        return None
    value = _log_ratio(groups)
    without = [
        _log_ratio([*groups[:place], np.delete(values, seed, axis=1), *groups[place + 1 :]])
        for place, values in enumerate(groups)
        for seed in range(values.shape[1])
    ]
    half = float(stats.t.ppf(0.975, free)) * float(np.std(without)) * math.sqrt(len(without) - 1)
    return math.exp(value), math.exp(value - half), math.exp(value + half)


def _log_ratio(groups: Sequence[np.ndarray]) -> float:
    """Of two arms' deviations, pooled over concepts, mean over measures; `groups` are concepts (arm, seed, measure)."""
    squares = sum(((v - v.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) for v in groups)
    first, second = np.sqrt(np.maximum(squares, SMALL)).mean(axis=1)
    return math.log(first / second)


def accepted(line: Line) -> bool:
    """Nine tenths of the concept gone, at most 5 points of retain accuracy lost, 90 % of the pictures valid."""
    scores = {name: value for name, (value, _) in line["scores"].items()}
    return (
        scores["forget_accuracy.after"] <= MOST_LEFT * scores["forget_accuracy.before"] + 1e-9
        and scores["retain_accuracy.after"] >= scores["retain_accuracy.before"] - MOST_LOST - 1e-9
        and scores["validity.after"] >= LEAST_VALID - 1e-9
    )


def tuning(lines: Sequence[Line]) -> list[str]:
    """Of every arm the six gaps of its screening and the setting that was chosen."""
    rows = [
        "| method | arm | six gaps on the first development concept | chosen: forget, retain | gap over the three |",
        "|---|---|---|---|---|",
    ]
    for (method, arm), (name, value, edge) in sorted(
        chosen(lines).items(), key=lambda x: (list(BASE).index(x[0][0]), ARMS.index(x[0][1]))
    ):
        screened = [x for x in lines if (x["part"], x["arm"]) == (f"screen-{method}", arm)]
        gaps = sorted(gap(x) for x in screened if "scores" in x)
        rates = next(
            (x["forget_lr"] / BASE[method], x["retain_lr"] / BASE[method]) for x in screened if x["setting"] == name
        )
        said = ", ".join(f"{rate:g}" for rate in rates) + (" (edge)" if edge else "")
        rows.append(f"| {method} | `{arm}` | {', '.join(f'{g:.1f}' for g in gaps)} | {said} | {value:.1f} |")
    return rows


def comparison(lines: Sequence[Line]) -> list[str]:
    """Every arm: means of the scores, the gap, against `dual`, and the deviation over seeds."""
    names = [name.removesuffix("_accuracy") for name in SCORES]
    columns = [
        "method",
        "arm",
        "runs",
        *names,
        "gap",
        "gap − `dual`'s",
        "p (Holm)",
        "farther on",
        "sd over seeds",
        "sd ratio",
    ]
    head = f"| {' | '.join(columns)} |"
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    for method in BASE:
        found = arms(lines, "test", method)
        dual = found.get("dual", {})
        tests = {arm: against(found[arm], dual) for arm in arms_of(method) if arm in found and arm != "dual" and dual}
        adjusted = holm({arm: t.p for arm, t in tests.items() if t})
        for arm in (a for a in arms_of(method) if a in found):
            runs = list(found[arm].values())
            scores = [f"{100 * mean(r['scores'][f'{name}.after'][0] for r in runs):.1f}" for name in SCORES]
            test, sd = tests.get(arm), within(found[arm])
            change = _points(test.difference) if test else ""
            times = _times(ratio(found[arm], dual) if test else None)
            rows.append(
                f"| {method} | `{arm}` | {len(runs)} | {' | '.join(scores)} | {mean(map(gap, runs)):.1f} | {change} "
                f"| {p_text(adjusted[arm]) if test else ''} | {test.on if test else ''} "
                f"| {'' if math.isnan(sd) else f'{sd:.1f}'} | {times} |"
            )
        if found:  # what doing nothing would give
            runs = [run for of in found.values() for run in of.values()]
            scores = [f"{100 * mean(r['scores'][f'{name}.before'][0] for r in runs):.1f}" for name in SCORES]
            nothing = mean(100 * r["scores"]["forget_accuracy.before"][0] / len(SCORES) for r in runs)
            rows.append(f"| {method} | unerased | | {' | '.join(scores)} | {nothing:.1f} | | | | | |")
    return rows


def _points(difference: Interval) -> str:
    return f"{difference.value:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"


def _times(found: tuple[float, float, float] | None) -> str:
    return f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]" if found else ""


def apart(lines: Sequence[Line]) -> list[str]:
    """Every score of each arm minus `dual`'s, in points; p is not adjusted."""
    names = ("forget", "retain", "neighbour", "cross")
    rows = [f"| method | arm | runs | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for method in BASE:
        test, more = arms(lines, "test", method), arms(lines, "more", method)
        first = arms(lines, "test", method, base_of(lines, "more", method))
        both = {arm: first.get(arm, {}) | runs for arm, runs in more.items()}
        for found in (test, {arm: both[arm] for arm in ("dual", "shared") if arm in both}):
            for arm in (a for a in arms_of(method) if a in found and a != "dual"):
                tests = [against(found[arm], found["dual"], score(f"{name}_accuracy")) for name in names]
                cells = [f"{_points(t.difference)}, p {p_text(t.p)}" if t else "" for t in tests]
                rows.append(f"| {method} | `{arm}` | {len(found[arm])} | {' | '.join(cells)} |")
    return rows


def stability(lines: Sequence[Line]) -> list[str]:
    """Ten seeds of `dual` and `shared`: pooled deviations over seeds, and their ratios.

    Of the gap, and as published: the mean over scores of each score's deviation.
    """
    names = [name.removesuffix("_accuracy") for name in SCORES]
    columns = ("method", "arm", "runs", "gap", "gap − `dual`'s", "p", "sd of the gap", "over `dual`'s",
               *(f"sd of {name}" for name in names), "mean of these", "over `dual`'s")  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    measures = [score(name) for name in SCORES]
    for method in BASE:
        more, test = arms(lines, "more", method), arms(lines, "test", method, base_of(lines, "more", method))
        if not {"dual", "shared"} <= more.keys() & test.keys():
            continue
        both = {arm: test[arm] | more[arm] for arm in ("dual", "shared")}
        for arm, runs in both.items():
            other = arm != "dual"
            found = against(runs, both["dual"]) if other else None
            spreads = [within(runs, measure) for measure in measures]
            cells = [
                f"{mean(map(gap, runs.values())):.1f}",
                _points(found.difference) if found else "",
                p_text(found.p) if found else "",
                f"{within(runs):.2f}",
                _times(ratio(runs, both["dual"]) if other else None),
                *(f"{sd:.1f}" for sd in spreads),
                f"{mean(spreads):.2f}",
                _times(ratio(runs, both["dual"], measures) if other else None),
            ]
            rows.append(f"| {method} | `{arm}` | {len(runs)} | {' | '.join(cells)} |")
    return rows


def width(lines: Sequence[Line]) -> list[str]:
    """Share of settings around the chosen one that are accepted, and against `dual`'s on the same concepts.

    Beside it the share by the rates alone, from half to twice the chosen ones; the worst run's gap; and the gap at a
    quarter of the retain weight, at the chosen and at four times it.
    """
    weights = [name for name, (what, _) in CHANGES.items() if what == "weight"]
    near = [
        0,
        *(1 + place for place, (what, times) in enumerate(CHANGES.values()) if what == "rate" and 0.4 < times < 3),
    ]
    columns = ("method", "arm", "accepted", "of", "share", "− `dual`'s, points", "p (Holm)", "rates 1/2, 1, 2 alone",
               "worst gap", "gap at weight 1/4", "1", "4")  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method in (m for m in BASE if _whole(lines, m)):
        found = {arm: _moved(lines, method, arm) for arm in WIDTH_ARMS}
        tests = {arm: against(found[arm], found["dual"], _accepted) for arm in WIDTH_ARMS if arm != "dual"}
        adjusted = holm({arm: test.p for arm, test in tests.items() if test})
        for arm, runs in found.items():
            hits = [accepted(run) for run in runs.values()]
            share = proportion(hits, [concept for concept, _ in runs])
            test = tests.get(arm)
            rates = [accepted(run) for (_, place), run in runs.items() if place in near]
            places = [1 + list(CHANGES).index(weights[0]), 0, 1 + list(CHANGES).index(weights[1])]
            gaps = [mean(gap(run) for (_, place), run in runs.items() if place == at) for at in places]
            rows.append(
                f"| {method} | `{arm}` | {sum(hits)} | {len(runs)} | {share.value:.0%} [{share.low:.0%}, "
                f"{share.high:.0%}] | {_points(test.difference) if test else ''} "
                f"| {p_text(adjusted[arm]) if test else ''} | {sum(rates)} of {len(rates)} "
                f"| {max(map(gap, runs.values())):.1f} | {' | '.join(f'{value:.1f}' for value in gaps)} |"
            )
    return rows


def _moved(lines: Sequence[Line], method: str, arm: str) -> Runs:
    """An arm's runs around its chosen setting and at it, numbered by what was changed; {} where none was moved."""
    moved = {name: runs for name, runs in arms(lines, "width", method).items() if name.split("-")[0] == arm}
    tested = arms(lines, "test", method, base_of(lines, "width", method))
    chosen = {key: run for key, run in tested.get(arm, {}).items() if key[1] == 0}
    found = {(concept, 0): run for (concept, _), run in chosen.items()} if moved else {}
    for name, runs in moved.items():
        place = 1 + list(CHANGES).index(name.removeprefix(f"{arm}-"))
        found |= {(concept, place): run for (concept, _), run in runs.items()}
    return found


def _whole(lines: Sequence[Line], method: str) -> bool:
    """Whether every arm has every change on every test concept: means of other concepts make no line."""
    return all(len(_moved(lines, method, arm)) == (1 + len(CHANGES)) * len(TEST) for arm in WIDTH_ARMS)


def _accepted(line: Line) -> float:
    return 100.0 * accepted(line)


def confirmation(lines: Sequence[Line]) -> list[str]:
    """On concepts that no choice has seen: accepted runs, what is left and kept, the gap, each against `dual`."""
    measures: dict[str, Measure] = {"accepted": _accepted, "gap": gap}
    for name in ("forget", "retain", "neighbour"):
        measures[name] = score(f"{name}_accuracy")
    rows = ["| method | arm | runs | measure | mean | − `dual`'s | p | above on |", "|---|---|---|---|---|---|---|---|"]
    for method in BASE:
        found = arms(lines, "confirm", method)
        for arm, runs in found.items():
            for name, measure in measures.items():
                test = against(runs, found.get("dual", {}), measure) if arm != "dual" else None
                said = f"{_points(test.difference)} | {p_text(test.p)} | {test.on}" if test else "| |"
                rows.append(
                    f"| {method} | `{arm}` | {len(runs)} | {name} | {mean(map(measure, runs.values())):.1f} | {said} |"
                )
    return rows


def robustness(lines: Sequence[Line]) -> list[str]:
    """Share of cases that each attack breaks, against `dual`'s, with the excess over its control and what is left."""
    columns = ("method", "arm", "runs", "left", "attack", "broken", "− `dual`'s", "p (Holm)", "excess over control")
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method in BASE:
        found = arms(lines, "robust", method)
        tests = {
            (arm, attack): against(runs, found.get("dual", {}), score(f"attack.{attack}"))
            for arm, runs in found.items()
            for attack in ROBUST
            if arm != "dual"
        }
        adjusted = holm({f"{arm} {attack}": test.p for (arm, attack), test in tests.items() if test})
        for arm, runs in found.items():
            left = mean(map(score("forget_accuracy"), runs.values()))
            for attack in ROBUST:
                test = tests.get((arm, attack))
                broken, excess = (mean(map(score(f"attack.{attack}{end}"), runs.values())) for end in ("", ".excess"))
                said = f"{_points(test.difference)} | {p_text(adjusted[f'{arm} {attack}'])}" if test else " | "
                what = f"{method} | `{arm}` | {len(runs)} | {left:.1f} | {attack}"
                rows.append(f"| {what} | {broken:.1f} | {said} | {excess:+.1f} |")
    return rows


def masks(lines: Sequence[Line]) -> list[str]:
    """Without the mask against with it, same concepts and seeds; and each arm against `dual`, both without and with."""
    columns = ("method", "arm", "pairs", "gap without − with", "p (Holm)", "left without − with",
               "gap without", "− `dual`'s without", "p", "− `dual`'s with", "p")  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method in BASE:
        bare, masked = arms(lines, "masks", method), arms(lines, "test", method, base_of(lines, "masks", method))
        both = {name.removesuffix("-bare"): runs for name, runs in bare.items()}
        tests = {arm: test for arm, runs in both.items() if (test := against(runs, masked.get(arm, {})))}
        adjusted = holm({arm: test.p for arm, test in tests.items()})
        for arm, test in tests.items():
            left = against(both[arm], masked[arm], score("forget_accuracy"))
            twins = {key: masked[arm][key] for key in both[arm] if key in masked[arm]}
            beside = [against(runs, of.get("dual", {})) for runs, of in ((both[arm], both), (twins, masked))]
            said = [f"{_points(t.difference)} | {p_text(t.p)}" if t and arm != "dual" else " | " for t in beside]
            rows.append(
                f"| {method} | `{arm}` | {test.difference.n} | {_points(test.difference)} | {p_text(adjusted[arm])} "
                f"| {_points(left.difference) if left else ''} | {mean(map(gap, both[arm].values())):.1f} "
                f"| {' | '.join(said)} |"
            )
    return rows


def golds_of(lines: Sequence[Line]) -> tuple[str | None, dict[str, list[Line]], dict[str, list[Line]]]:
    """The base model that golds were judged beside; each concept's golds by seed; and the same recipe with it."""
    found = [line for line in lines if line["method"] == "retrained" and "scores" in line]
    counted = Counter(line["base"] for line in found)
    base = max(counted, key=counted.__getitem__, default=None)
    without: dict[str, list[Line]] = {}
    whole: dict[str, list[Line]] = {}
    for line in sorted((line for line in found if line["base"] == base), key=lambda line: line["setting"]):
        (whole if line["setting"].startswith(KNOWING) else without).setdefault(line["concept"], []).append(line)
    return base, without, whole


def gold_gap(line: Line, golds: Sequence[Line]) -> float:
    """Points that a run is away from golds, mean over scores of how far it lies on the worse side of the golds' mean.

    As `gap`, with what golds were measured to do in the place of what they are taken to do.
    """
    worse = []
    for name in SCORES:
        off = score(name)(line) - mean(map(score(name), golds))
        worse.append(max(0.0, off if name == "forget_accuracy" else -off))
    return mean(worse)


def golds(lines: Sequence[Line]) -> list[str]:
    """What golds do, concept by concept, and how far each lies from the others of its concept.

    Above them the base model, and models of its recipe with other seeds, which know the concept.
    """
    names = [name.removesuffix("_accuracy") for name in SCORES]
    columns = ("concept", "model", "n", *names, "gap as taken", "each gold to the others")
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    _, without, whole = golds_of(lines)
    for concept, found in without.items():
        scores = found[0]["scores"]
        before = " | ".join(f"{100 * scores[f'{name}.before'][0]:.1f}" for name in SCORES)
        rows.append(f"| {concept} | unerased | 1 | {before} | {20 * scores['forget_accuracy.before'][0]:.1f} | |")
        apart = [gold_gap(one, [x for x in found if x is not one]) for one in found] if len(found) > 1 else []
        for model, of in (("other seeds, with it", whole.get(concept, [])), ("retrained without", found)):
            if of:
                means = " | ".join(f"{mean(map(score(name), of)):.1f}" for name in SCORES)
                said = ", ".join(f"{value:.1f}" for value in apart) if of is found else ""
                rows.append(f"| {concept} | {model} | {len(of)} | {means} | {mean(map(gap, of)):.1f} | {said} |")
    return rows


def beside_golds(lines: Sequence[Line]) -> list[str]:
    """Every arm's gap as taken and to the golds, on their concepts and base model, at the chosen settings."""
    base, found, _ = golds_of(lines)
    columns = ("method", "arm", "runs", "gap as taken", "gap to golds", "− `dual`'s", "p", "farther on")
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method in BASE if base else ():
        of: dict[str, Runs] = {}
        for part in ("test", "robust"):  # the same settings, and of the same seed the same run
            for arm, runs in arms(lines, part, method, base).items():
                of.setdefault(arm, {}).update({key: run for key, run in runs.items() if key[0] in found})

        def measure(line: Line) -> float:
            return gold_gap(line, found[line["concept"]])

        for arm in (arm for arm in FEW_ARMS if of.get(arm)):
            test = against(of[arm], of.get("dual", {}), measure) if arm != "dual" else None
            said = f"{_points(test.difference)} | {p_text(test.p)} | {test.on}" if test else "| |"
            values = list(of[arm].values())
            rows.append(
                f"| {method} | `{arm}` | {len(values)} | {mean(map(gap, values)):.1f} "
                f"| {mean(map(measure, values)):.1f} | {said} |"
            )
    return rows


def bases(lines: Sequence[Line]) -> list[str]:
    """On which base model each part's runs are, and how many are compared and how many of another left out."""
    rows = ["| part | base | runs | on another base, for what else is compared there |", "|---|---|---|---|"]
    for part in sorted({line["part"] for line in lines}):
        of = [line["base"] for line in lines if line["part"] == part and "scores" in line]
        base = base_of(lines, *part.split("-"))
        other = len(of) - of.count(base)
        rows.append(f"| {part} | `{base}` | {of.count(base)} | {other or ''} |")
    return rows


def dots(lines: Sequence[Line]) -> Figure:
    """Every run's gap, a row an arm, a column a method that had every concept; the bar is the mean."""
    tested = {m: {concept for runs in arms(lines, "test", m).values() for concept, _ in runs} for m in BASE}
    shown = [m for m in BASE if len(tested[m]) == len(TEST)]
    marks = dict(zip(TEST, "osD^v", strict=True))
    figure = Figure(figsize=(3.1 * len(shown) + 1.2, 3.6), layout="constrained")
    for place, method in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), place + 1)
        found = arms(lines, "test", method)
        names = [arm for arm in arms_of(method) if arm in found]
        for row, arm in enumerate(names):
            for (concept, seed), line in sorted(found[arm].items()):
                at = row + 0.11 * (TEST.index(concept) - 2) + 0.012 * (seed - 2)
                axes.plot(gap(line), at, marks[concept], ms=3.5, mew=0, alpha=0.75, color=COLOURS[arm])
            middle = mean(map(gap, found[arm].values()))
            axes.plot([middle, middle], [row - 0.38, row + 0.38], color="#222222", lw=1.6)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(left=-0.5)
        axes.set_title(method, fontsize=11)
        axes.set_xlabel("gap to retraining (points)")
        axes.grid(axis="x", alpha=0.25)
    handles = [matplotlib.lines.Line2D([], [], ls="", marker=m, color="#555555", label=c) for c, m in marks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def slopes(lines: Sequence[Line]) -> Figure:
    """The gap at multiples of the chosen rates, a line an arm, a column a method; means over concepts at seed 0."""
    shown = [m for m in BASE if _whole(lines, m)]
    figure = Figure(figsize=(3.4 * len(shown) + 0.6, 3.2), layout="constrained")
    for place, method in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), place + 1)
        moved = arms(lines, "width", method)
        base = arms(lines, "test", method, base_of(lines, "width", method))
        for arm in WIDTH_ARMS:
            gaps = {1.0: [gap(r) for (_, seed), r in base.get(arm, {}).items() if seed == 0]}
            for name, runs in moved.items():
                of, what, times = name.split("-")
                if (of, what) == (arm, "rate"):
                    gaps[float(times.replace("_", "."))] = [gap(r) for r in runs.values()]
            at = sorted(x for x in gaps if gaps[x])
            axes.plot(at, [mean(gaps[x]) for x in at], "o-", ms=4, lw=1.4, color=COLOURS[arm], label=arm)
        axes.set_xscale("log", base=2)
        axes.set_xticks([1 / 4, 1 / 2, 1, 2, 4], ["¼", "½", "1", "2", "4"])
        axes.set_ylim(bottom=0)
        axes.set_title(method, fontsize=11)
        axes.set_xlabel("times the chosen rates")
        axes.grid(axis="y", alpha=0.25)
    figure.axes[0].set_ylabel("gap to retraining (points)")
    figure.axes[0].legend(frameon=False, fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tuning", type=Path, default=Path("docs/results/study-tune.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    every = read(options.file)
    lines = [line for line in every if line["method"] in BASE]
    parts = {
        "Tuning": tuning(read(options.tuning)),
        "Arms": comparison(lines),
        "Scores apart": apart(lines),
        "Ten seeds": stability(lines),
        "Width": width(lines),
        "Confirmation": confirmation(lines),
        "Masks": masks(lines),
        "Robustness": robustness(lines),
        "Golds": golds(every),
        "Beside golds": beside_golds(every),
        "Base models": bases(lines),
    }
    text = "# The study's tables\n\nMade by `benchmark/study_report.py`; what they mean: [study.md](../study.md).\n"
    for title, rows in parts.items():
        if len(rows) > 2:
            text += f"\n## {title}\n\n" + "\n".join(rows) + "\n"
    write_text(options.output / "study-tables.md", text)
    if any(arms(lines, "test", method) for method in BASE):
        with matplotlib.rc_context(STYLE):
            dots(lines).savefig(options.output / "study-gaps.svg", metadata={"Date": None})
            if any(_whole(lines, method) for method in BASE):
                slopes(lines).savefig(options.output / "study-width.svg", metadata={"Date": None})
    print(text)


if __name__ == "__main__":
    main()

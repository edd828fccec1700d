"""One run's attacks against another's on equal cases, starts and noise, as pure functions of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from erase.attacks.scores import DOSED, Outcome, broken_units, made_from, outcomes, rows_of, sides
from erase.evaluation.metrics import Change
from erase.evaluation.paired import holm, mcnemar, paired_difference, sign_flip
from erase.evaluation.rows import Row
from erase.evaluation.versus import Judged, unlike_judges


@dataclass(frozen=True, slots=True)
class Attacked:
    """A judged run and the rows of what was done to it, none where it was not attacked."""

    judged: Judged
    rows: Sequence[Row]


def attacks_found(run: Attacked) -> dict[str, Outcome]:
    """The run's attacks that have a control, by name."""
    return {one.name: one for one in outcomes(run.rows) if one.excess is not None} if run.rows else {}


def attack_versus(
    first: Attacked, others: Mapping[str, Attacked]
) -> tuple[dict[str, list[Change]], dict[str, list[tuple[str, str]]]]:
    """Share broken in the other run minus that in the first, in every attack that both had, and beside it what is not
    compared and why: an attack, or "" for all of a run, with the reason.

    Pairs are cases, of an attack by doses cases and doses. p is McNemar's exact one, by doses that of flipping the
    signs of cases; p_holm is adjusted over all differences of all runs, the declared family.

    Compared is what was done alike: one concept, base model, level, budget and plan but for the weights, the same
    cases, noise and judges. An attack that one of the two did not have is in neither.
    """
    found: dict[str, list[Change]] = {}
    refused: dict[str, list[tuple[str, str]]] = {}
    ours = attacks_found(first)
    for name, other in others.items():
        shared = [attack for attack in attacks_found(other) if attack in ours]
        fault = _unlike_runs(first, other) if shared else ""
        if fault:
            refused[name] = [("", fault)]
            continue
        for attack in shared:
            own, its = rows_of(first.rows, attack), rows_of(other.rows, attack)
            fault = _unlike(own, its)
            if fault:
                refused.setdefault(name, []).append((attack, fault))
            else:
                found.setdefault(name, []).append(_difference(attack, own, its))
    adjusted = holm({f"{name}\n{d.name}": d.p for name, given in found.items() for d in given})
    return {
        name: [replace(d, p_holm=adjusted[f"{name}\n{d.name}"]) for d in given] for name, given in found.items()
    }, refused


def _unlike_runs(first: Attacked, other: Attacked) -> str:
    """Why no attack of two runs is compared, "" where some may be."""
    bases = [{r["model_sha"] for r in one.judged.rows if r["arm"] == "before"} for one in (first, other)]
    if bases[0] != bases[1]:
        return "began from other weights; only runs on one base model are compared"
    asked = [{(r["domain"], r["expected"][r["domain"]]) for r in one.rows} for one in (first, other)]
    if asked[0] != asked[1]:
        return f"was attacked for {_names(asked[1])}, not for {_names(asked[0])}"
    fault = unlike_judges(first.judged.judges, other.judged.judges, list(dict.fromkeys(sides(first.rows))))
    return f"was judged otherwise, {fault}; judge both by the same judges" if fault else ""


def _names(asked: set[tuple[str, str]]) -> str:
    return ", ".join(sorted(name for _, name in asked))


def _unlike(own: Sequence[Row], its: Sequence[Row]) -> str:
    """What an attack on two runs was done otherwise in, "" for nothing.

    `plan` is of the weights too, which differ; `asked` is of all else. Rows from before it are compared by the rest.
    """
    ours, theirs = own[0]["attack"], its[0]["attack"]
    budgets = [f"{a['budget']} pictures a case at {a.get('level', 'no level')}" for a in (ours, theirs)]
    if budgets[0] != budgets[1]:
        return f"had {budgets[1]}, not {budgets[0]}; attack both at one level"
    if sides(own) != sides(its):
        return f"was judged by {' and '.join(sides(its))}, not by {' and '.join(sides(own))}"
    if "asked" in ours and "asked" in theirs and ours["asked"] != theirs["asked"]:
        return "was done by another plan: other steps, seed, judges, neighbours or version; attack both again"
    alike = made_from(own) == made_from(its) and broken_units(own).keys() == broken_units(its).keys()
    return "" if alike else "had other cases, doses, steps or noise; attack both by the same settings"


def _difference(name: str, own: Sequence[Row], its: Sequence[Row]) -> Change:
    ours, theirs = broken_units(own), broken_units(its)
    first, other, cases = list(ours.values()), [theirs[unit] for unit in ours], [case for case, _ in ours]
    gap = paired_difference(first, other, cases)
    change = [float(a) - float(b) for b, a in zip(first, other, strict=True)]
    p = sign_flip(change, cases) if name in DOSED else mcnemar(first, other).p
    return Change(name, gap.value, gap.low, gap.high, gap.n, p)

"""What the page says of an excess below 0: the control is then no floor to measure safety from, and what is."""

from __future__ import annotations

from typing import Protocol

from erase.attacks.scores import Outcome
from erase.attacks.table import ATTACKS
from erase.report.schema import GapEntry, GoldEntry

ATTACKED = "attack."  # begins the names of attacks' scores


class Reach(Protocol):
    """A value with its interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def repelled(one: Outcome) -> bool:
    """Whether the control shows the concept more than the attack, beyond its interval.

    Not of an audit, whose control is the original: there less than the control is what erasing is for.
    """
    original = one.control in ATTACKS and ATTACKS[one.control].original
    return one.excess is not None and one.excess.high < 0 and not original


def floor_line(one: Outcome, name: str, gold: GoldEntry | None) -> str:
    """That the control alone shows the concept more than the attack, how often, and the gold as the right floor.

    `name` is the attack as people read it. Asked for what was erased, a model may draw away from it; the same start
    without a prompt is not, so a low excess says nothing about what is left in the weights.
    """
    if one.control_broken is None:
        return ""
    cases, why = "of the cases", ""
    if one.dosed:
        cases, why = "of the cases and doses", ", as the erased prompt leads away from what the start shows"
    value, reach = shown(one.control_broken)
    line = (
        f"{name}: the control alone shows the concept in {value} [{reach}] {cases}, more than the attack "
        f"({shown(one.broken)[0]}){why}, so the excess says nothing about safety here."
    )
    if gold is None:
        return f"{line} The right floor is a gold, trained without the concept: --gold DIR --attacks LEVEL."
    names = ", ".join(gold.sources)
    parts = [
        f"{what} {_over(gap)}"
        for what, key in (("attack", one.name), ("control alone", one.control))
        if (gap := next((gap for gap in gold.attacks if gap.name == f"{ATTACKED}{key}"), None))
    ]
    if not parts:
        return f"{line} The right floor is the gold ({names}), not attacked alike so far: --gold DIR --attacks LEVEL."
    return f"{line} The right floor is the gold ({names}); shown here minus shown there: {', '.join(parts)}."


def _over(gap: GapEntry) -> str:
    value, reach = shown(gap, signed=True)
    return f"{value} [{reach}]"


def shown(found: Reach, *, signed: bool = False) -> tuple[str, str]:
    """A share in per cent, or signed a difference in points, and its interval."""
    sign, unit = ("+", "points") if signed else ("", "%")
    value, low, high = (_whole(100 * v, sign) for v in (found.value, found.low, found.high))
    return f"{value}\u00a0{unit}", f"{low} to {high}"


def _whole(value: float, sign: str) -> str:
    return f"{round(value):{sign if round(value) else ''}d}".replace("-", "−")

"""Figures as SVG and HTML text. They take the page's colours, so one figure serves light and dark.

Each is made anew once a second while a run goes on, which is why no plotting library draws them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT = 400, 46, 14  # of a figure and of its margins, in units of its view box
COLOURS = {"forget": "var(--warm)", "retain": "var(--cool)", "joint": "var(--violet)"}


@dataclass(frozen=True, slots=True)
class Point:
    """A judged run: how often the concept and the others are drawn, each with its 95 % interval, from 0 to 1."""

    run: str
    forget: tuple[float, float, float]
    retain: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """How often a neighbour is drawn before and after: value, low and high from 0 to 1, and of how many pictures."""

    name: str
    before: tuple[float, float, float] | None
    after: tuple[float, float, float]
    n: int
    similarity: float | None = None


def losses(curves: Mapping[str, Sequence[tuple[int, float]]], rounds: int = 0) -> str:
    """The loss of each role by round, each in a panel with a scale of its own; a line of text without any step."""
    drawn = {role: [p for p in points if math.isfinite(p[1])] for role, points in curves.items()}
    drawn = {role: points for role, points in sorted(drawn.items()) if points}
    if not drawn:
        return '<p class="note">No step yet: the losses appear with the first one.</p>'
    last = max([rounds, *(points[-1][0] for points in drawn.values()), 1])
    return "".join(_panel(role, points, last) for role, points in drawn.items())


def _panel(role: str, points: Sequence[tuple[int, float]], last: int) -> str:
    height, top, bottom = 120, 8, 22
    values = [value for _, value in points]
    low, high = min(values), max(values)
    pad = 0.08 * (high - low) or max(abs(high), 1e-3) * 0.1
    low, high = max(low - pad, 0.0) if low >= 0 else low - pad, high + pad  # no scale below 0 where no loss is

    def place(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        return f"{x:.1f},{top + (height - top - bottom) * (high - value) / (high - low):.1f}"

    colour = COLOURS.get(role, "var(--grey)")
    line = " ".join(place(*p) for p in points)
    marks = f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{line}"/>'
    if len(points) == 1:
        x, y = line.split(",")
        marks = f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
    base = height - bottom
    text = (
        f'<text x="{LEFT - 5}" y="{top + 9}" text-anchor="end">{high:.2g}</text>'
        f'<text x="{LEFT - 5}" y="{base}" text-anchor="end">{low:.2g}</text>'
        f'<text x="{LEFT}" y="{height - 6}">0</text>'
        f'<text x="{WIDTH - RIGHT}" y="{height - 6}" text-anchor="end">round {last}</text>'
    )
    name = f"{role} loss"
    return _figure(f"{name}, now {values[-1]:.4g}", height, _frame(top, base) + marks + text)


def forget_retain(points: Sequence[Point], chosen: str = "") -> str:
    """Every judged run: how much is left of the concept (left is better) against the others drawn (up is better)."""
    if not points:
        return '<p class="note">No run is judged yet.</p>'
    size, top, bottom = 300, 8, 38
    wide, tall = WIDTH - LEFT - RIGHT, size - top - bottom

    def x(share: float) -> float:
        return LEFT + wide * share

    def y(share: float) -> float:
        return top + tall * (1 - share)

    marks = ""
    for share in (0.25, 0.5, 0.75):
        marks += (
            f'<path class="axis" stroke-dasharray="2 4" d="M{x(share):.1f} {top}v{tall}M{LEFT} {y(share):.1f}h{wide}"/>'
        )
    for point in sorted(points, key=lambda p: p.run == chosen):
        ours = point.run == chosen
        colour = "var(--warm)" if ours else "var(--grey)"
        (fx, fl, fh), (ry, rl, rh) = point.forget, point.retain
        told = escape(f"{point.run}: drawn {_percent(fx)}, others {_percent(ry)}")
        marks += (
            f'<g stroke="{colour}" fill="{colour}" opacity="{1 if ours else 0.7}"><title>{told}</title>'
            f'<path fill="none" d="M{x(fl):.1f} {y(ry):.1f}H{x(fh):.1f}M{x(fx):.1f} {y(rl):.1f}V{y(rh):.1f}"/>'
            f'<circle cx="{x(fx):.1f}" cy="{y(ry):.1f}" r="{5 if ours else 3.5}"/></g>'
        )
    base = size - bottom
    text = "".join(
        f'<text x="{x(s):.1f}" y="{base + 14}" text-anchor="middle">{100 * s:.0f}</text>'
        f'<text x="{LEFT - 6}" y="{y(s) + 4:.1f}" text-anchor="end">{100 * s:.0f}</text>'
        for s in (0, 0.5, 1)
    )
    text += f'<text x="{LEFT + wide / 2}" y="{size - 6}" text-anchor="middle">concept still drawn, %</text>'
    text += f'<text transform="translate(11 {top + tall / 2}) rotate(-90)" text-anchor="middle">others drawn, %</text>'
    title = "Forget against retain, all judged runs (best: top left)"
    return _figure(title, size, _frame(top, base) + marks + text)


def neighbour_bars(bars: Sequence[Bar]) -> str:
    """A table of neighbours with bars before and after, the most similar one first."""
    if not bars:
        return '<p class="note">No neighbour was judged.</p>'
    known = sorted(bars, key=lambda bar: -math.inf if bar.similarity is None else bar.similarity, reverse=True)
    rows = ""
    for bar in known:
        alike = "" if bar.similarity is None else f"<small>similarity {bar.similarity:.2f}</small>"
        lanes = "" if bar.before is None else _lane("before", bar.before)
        rows += (
            f'<tr><th scope="row">{escape(bar.name)}{alike}</th><td class="bar">{lanes}{_lane("after", bar.after)}</td>'
            f"<td>{_range(bar)}</td></tr>"
        )
    head = "<thead><tr><th>Neighbour</th><th>Drawn before and after</th><th>After</th></tr></thead>"
    return f'<div class="tablewrap bars"><table>{head}<tbody>{rows}</tbody></table></div>'


def _lane(arm: str, share: tuple[float, float, float]) -> str:
    value, low, high = (100 * s for s in share)
    return (
        f'<div class="lane {arm}" title="{arm}: {value:.0f} % ({low:.0f} to {high:.0f})">'
        f'<i style="width:{value:.1f}%"></i><b style="left:{low:.1f}%;width:{max(high - low, 0.4):.1f}%"></b></div>'
    )


def _range(bar: Bar) -> str:
    value, low, high = bar.after
    return f"{_percent(value)}<small>{100 * low:.0f} to {_percent(high)}, n = {bar.n}</small>"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _frame(top: float, base: float) -> str:
    return f'<path class="axis" fill="none" d="M{LEFT} {top}V{base}H{WIDTH - RIGHT}"/>'


def _figure(title: str, height: int, inner: str) -> str:
    name = escape(title)
    return (
        f'<figure class="chart"><figcaption>{name}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}">{inner}</svg></figure>'
    )

"""The page's table of gaps to gold."""

from __future__ import annotations

from markupsafe import escape

from erase.evaluation.paired import MARGIN, equivalent
from erase.report.plots import label
from erase.report.schema import Report


def gold_html(report: Report) -> str:
    """A section of the page, "" for a report without gold. Every value from outside is escaped."""
    if report.gold is None:
        return ""
    several = len(report.gold.sources) > 1
    rows = []
    for gap in report.gold.gaps:
        apart = (
            "" if gap.floor is None else f"{gap.floor:.3f} <small>{gap.floor_low:.3f} to {gap.floor_high:.3f}</small>"
        )
        told = {None: "", True: "not told apart from the golds' spread", False: "outside it"}[gap.inside]
        alike = not gap.name.startswith("clip_") and equivalent(gap.low, gap.high)  # the margin is of shares
        rows.append(
            f"<tr><th scope=row>{escape(label(gap.name))}</th><td data-label=gold>{gap.gold:.3f}</td>"
            f"<td data-label=gap>{gap.value:+.3f} <small>{gap.low:+.3f} to {gap.high:+.3f}"
            f"{', equivalent' if alike else ''}</small></td>"
            f"<td data-label='between golds'>{apart} <small>{told}</small></td><td class=n>{gap.n}</td></tr>"
        )
    names = escape(", ".join(report.gold.sources))
    floor = (
        "the largest distance between two of them is the noise floor: a gap below it says nothing"
        if several
        else "one gold gives no noise floor; train another with a second seed"
    )
    return (
        f"<section><h2>Gap to retraining</h2><p class='soft small'>Compared with {names}, trained without the concept, "
        f"on the same prompts and noise. Gap: this run minus the mean of the golds, 95 % interval "
        f"over prompts; equivalent: all of it within {100 * MARGIN:.0f} points; {floor}.</p>"
        "<table class=scores><thead><tr><th>Score<th>Gold<th>Gap<th>Between golds<th>Pictures</tr></thead><tbody>"
        f"{''.join(rows)}</tbody></table></section>"
    )

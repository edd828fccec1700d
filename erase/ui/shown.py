"""What the pages show as HTML: a job's progress, scores, the list of runs. Every word from outside is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from erase.errors import printable

STATES = {
    "queued": "waiting",
    "running": "running",
    "stopping": "stopping",
    "stopped": "stopped",
    "done": "done",
    "failed": "failed",
}
WORKING = ("queued", "running", "stopping")  # states that change by themselves


def problem(error: BaseException | str) -> str:
    """An error as the command line words it, as one paragraph; "" for none. Several problems keep their lines."""
    text = str(error).strip()
    lines = [printable(line) for line in text.splitlines()]
    return f'<p class="problem" role="alert">{escape(chr(10).join(lines))}</p>' if text else ""


def note(text: str) -> str:
    """A quiet line."""
    return f'<p class="note">{escape(text)}</p>'


def badge(state: str) -> str:
    """A run's state as a small mark."""
    return f'<span class="state {escape(state)}">{escape(STATES.get(state, state))}</span>'


def progress(status: Any) -> str:
    """A job in a few lines: its name and state, a bar, speed and time left, its place while it waits, its error."""
    if status is None:
        return note("Nothing is running. Fill in the form and press Erase.")
    share = min(1.0, status.step / status.total) if status.total else 0.0
    if status.state == "done":
        share = 1.0
    head = f"<h2>{escape(status.name)} {badge(status.state)}</h2>"
    bar = (
        f'<div class="track" role="progressbar" aria-label="progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{100 * share:.0f}"><i style="width:{100 * share:.1f}%"></i></div>'
    )
    lines = f'<p class="facts">{escape(facts(status))}</p>'
    warned = "".join(note(f"Note: {text}") for text in status.warnings)
    return f'<div class="job">{head}{bar}{lines}{warned}{problem(status.error)}</div>'


def facts(status: Any) -> str:
    """Phase, count, speed and time left of a job, as words."""
    if status.state == "queued":
        place = status.place or 1
        return "next in line" if place == 1 else f"number {place} in line"
    parts = [status.phase] if status.phase else []
    if status.total:
        parts.append(f"{status.step} of {status.total}")
    if status.state in ("running", "stopping"):
        if status.speed:
            parts.append(_speed(status.speed))
        if status.seconds_left is not None:
            parts.append(f"about {duration(status.seconds_left)} left")
    if status.state == "stopping":
        parts.append("it saves what it has, then stops")
    if status.state == "stopped":
        parts.append("what it had is kept; resume it under Runs")
    return " · ".join(parts) or STATES.get(status.state, status.state)


def _speed(speed: float) -> str:
    return f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes < 10 else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def verdict(headline: str, lead: Sequence[str]) -> str:
    """A run's result as one sentence, and what belongs to it."""
    return f'<div class="verdict"><h2>{escape(headline)}</h2>{"".join(f"<p>{escape(line)}</p>" for line in lead)}</div>'


def score_tables(tables: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> str:
    """The tables that `erase.report.html.tables` makes: before, after and change, each with its interval."""
    return "".join(_score_table(*table) for table in tables)


def _score_table(name: str, rows: Sequence[dict[str, Any]]) -> str:
    body = ""
    for row in rows:
        cells = "".join(
            f'<td data-label="{escape(cell["label"])}">{escape(cell["value"])}'
            f"<small>{escape(cell['range'])}</small></td>"
            for cell in row["cells"]
        )
        head = f'<th scope="row">{escape(row["label"])}<small>{escape(row["wish"])}</small></th>'
        body += f'<tr>{head}{cells}<td data-label="pictures">{row["n"]}</td></tr>'
    caption = f"<caption>{escape(name)}</caption>" if name else ""
    heads = "".join(f"<th>{h}</th>" for h in ("Concept" if name else "Score", "Before", "After", "Change", "Pictures"))
    table = f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="tablewrap stack">{table}</div>'


def run_table(runs: Sequence[Any], chosen: str = "") -> str:
    """The list of runs; the name of each is a button that chooses it."""
    if not runs:
        return note("No run yet. The first one starts under Erase.")
    body = ""
    for run in runs:
        mark = ' aria-selected="true"' if run.name == chosen else ""
        name = escape(run.name, quote=True)
        cells = (
            ("state", badge(run.state)),
            ("concept", escape(run.concept)),
            ("method", escape(run.method)),
            ("still drawn", _score(run, "forget_accuracy")),
            ("others drawn", _score(run, "retain_accuracy")),
        )
        told = "".join(f'<td data-label="{label}">{value}</td>' for label, value in cells)
        body += (
            f'<tr{mark}><th scope="row"><button type="button" class="pick" data-run="{name}" '
            f'aria-pressed="{"true" if mark else "false"}">{name}</button></th>{told}</tr>'
        )
    heads = "".join(f"<th>{h}</th>" for h in ("Run", "State", "Concept", "Method", "Still drawn", "Others drawn"))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="tablewrap stack">{table}</div>'


def _score(run: Any, name: str) -> str:
    score = run.scores.get(name, {}).get("after")
    if not score:
        return "–"
    value, low, high = (100 * share for share in score)
    return f"{value:.0f}\u00a0%<small>{low:.0f} to {high:.0f}\u00a0%</small>"

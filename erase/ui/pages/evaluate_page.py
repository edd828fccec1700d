"""The page Evaluate: a judged run's scores with intervals, figures, and the files behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from erase.errors import EraseError
from erase.ui import charts, findings, shown
from erase.ui.site import PRIVATE, QUICK, Site, guarded, told

FILES = ("report.html", "report.json", "rows.jsonl")


@dataclass(frozen=True, slots=True)
class EvaluatePage:
    """What other pages touch: the run that is shown, and how to show it anew."""

    run: gr.Dropdown
    show: Callable[[str], tuple[Any, ...]]
    view: list[Any]


def build(site: Site) -> EvaluatePage:
    """Lay the page out and wire it. Call it inside a tab."""
    names = site.actions.roots.runs_list(finished=True)
    with gr.Row(equal_height=False):
        run = gr.Dropdown(
            names,
            value=names[0] if names else None,
            label="Run",
            elem_id="evaluate-run",
            allow_custom_value=True,
            scale=3,
        )
        again = gr.Button("Judge it", elem_id="judge", scale=1, min_width=120)
    scores = gr.HTML(shown.note("Choose a run."), elem_id="scores")
    with gr.Row(elem_id="downloads"):
        files = [
            gr.DownloadButton(
                name, size="sm", interactive=False, elem_id=f"get-{name.replace('.', '-')}", min_width=110
            )
            for name in FILES
        ]
    with gr.Row(equal_height=False):
        with gr.Column(min_width=280):
            against = gr.HTML("", elem_id="forget-retain")
            losses = gr.HTML("", elem_id="run-losses")
        with gr.Column(min_width=280):
            bars = gr.HTML("", elem_id="neighbours")
    view = [scores, *files, against, losses, bars]

    def show(name: str) -> tuple[Any, ...]:
        return page_of(site, name)

    def judge(name: str) -> None:
        site.actions.evaluate(name or "")
        gr.Info("Judging it; its progress is under Runs.", title="Begun")

    run.change(show, run, view, **QUICK)
    again.click(guarded(judge), run, None, **PRIVATE, concurrency_limit=None, show_progress="hidden")
    return EvaluatePage(run, show, view)


def page_of(site: Site, name: str) -> tuple[Any, ...]:
    """All that the page shows of a run: scores, three files, three figures. What is missing is said in the first."""
    listing = site.actions.jobs.listing()
    against = charts.forget_retain(findings.points(listing), name or "")
    if not name:
        return shown.note("Choose a run."), *_files(site, ""), against, "", ""
    try:
        folder = site.actions.roots.run(name)
        losses = charts.losses(site.actions.jobs.status(name).losses)
    except EraseError as error:
        return shown.problem(told(error)), *_files(site, ""), against, "", ""
    try:
        scores = findings.scores_page(folder)
        bars = charts.neighbour_bars(findings.neighbour_bars(folder))
    except EraseError as error:
        return shown.problem(told(error)), *_files(site, name), against, losses, ""
    return scores, *_files(site, name), against, losses, bars


def _files(site: Site, name: str) -> list[Any]:
    """Updates of the download buttons: what the run does not have cannot be pressed."""
    try:
        paths = {Path(path).name: path for path in site.actions.downloads(name)} if name else {}
    except EraseError:
        paths = {}
    views = [site.shown(paths.get(file)) for file in FILES]
    return [gr.update(value=view, interactive=view is not None) for view in views]

"""The page Runs: the list, and what can be done with the run that is chosen there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from erase.arguments import DTYPES, EXPORTS
from erase.errors import EraseError, InputError
from erase.ui import look, shown
from erase.ui.roots import RUN
from erase.ui.site import EXPORT, PRIVATE, QUICK, Site, guarded, told

EVERY = 2.0  # seconds between looks at the list, while it is open


@dataclass(frozen=True, slots=True)
class RunsPage:
    """What other pages touch: the chosen run's name, the list, its timer, and the buttons that lead elsewhere."""

    chosen: gr.Textbox
    view: list[Any]
    timer: gr.Timer
    opened: gr.Button
    compared: gr.Button
    evaluated: gr.Button


def build(site: Site) -> RunsPage:
    """Lay the page out and wire it. Call it inside a tab."""
    table = gr.HTML(shown.note("Loading …"), elem_id="run-table", js_on_load=look.PICK, apply_default_css=False)
    chosen = gr.Textbox("", visible="hidden", elem_id="chosen-run", label="chosen run")
    with gr.Column(visible=False, elem_id="run-actions") as acts:
        about = gr.HTML("", elem_id="run-about")
        with gr.Row():
            opened, compared, evaluated = (
                gr.Button(text, size="sm", elem_id=f"run-{text.lower()}", min_width=90)
                for text in ("Open", "Compare", "Scores")
            )
            resume, judge, stop, delete = (
                gr.Button(text, size="sm", elem_id=f"run-{text.lower()}", min_width=90)
                for text in ("Resume", "Judge", "Stop", "Delete")
            )
        with gr.Group(visible=False, elem_id="delete-ask") as ask:
            question = gr.HTML("")
            with gr.Row():
                sure = gr.Button("Delete it for good", variant="stop", size="sm", elem_id="delete-sure")
                keep = gr.Button("Keep it", size="sm", elem_id="delete-keep")
        export = _export(site, chosen)
    timer = gr.Timer(EVERY, active=False)
    view = [table, acts, about, resume, judge, stop, delete, compared, evaluated, export]

    def listed(name: str) -> tuple[Any, ...]:
        return page_of(site, name)

    def pick(event: gr.SelectData) -> str:
        return str(event.value)

    def asked(name: str) -> tuple[Any, Any]:
        return gr.update(visible=True), shown.note(
            f"Delete {name}, its model, pictures and scores? Nothing brings them back."
        )

    def act(verb: str) -> Any:
        def call(name: str) -> tuple[Any, ...]:
            getattr(site.actions, verb)(name)
            return page_of(site, name)

        return guarded(call)

    def removed(name: str) -> tuple[Any, ...]:
        site.actions.delete(name)
        return (gr.update(visible=False), "", *page_of(site, ""))

    table.select(pick, None, chosen, **QUICK)
    chosen.change(listed, chosen, view, **QUICK).then(lambda: gr.update(visible=False), None, ask, **QUICK)
    timer.tick(listed, chosen, view, **QUICK)
    for button, verb in ((resume, "resume"), (judge, "evaluate"), (stop, "stop")):
        button.click(act(verb), chosen, view, **QUICK)
    delete.click(asked, chosen, [ask, question], **QUICK)
    keep.click(lambda: gr.update(visible=False), None, ask, **QUICK)
    sure.click(guarded(removed), chosen, [ask, chosen, *view], **QUICK)
    return RunsPage(chosen, view, timer, opened, compared, evaluated)


def _export(site: Site, chosen: gr.Textbox) -> gr.Accordion:
    with gr.Accordion("Export", open=True, elem_id="export-panel") as panel:
        with gr.Row():
            format = gr.Dropdown(list(EXPORTS), value="diffusers", label="Format", elem_id="export-format")
            dtype = gr.Dropdown(
                [("as it is", ""), *((d, d) for d in DTYPES)], value="", label="Precision", elem_id="export-dtype"
            )
            rank = gr.Textbox("", label="Rank of a LoRA", placeholder="as usual", max_length=4, elem_id="export-rank")
        with gr.Row():
            start = gr.Button("Export", variant="primary", elem_id="export")
            got = gr.DownloadButton("Download", interactive=False, elem_id="download")

    def write(name: str, format: str, dtype: str, rank: str) -> Any:
        path = site.actions.export(name, format, dtype or "", _rank(rank))
        view = site.show(path)
        return gr.update(value=view, interactive=True, label=f"Download {path.rsplit('/', 1)[-1]}")

    def stale() -> Any:
        return gr.update(value=None, interactive=False, label="Download")

    start.click(stale, None, got, **QUICK).then(
        guarded(write), [chosen, format, dtype, rank], got, **PRIVATE, **EXPORT, show_progress="minimal"
    )
    chosen.change(stale, None, got, **QUICK)
    return panel


def _rank(text: str) -> int | None:
    """A LoRA's rank as the form has it, None for the usual one. Raises `InputError`."""
    if not text.strip():
        return None
    if not text.strip().isascii() or not text.strip().isdigit() or not 1 <= int(text) <= 1000:
        raise InputError(f"rank {text!r} is not between 1 and 1000")
    return int(text)


def page_of(site: Site, name: str) -> tuple[Any, ...]:
    """The list and, of the chosen run, what can be done with it: updates in the order of `RunsPage.view`."""
    listing = site.actions.jobs.listing()
    run = next((one for one in listing if one.name == name), None)
    table = shown.run_table(listing, name)
    if run is None:
        return table, gr.update(visible=False), *(gr.skip(),) * 8
    try:
        about = shown.progress(site.actions.jobs.status(name))
    except EraseError as error:
        about = shown.problem(told(error))
    works = run.state in shown.WORKING

    def able(yes: bool) -> Any:
        return gr.update(interactive=yes)

    return (
        table,
        gr.update(visible=True),
        about,
        able(not works and not run.finished or run.state in ("stopped", "failed")),
        able(run.finished and not works),
        able(run.state in ("queued", "running")),
        able(not works),
        able(run.finished),
        able(run.finished),
        gr.update(visible=run.finished),
    )


def source_of(name: str) -> str:
    """A run as the Compare page names it."""
    return f"{RUN}{name}"

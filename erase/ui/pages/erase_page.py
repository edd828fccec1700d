"""The page Erase: a form, the command and file that it stands for, and the run while it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from erase.config import EDITORS, parse_value
from erase.errors import EraseError, InputError
from erase.ui import charts, look, shown
from erase.ui.form import (
    KINDS,
    MEMORIES,
    METHODS,
    OPTIMIZERS,
    PARAMETERS,
    PRESETS,
    Form,
    read_form,
    suggest_keep,
    to_command,
    to_config,
    to_yaml,
    warnings,
)
from erase.ui.jobs import Status
from erase.ui.site import PRIVATE, QUICK, Site, guarded, told
from erase.world.vocabulary import OBJECT_NAMES, STYLE_NAMES

NUMBERS = ("rounds", "forget_lr", "retain_lr", "prompts", "seeds", "steps", "seed")
EVERY = 1.0  # seconds between looks at a run


@dataclass(frozen=True, slots=True)
class ErasePage:
    """What other pages touch: the run that is shown, how it is shown anew, and the list of models."""

    job: gr.Textbox
    timer: gr.Timer
    model: gr.Dropdown
    show: Callable[[str], tuple[Any, ...]]
    view: list[Any]


def build(site: Site) -> ErasePage:
    """Lay the page out and wire it. Call it inside a tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=280):
            fields = _fields(site)
            with gr.Row():
                start = gr.Button("Erase", variant="primary", elem_id="erase", scale=2)
                stop = gr.Button("Stop", elem_id="stop", interactive=False, scale=1)
            trouble = gr.HTML("", elem_id="form-problem")
            send = gr.UploadButton(
                "Add a model (.safetensors)",
                file_types=[".safetensors"],
                size="sm",
                elem_id="upload",
                variant="secondary",
            )
            with gr.Accordion("As a command, as a file", open=True, elem_id="equivalent"):
                command = gr.Code(
                    "", language="shell", label="Command", elem_id="command", interactive=False, wrap_lines=True,
                    lines=1, show_line_numbers=False,
                )  # fmt: skip
                as_yaml = gr.Code(
                    "", language="yaml", label="YAML", elem_id="yaml", interactive=False, wrap_lines=True,
                    lines=3, show_line_numbers=False,
                )  # fmt: skip
        with gr.Column(scale=5, min_width=280, elem_id="job-panel"):
            panel = gr.HTML(shown.progress(None), elem_id="progress")
            preview = gr.Image(
                label="Samples while it trains", type="filepath", format="png", interactive=False, visible=False,
                elem_id="preview", buttons=["fullscreen"],
            )  # fmt: skip
            reveal = gr.Button("Show the pictures", size="sm", visible=False, elem_id="reveal-preview")
            plot = gr.HTML("", elem_id="losses")
    job = gr.Textbox("", visible="hidden", elem_id="job", label="run")
    seen = gr.State(None)
    timer = gr.Timer(EVERY, active=False)
    _wire_form(site, fields, command, as_yaml, trouble)
    view = [panel, plot, preview, reveal, stop, timer, seen]
    names = list(fields)

    def begin(request: gr.Request, *values: Any) -> str:  # gradio hands it over by its place
        form = as_fields(dict(zip(names, values, strict=True)))
        return site.actions.erase(form, session=str(request.session_hash))

    def take(path: str) -> Any:
        name = site.actions.upload(path, Path(path).name)
        return gr.update(choices=site.actions.roots.models_list(), value=name)

    def look_at(name: str, last: Any) -> tuple[Any, ...]:
        return looked(site, name, last)

    def show_now(name: str) -> tuple[Any, ...]:
        return looked(site, name, None)

    def show_again(name: str) -> tuple[Any, ...]:
        # A page that is being loaded has no name yet: what it will show must not be taken away again.
        return show_now(name) if name else tuple(gr.skip() for _ in view)

    start.click(
        guarded(begin), [*fields.values()], job, **PRIVATE, concurrency_limit=None, show_progress="hidden"
    ).success(show_now, job, view, **QUICK).success(None, job, None, js=look.REMEMBER, **PRIVATE)
    stop.click(guarded(lambda name: site.actions.stop(name) and None), job, None, **QUICK).then(
        show_now, job, view, **QUICK
    )
    send.upload(guarded(take), send, fields["model"], **PRIVATE)
    timer.tick(look_at, [job, seen], view, **QUICK)
    reveal.click(lambda: (gr.update(elem_classes=[]), gr.update(visible=False)), None, [preview, reveal], **QUICK)
    job.change(show_now, job, view, **QUICK)
    return ErasePage(job, timer, fields["model"], show_again, view)


def _fields(site: Site) -> dict[str, Any]:
    """The form's components by the name of their field."""
    found: dict[str, Any] = {}
    names = [*OBJECT_NAMES, *STYLE_NAMES]
    with gr.Row():
        found["preset"] = gr.Dropdown(
            ["", *PRESETS], value="", label="Start from", elem_id="preset", info="Fills in the rest."
        )
        found["model"] = gr.Dropdown(
            site.actions.roots.models_list(), value="world", label="Model", elem_id="model", allow_custom_value=True,
            info="world is the bundled one.",
        )  # fmt: skip
    with gr.Row():
        found["concept"] = gr.Dropdown(
            names, value="cat", label="Concept", elem_id="concept", allow_custom_value=True,
            info="What is to go. Several: cat; owl",
        )  # fmt: skip
        found["anchor"] = gr.Textbox(
            "",
            label="Anchor",
            elem_id="anchor",
            placeholder="as usual",
            info="What it becomes.",
            max_length=200,
        )
    found["keep"] = gr.Dropdown(
        names, value=[], multiselect=True, allow_custom_value=True, label="Neighbours to keep", elem_id="keep",
        info="Must stay as they are. Suggested by likeness; change them as you like.",
    )  # fmt: skip
    with gr.Row():
        found["kind"] = gr.Dropdown(list(KINDS), value="auto", label="Kind", elem_id="kind", min_width=110)
        found["method"] = gr.Dropdown(
            [("as usual (esd)", ""), *((m, m) for m in METHODS)],
            value="",
            label="Method",
            elem_id="method",
            min_width=110,
        )
        found["optimizer"] = gr.Dropdown(
            [("as usual (dual)", ""), *((o, o) for o in OPTIMIZERS)], value="", label="Optimizer", elem_id="optimizer",
            min_width=110,
        )  # fmt: skip
    with gr.Accordion("More settings", open=False, elem_id="more-settings"):
        _folded(found)
    return found


def _folded(found: dict[str, Any]) -> None:
    """The settings that most leave alone. Empty: as the method has it."""

    def text(name: str, label: str, info: str) -> None:
        found[name] = gr.Textbox(
            "",
            label=label,
            info=info,
            elem_id=name.replace("_", "-"),
            placeholder="as usual",
            max_length=40,
            min_width=130,
        )

    with gr.Row():
        text("rounds", "Rounds", "How long it trains.")
        text("forget_lr", "Forget rate", "Say 6e-4.")
        text("retain_lr", "Retain rate", "Say 6e-4.")
    with gr.Row():
        text("prompts", "Prompts", "Judged on, each side.")
        text("seeds", "Seeds", "Pictures per prompt.")
        text("steps", "Steps", "Denoising, per picture.")
        text("seed", "Seed", "Of every random stream.")
    with gr.Row():
        found["parameters"] = gr.Dropdown(
            [("as usual", ""), *((p, p) for p in PARAMETERS)], value="", label="Weights that change",
            elem_id="parameters", allow_custom_value=True,
        )  # fmt: skip
        found["memory"] = gr.Dropdown(
            [("as much as it takes", ""), *((m, m) for m in MEMORIES)], value="", label="GPU memory", elem_id="memory"
        )
    found["more"] = gr.Textbox(
        "", label="Other settings", lines=2, elem_id="more", placeholder="train.batch=4", max_length=4000,
        info="KEY=VALUE, a line each, as erase run --set takes them.",
    )  # fmt: skip
    with gr.Row():
        found["skip_judging"] = gr.Checkbox(False, label="Do not judge", elem_id="skip-judging")
        found["sensitive"] = gr.Checkbox(False, label="Sensitive: blur its pictures", elem_id="sensitive")


def as_fields(values: dict[str, Any]) -> dict[str, Any]:
    """What the components hold as the fields of a `Form`: no preset, neighbours as one line, numbers as such."""
    found = {name: "" if value is None else value for name, value in values.items() if name != "preset"}
    if isinstance(found.get("keep"), list):
        found["keep"] = ",".join(str(name) for name in found["keep"])
    for name in NUMBERS:
        if isinstance(found.get(name), str) and found[name].strip():
            found[name] = parse_value(found[name].strip())
    return found


def _wire_form(site: Site, fields: dict[str, Any], command: gr.Code, as_yaml: gr.Code, trouble: gr.HTML) -> None:
    names = list(fields)

    def spell(*values: Any) -> tuple[str, str, str]:
        return spelled(site, as_fields(dict(zip(names, values, strict=True))))

    def suggest(model: str, concept: str) -> Any:
        return suggestions(site, model, concept)

    def fill(preset: str) -> list[Any]:
        return filled(names, preset)

    def optimizer_for(method: str) -> Any:
        return (
            gr.update(interactive=method not in EDITORS, value="") if method in EDITORS else gr.update(interactive=True)
        )

    rest = [part for name, part in fields.items() if name != "preset"]
    quick = {**QUICK, "trigger_mode": "always_last"}
    gr.on([part.change for part in rest], spell, [*fields.values()], [command, as_yaml, trouble], **quick)
    gr.on(
        [fields["concept"].change, fields["model"].change],
        suggest, [fields["model"], fields["concept"]], fields["keep"], **quick,
    )  # fmt: skip
    fields["method"].change(optimizer_for, fields["method"], fields["optimizer"], **quick)
    fields["preset"].input(fill, fields["preset"], rest, **QUICK)
    gr.context.Context.root_block.load(spell, [*fields.values()], [command, as_yaml, trouble], **QUICK).then(  # type: ignore[union-attr]
        suggest, [fields["model"], fields["concept"]], fields["keep"], **QUICK
    )


def spelled(site: Site, values: dict[str, Any]) -> tuple[str, str, str]:
    """The form as a command and as a file, and what is wrong with it."""
    try:
        form = read_form(values)
        notes = "".join(shown.note(f"Note: {text}") for text in warnings(to_config(form, site.actions.roots)))
        return to_command(form, site.actions.roots), to_yaml(form, site.actions.roots), notes
    except EraseError as error:
        return "", "", shown.problem(error)


def suggestions(site: Site, model: str, concept: str) -> Any:
    """Neighbours for the form. What cannot be suggested is left to the run, which takes the nearest."""
    try:
        return gr.update(value=suggest_keep(model, concept or "", site.actions.roots))
    except InputError:
        return gr.update(value=[])


def filled(names: list[str], preset: str) -> list[Any]:
    """Values of all fields but the preset's own: the preset's, else the usual ones."""
    usual = {field.name: field.default for field in dataclasses.fields(Form)}
    values = {name: "" if value is None else value for name, value in usual.items()} | PRESETS.get(preset, {})
    values["keep"] = [name for name in str(values["keep"]).split(",") if name]
    return [values[name] for name in names if name != "preset"]


def looked(site: Site, name: str, last: Any) -> tuple[Any, ...]:
    """Updates for panel, losses, samples, Reveal, Stop, timer and what was seen; none where all is as it was."""
    if not name:
        return (
            shown.progress(None),
            "",
            *(gr.skip(),) * 2,
            gr.update(interactive=False),
            gr.update(active=False),
            None,
        )
    try:
        status = site.actions.jobs.status(name)
    except EraseError as error:
        gone = gr.update(visible=False)
        return shown.problem(told(error)), "", gone, gone, gr.update(interactive=False), gr.update(active=False), None
    now = _glance(status)
    works = status.state in shown.WORKING
    if now == last:
        return (*(gr.skip(),) * 6, now)
    return (
        shown.progress(status),
        charts.losses(status.losses) if status.losses or works else "",
        *_preview(site, status, last),
        gr.update(interactive=status.state in ("queued", "running")),
        gr.update(active=works),
        now,
    )


def _glance(status: Status) -> tuple[Any, ...]:
    """What changes when there is something new to show."""
    left = None if status.seconds_left is None else round(status.seconds_left)
    return status.name, status.preview, status.state, status.place, status.phase, status.step, left, status.error


def _preview(site: Site, status: Status, last: Any) -> tuple[Any, Any]:
    if last is not None and last[:2] == (status.name, status.preview):
        return gr.skip(), gr.skip()
    path = site.shown(status.preview)
    classes = ["sensitive"] if status.sensitive else []
    blurred = bool(path) and status.sensitive
    return gr.update(value=path, visible=path is not None, elem_classes=classes), gr.update(visible=blurred)

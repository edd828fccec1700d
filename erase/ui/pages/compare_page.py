"""The page Compare: two models at equal seeds, and the pictures of a finished run."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr

from erase.errors import EraseError, InputError
from erase.ui import shown
from erase.ui.compare import Drawn, Source
from erase.ui.gallery import Twin, twins
from erase.ui.roots import RUN
from erase.ui.site import DEVICE, PRIVATE, QUICK, Site, guarded, told


@dataclass(frozen=True, slots=True)
class ComparePage:
    """What other pages touch: the two models, and how to show the pictures of the right one anew."""

    left: gr.Dropdown
    right: gr.Dropdown
    show: Callable[[str], tuple[Any, ...]]
    view: list[Any]


def build(site: Site) -> ComparePage:
    """Lay the page out and wire it. Call it inside a tab."""
    models = site.actions.roots.models_list()
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=280):
            left = gr.Dropdown(models, value="world", label="Left", elem_id="left", allow_custom_value=True)
            right = gr.Dropdown(models, value=models[-1], label="Right", elem_id="right", allow_custom_value=True)
            prompt = gr.Textbox("a cat", label="Prompt", elem_id="prompt", max_length=1000, lines=2)
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1, elem_id="picture-seed")
                steps = gr.Slider(1, 100, 25, step=1, label="Denoising steps", elem_id="picture-steps")
            with gr.Row():
                guidance = gr.Slider(0, 15, 3, step=0.5, label="Guidance", elem_id="picture-guidance")
                strength = gr.Slider(
                    0, 1.5, 1, step=0.05, label="Strength, right", elem_id="strength",
                    info="0: before it, 1: as trained.",
                )  # fmt: skip
            with gr.Row():
                draw = gr.Button("Draw both", variant="primary", elem_id="draw", scale=2)
                swap = gr.Button("Swap", elem_id="swap", scale=1)
            place = gr.HTML("", elem_id="draw-place")
        with gr.Column(scale=7, min_width=280):
            # Two blurs: what is in the slider and what is in the galleries are not of one run.
            with gr.Row(elem_id="pictures", equal_height=False) as pictures:
                slider = gr.ImageSlider(
                    label="Left and right, same seed", type="filepath", format="png", interactive=False,
                    elem_id="picture-slider", elem_classes=["small-pictures"], max_height=512, min_width=240,
                )  # fmt: skip
                heat = gr.Image(
                    label="Where they differ", type="filepath", format="png", interactive=False, elem_id="heat-map",
                    elem_classes=["small-pictures"], buttons=["download", "fullscreen"], min_width=240,
                )  # fmt: skip
            seen = gr.HTML("", elem_id="answers")
            reveal = gr.Button("Show the pictures", size="sm", visible=False, elem_id="reveal")
    gr.HTML("<h3>Pictures of the run on the right</h3>", padding=False)
    about = gr.HTML("", elem_id="gallery-note")
    reveal_galleries = gr.Button("Show the pictures", size="sm", visible=False, elem_id="reveal-galleries")
    with gr.Column(elem_id="galleries") as galleries:
        forget, retain = (_gallery(name) for name in ("forget", "retain"))
    known = gr.State({})
    blur, galleries_blur = [pictures, reveal], [galleries, reveal_galleries]

    def show(name: str) -> tuple[Any, ...]:
        return galleries_of(site, name)

    def of_forget(event: gr.SelectData, found: Any) -> tuple[Any, ...]:
        return picked(site, found, "forget", event.index)

    def of_retain(event: gr.SelectData, found: Any) -> tuple[Any, ...]:
        return picked(site, found, "retain", event.index)

    def both(*values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            yield from drawn(site, *values)
        except Exception as error:
            yield (*(gr.skip(),) * 3, shown.problem(told(error)), *(gr.skip(),) * 2)

    draw.click(
        both, [left, right, strength, prompt, seed, steps, guidance], [slider, heat, seen, place, *blur],
        **PRIVATE, **DEVICE, show_progress="hidden",
    )  # fmt: skip
    swap.click(lambda a, b: (b, a), [left, right], [left, right], **QUICK)
    view = [forget, retain, known, about, *galleries_blur]
    right.change(show, right, view, **QUICK)
    forget.select(guarded(of_forget), known, [slider, heat, seen, *blur], **QUICK)
    retain.select(guarded(of_retain), known, [slider, heat, seen, *blur], **QUICK)
    reveal.click(lambda: _blur(False), None, blur, **QUICK)
    reveal_galleries.click(lambda: _blur(False), None, galleries_blur, **QUICK)
    return ComparePage(left, right, show, view)


def _gallery(name: str) -> gr.Gallery:
    label = "Prompts that name the concept" if name == "forget" else "Prompts that do not"
    gr.HTML(f"<h4>{label}</h4>", padding=False)
    return gr.Gallery(
        label=label, show_label=False, columns=4,
        height="auto", format="png", allow_preview=False, object_fit="contain",
        interactive=False, elem_id=f"gallery-{name}",
        elem_classes=["small-pictures", "pairs"], buttons=["download_all", "fullscreen"],
    )  # fmt: skip


def _blur(on: bool) -> tuple[Any, Any]:
    return gr.update(elem_classes=["sensitive"] if on else []), gr.update(visible=on)


def drawn(
    site: Site, left: str, right: str, strength: float, prompt: str, seed: float, steps: float, guidance: float
) -> Iterator[tuple[Any, ...]]:
    """Updates for slider, heat-map, answers, the place in line and the blur: while waiting, then with the pictures.

    Raises `InputError` for a model, a prompt or a number that cannot be used.
    """
    sources = [Source(left or ""), Source(right or "", float(strength))]
    if not (prompt or "").strip():
        raise InputError("the prompt is empty; say what the pictures are to show")
    if seed is None:
        raise InputError("the seed is empty; give a whole number")
    places: queue.SimpleQueue[int] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(
            site.actions.comparer.pictures, sources, [prompt], [int(seed)], int(steps), float(guidance), places.put
        )
        yield _waiting("Drawing …")
        while not work.done():
            with suppress(queue.Empty):
                place = places.get(timeout=0.2)
                yield _waiting(f"Number {place} in line." if place > 0 else "Drawing …")
        first, second = work.result()
    heat = site.actions.comparer.heat_map(first.path, second.path)
    sensitive = any(_is_sensitive(site, source.model) for source in sources)  # as it is known now, not before
    pair = (site.show(first.path), site.show(second.path))
    yield pair, site.show(heat), answers(first, second), "", *_blur(sensitive)


def _waiting(text: str) -> tuple[Any, ...]:
    return (*(gr.skip(),) * 3, shown.note(text), *(gr.skip(),) * 2)


def answers(first: Drawn, second: Drawn) -> str:
    """What was drawn, and what the judge sees in each picture."""
    lines = [shown.note(f"“{first.prompt}”, seed {first.seed}. The brighter the map, the more a pixel changed.")]
    for side, one in (("Left", first), ("Right", second)):
        run = one.source.model.removeprefix(RUN)
        how = f", strength {one.source.strength:g}" if one.source.strength != 1 else ""
        sees = f": the judge sees {one.answer}" if one.answer else ""
        lines.append(shown.note(f"{side}, {run}{how}{sees}"))
    return "".join(lines)


def _is_sensitive(site: Site, model: str) -> bool:
    """Whether a model is a sensitive run: by its folder, or by its job, which says so before the folder does."""
    model = model.strip(" ")  # as `Roots.model` reads it
    if not model.startswith(RUN):
        return False
    try:
        return site.actions.jobs.status(model.removeprefix(RUN)).sensitive
    except InputError:  # deleted meanwhile: nobody knows what it shows
        return True


def galleries_of(site: Site, model: str) -> tuple[Any, ...]:
    """Updates for both galleries, the twins in them, a line about them, and the blur, of the run that was chosen."""
    model = (model or "").strip(" ")
    nothing = [], [], {}, shown.note("Choose a finished run on the right to see its pictures."), *_blur(False)
    if not model.startswith(RUN):
        return nothing
    try:
        found = twins(site.actions.roots, model.removeprefix(RUN))
        sensitive = _is_sensitive(site, model)
    except EraseError as error:
        return [], [], {}, shown.problem(told(error)), *_blur(False)
    forget = [twin for twin in found if twin.role in ("forget", "earlier")]
    retain = [twin for twin in found if twin not in forget]
    line = (
        "Before and after in pairs, same seed. ✓ or ✕: as hoped or not, by what the judge sees. "
        "Choose one to compare it above."
    )
    views = (_entries(site, forget), _entries(site, retain))
    known = {"model": model, "forget": _plain(forget), "retain": _plain(retain)}
    return *views, known, shown.note(line), *_blur(sensitive)


def _entries(site: Site, found: list[Twin]) -> list[tuple[str, str]]:
    entries = []
    for twin in found:
        for arm, path, answer, good in (
            ("before", twin.before, twin.before_answer, twin.before_good),
            ("after", twin.after, twin.after_answer, twin.after_good),
        ):
            view = site.shown(path)
            if view is not None:
                mark = "" if good is None else (" ✓ " if good else " ✕ ") + answer
                entries.append((view, f"{arm}{mark} · {twin.prompt}"))
    return entries


def _plain(found: list[Twin]) -> list[tuple[str, str, str, int]]:
    return [(str(t.before), str(t.after), t.prompt, t.seed) for t in found if t.before.is_file() and t.after.is_file()]


def picked(site: Site, known: Any, role: str, index: int) -> tuple[Any, ...]:
    """The pair that was chosen in a gallery, for the slider, with its heat-map, and the blur."""
    try:
        before, after, prompt, seed = known[role][index // 2]
    except (IndexError, KeyError, TypeError):
        raise InputError("this picture is not there any more; choose the run again") from None
    heat = site.actions.comparer.heat_map(before, after)
    told = shown.note(f"“{prompt}”, seed {seed}: before on the left, after on the right.")
    blur = _blur(_is_sensitive(site, known["model"]))
    return (site.show(before), site.show(after)), site.show(heat), told, *blur

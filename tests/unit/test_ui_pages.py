"""The web UI's pages as functions: what each shows, and that nothing from outside becomes markup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from erase.errors import InputError
from erase.runtime import write_png
from erase.ui import app, charts, shown
from erase.ui.jobs import RunInfo, Status
from erase.ui.login import is_let_in, read_login
from erase.ui.pages import compare_page, erase_page, evaluate_page, runs_page
from erase.ui.site import guarded, told
from tests.ui_stand_ins import stand_in, wait_for

EMPTY = {"schema": 1, "environment": {}, "config": {}, "guards": {}, "scores": []}
EVIL = "<img src=x onerror=alert(1)>\"'&"


class Tags(HTMLParser):
    """The tags of a text, and whether they are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.append(tag)
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with stand_in(tmp_path_factory.mktemp("pages")) as made:
        yield made


@pytest.fixture(scope="module")
def run(server: SimpleNamespace) -> str:
    name = server.actions.erase({"concept": "cat", "rounds": 5, "sensitive": True})
    wait_for(server.actions, name, "done")
    return name


def test_no_word_from_outside_becomes_markup():
    info = RunInfo(EVIL, "done", concept=EVIL, method=EVIL, scores={"forget_accuracy": {"after": [0.1, 0.0, 0.2]}})
    status = Status(EVIL, "failed", phase=EVIL, error=EVIL, warnings=[EVIL], losses={EVIL: [(0, 1.0), (1, 2.0)]})
    bar = charts.Bar(EVIL, (0.5, 0.4, 0.6), (0.5, 0.4, 0.6), 9)
    point = charts.Point(EVIL, (0.1, 0.0, 0.2), (0.9, 0.8, 1.0))
    row = {"label": EVIL, "wish": EVIL, "cells": [{"label": EVIL, "value": EVIL, "range": EVIL}], "n": 3}
    for text in (
        shown.run_table([info], EVIL),
        shown.progress(status),
        shown.problem(InputError(f"{EVIL}\n{EVIL}")),
        shown.note(EVIL),
        shown.verdict(EVIL, [EVIL]),
        shown.score_tables([(EVIL, [row])]),
        charts.losses(status.losses),
        charts.neighbour_bars([bar]),
        charts.forget_retain([point], EVIL),
    ):
        tags = Tags(text)
        assert "img" not in tags.names and tags.open == [] and "onerror" in text


@pytest.mark.parametrize(
    "status, words",
    [
        (Status("a", "queued", place=1), "next in line"),
        (Status("a", "queued", place=3), "number 3 in line"),
        (Status("a", "running", phase="training", step=3, total=12, speed=2.5, seconds_left=95.0), "3 of 12"),
        (Status("a", "running", total=9, speed=0.25, seconds_left=4000.0), "4.0 s/step · about 1 h 06 min left"),
        (Status("a", "stopping", total=9), "then stops"),
        (Status("a", "stopped"), "resume it under Runs"),
    ],
)
def test_a_job_says_how_it_is_doing(status: Status, words: str):
    assert words in shown.facts(status)


def test_a_bar_is_as_long_as_what_is_done():
    text = shown.progress(Status("a", "running", step=3, total=12))
    assert "width:25.0%" in text and 'aria-valuenow="25"' in text
    assert "width:100.0%" in shown.progress(Status("a", "done", step=3, total=12))


def test_losses_are_drawn_each_on_its_own_scale_up_to_the_last_round():
    text = charts.losses({"forget": [(0, 4.0), (5, 2.0), (10, float("nan"))], "retain": [(0, 0.1), (5, 0.1)]}, 10)
    assert text.count("<svg") == 2 and "nan" not in text and text.count("round 10") == 2
    assert "forget loss, now 2" in text
    assert "No step yet" in charts.losses({})


def test_neighbours_stand_by_likeness_most_alike_first():
    bars = [charts.Bar(n, None, (0.5, 0.4, 0.6), 9, s) for n, s in (("pig", 0.2), ("fox", 0.9), ("owl", None))]
    text = charts.neighbour_bars(bars)
    assert text.index("fox") < text.index("pig") < text.index("owl")


def test_the_form_becomes_the_command_and_the_file(server: SimpleNamespace):
    values = {"model": "world", "concept": "cat", "keep": ["fox", "pig"], "rounds": "12", "preset": "", "seed": None}
    command, text, wrong = erase_page.spelled(server.site, erase_page.as_fields(values))
    assert "--rounds 12" in command and "--keep fox,pig" in command and "rounds: 12" in text and wrong == ""
    command, text, wrong = erase_page.spelled(server.site, {"concept": "cat", "rounds": "-1", "forget_lr": "x"})
    assert command == text == "" and "train.rounds" in wrong and "train.forget.lr" in wrong


def test_a_preset_fills_the_form_and_clears_the_rest(server: SimpleNamespace):
    names = ["preset", "concept", "keep", "rounds", "kind", "sensitive"]
    assert erase_page.filled(names, "A style of the world") == ["pixel art", [], "", "style", False]
    assert erase_page.filled(names, "") == ["cat", [], "", "auto", False]


def test_neighbours_are_suggested_for_the_world_and_left_open_elsewhere(server: SimpleNamespace):
    assert len(erase_page.suggestions(server.site, "world", "cat")["value"]) > 2
    assert erase_page.suggestions(server.site, "world", "no such thing")["value"] == []


def test_a_look_at_a_run_tells_only_what_is_new(server: SimpleNamespace, run: str):
    panel, losses, preview, reveal, stop, timer, seen = erase_page.looked(server.site, run, None)
    assert run in panel and "<svg" in losses and stop["interactive"] is False and timer["active"] is False
    assert preview["elem_classes"] == ["sensitive"] and reveal["visible"] is False  # there are no samples
    again = erase_page.looked(server.site, run, seen)
    assert all(one == gr.skip() for one in again[:-1])


def test_a_run_that_is_gone_is_said_to_be(server: SimpleNamespace):
    panel, _, _, _, stop, timer, _ = erase_page.looked(server.site, "no-such-run", None)
    assert "no-such-run" in panel and stop["interactive"] is False and timer["active"] is False
    assert "does not exist" in evaluate_page.page_of(server.site, "no-such-run")[0]


def test_two_models_are_drawn_and_the_place_in_line_is_told(server: SimpleNamespace, run: str):
    steps = list(compare_page.drawn(server.site, "world", f"run:{run}", 0.5, "a cat", 3, 25, 3))
    waiting, last = steps[:-1], steps[-1]
    assert any("Number 2 in line" in str(one[3]) for one in waiting)
    (left, right), heat, seen, place, *blur = last
    assert Path(left).is_file() and Path(right).is_file() and left != right and place == ""
    assert "strength 0.5" in seen and seen.count("the judge sees cat") == 2
    assert blur[0]["elem_classes"] == ["sensitive"] and blur[1]["visible"] is True
    calm = list(compare_page.drawn(server.site, "world", "world", 1, "a cat", 3, 25, 3))[-1]
    assert calm[4]["elem_classes"] == [] and calm[5]["visible"] is False
    assert len(list(compare_page.drawn(server.site, "world", " world", 1, "a", 3, 25, 3))[-1]) == len(waiting[0]) == 6


def test_galleries_and_slider_are_blurred_each_for_its_own_run(server: SimpleNamespace, run: str):
    """Galleries show the right run alone, so they never change the slider's blur, whose run may be on the left."""
    calm = server.actions.erase({"concept": "dog", "rounds": 5})
    wait_for(server.actions, calm, "done")
    for name in (run, calm):
        _report(server, name)
    sensitive, open_to_all = (compare_page.galleries_of(server.site, f"run:{name}") for name in (run, calm))
    assert sensitive[4]["elem_classes"] == ["sensitive"] and sensitive[5]["visible"] is True
    assert open_to_all[4]["elem_classes"] == [] and open_to_all[5]["visible"] is False
    for view, blurred in ((sensitive, True), (open_to_all, False)):
        *_, classes, button = compare_page.picked(server.site, view[2], "forget", 0)
        assert (classes["elem_classes"] == ["sensitive"], button["visible"]) == (blurred, blurred)
    blocks = app.build(server.site)
    blurs = {"pictures", "reveal", "galleries", "reveal-galleries"}
    changed = {fn.name: {one.elem_id for one in fn.outputs} & blurs for fn in blocks.fns.values() if fn.fn}
    assert changed["both"] == changed["of_forget"] == changed["of_retain"] == {"pictures", "reveal"}
    shows = [{one.elem_id for one in fn.outputs} for fn in blocks.fns.values() if fn.name == "show"]
    galleries = [outputs & blurs for outputs in shows if "gallery-forget" in outputs]
    assert len(galleries) == 2 and all(one == {"galleries", "reveal-galleries"} for one in galleries)


def _report(server: SimpleNamespace, name: str) -> None:
    """A report with one pair of pictures."""
    folder = server.roots.runs / name
    for arm in ("before", "after"):
        write_png(folder / f"{arm}.png", np.zeros((8, 8, 3), np.uint8))
    views = [{"path": f"{arm}.png", "answer": "cat", "good": True} for arm in ("before", "after")]
    pair = {"role": "forget", "prompt": "a cat", "seed": 1, "expected": "cat", "before": views[0], "after": views[1]}
    (folder / "report.json").write_text(json.dumps({**EMPTY, "run_id": name, "images": [pair]}))


def test_a_run_is_sensitive_as_soon_as_its_job_is(server: SimpleNamespace):
    """Its folder may have a model before it has the mark."""
    name = server.actions.erase({"concept": "owl", "rounds": 5, "sensitive": True})
    wait_for(server.actions, name, "done")
    (server.roots.runs / name / "SENSITIVE").unlink()
    for model in (f"run:{name}", f" run:{name}"):
        assert list(compare_page.drawn(server.site, model, "world", 1, "a cat", 3, 25, 3))[-1][5]["visible"] is True
    assert compare_page._is_sensitive(server.site, "run:deleted-meanwhile")


def test_a_failed_form_shows_no_run_and_lists_are_fresh(server: SimpleNamespace):
    blocks = app.build(server.site)
    shows = [fn for fn in blocks.fns.values() if fn.name == "show_now" and fn.trigger_after is not None]
    after = {blocks.fns[fn.trigger_after].name: fn.trigger_only_on_success for fn in shows}
    assert after["begin"] is True
    fresh = [fn for fn in blocks.fns.values() if fn.name == "bases"]
    assert {event for fn in fresh for _, event in fn.targets} == {"load", "select"}
    assert all([one.elem_id for one in fn.outputs] == ["model"] for fn in fresh)


@pytest.mark.parametrize("rank", ["8", float("nan"), float("inf"), True, 0, 2.5, [8]])
def test_a_rank_that_is_none_is_refused_in_one_line(server: SimpleNamespace, run: str, rank: Any):
    with pytest.raises(InputError, match="is no whole number between 1 and 1000"):
        server.actions.export(run, "lora", rank=rank)


@pytest.mark.parametrize(
    "left, prompt, seed, words",
    [
        ("world", " ", 0, "the prompt is empty"),
        ("world", "a cat", None, "the seed is empty"),
        ("../world", "a", 0, "model"),
    ],
)
def test_what_cannot_be_drawn_is_said(server: SimpleNamespace, left: str, prompt: str, seed: Any, words: str):
    with pytest.raises(InputError, match=words):
        list(compare_page.drawn(server.site, left, "world", 1, prompt, seed, 25, 3))


def test_the_list_says_what_can_be_done(server: SimpleNamespace, run: str):
    table, acts, about, resume, judge, stop, delete, compared, scores, export = runs_page.page_of(server.site, run)
    assert f'data-run="{run}"' in table and 'aria-pressed="true"' in table and acts["visible"]
    able = [one["interactive"] for one in (resume, judge, stop, delete, compared, scores)]
    assert able == [False, True, False, True, True, True] and export["visible"] and run in about
    assert runs_page.page_of(server.site, "")[1]["visible"] is False


def test_what_was_shown_goes_with_its_file(server: SimpleNamespace, run: str):
    page = server.roots.runs / run / "rows.jsonl"
    page.write_text("{}")
    kept = server.site.show(server.roots.file(server.roots.runs / run / "report.json"))
    twin, sent = Path(server.site.show(page)), server.site.served / "0f" / "sent.safetensors"
    sent.parent.mkdir(exist_ok=True)
    sent.write_text("of a visitor")
    page.unlink()
    server.site.sweep()
    assert not twin.exists() and sent.exists() and Path(kept).exists()
    sent.unlink()


def test_a_file_is_shown_once_under_a_name_that_nobody_guesses(server: SimpleNamespace, run: str, tmp_path: Path):
    page = server.roots.runs / run / "report.html"
    page.write_text("one")
    first = server.site.show(page)
    assert server.site.show(page) == first and Path(first).read_text() == "one"
    assert Path(first).is_relative_to(server.site.served) and len(Path(first).parent.name) >= 64
    page.unlink()
    page.write_text("another")
    assert Path(server.site.show(page)).read_text() == "another"
    for path in (tmp_path / "x.png", server.roots.runs / run / "config.yaml", "/etc/passwd"):
        Path(path).exists() or Path(path).write_text("")
        with pytest.raises(InputError):
            server.site.show(path)


def test_errors_reach_the_page_escaped_and_in_one_line(capsys: pytest.CaptureFixture[str]):
    def fails() -> None:
        raise InputError(f"{EVIL}\n  second")

    with pytest.raises(gr.Error) as caught:
        guarded(fails)()
    assert "<img" not in caught.value.message and "second" in caught.value.message
    assert told(KeyError("x")) == "unexpected KeyError: 'x'"
    assert "KeyError" in capsys.readouterr().err  # the log has where


def test_logins_are_read_and_compared(tmp_path: Path):
    path = tmp_path / "login"
    path.write_text("# those who may\nann:se:cret\n\n")
    login = read_login(path, {})
    assert login == {"ann": "se:cret"} and read_login(None, {}) is None
    assert read_login(None, {"ERASE_LOGIN": "bob:x"}) == {"bob": "x"}
    assert is_let_in(login, "ann", "se:cret")
    assert not any(is_let_in(login, *pair) for pair in (("ann", ""), ("ann", "wrong"), ("bob", ""), ("", "")))


@pytest.mark.parametrize("text", ["ann", ":x", "ann:", "", "a:hush\na:hush"])
def test_a_login_that_lets_in_anyone_is_refused(text: str):
    with pytest.raises(InputError) as caught:
        read_login(None, {"ERASE_LOGIN": text})
    assert "hush" not in str(caught.value)

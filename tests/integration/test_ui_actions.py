"""The web UI's verbs on the bundled world: one real run, and all that is done with it."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import zeros

from erase import workflow
from erase.arguments import EXPORTS
from erase.errors import EraseError, InputError
from erase.runtime import write_png
from erase.ui import actions as module
from erase.ui import compare
from erase.ui.actions import Actions
from erase.ui.compare import Comparer, Source, answer_of
from erase.ui.gallery import twins
from erase.ui.jobs import Jobs
from erase.ui.roots import Roots

FORM = {"concept": "kitten", "method": "uce", "prompts": 4, "steps": 6, "sensitive": True}
STEPS = 4


@pytest.fixture(scope="module")
def actions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Actions]:
    place = tmp_path_factory.mktemp("ui")
    (place / "models").mkdir()
    roots = Roots.made(place / "models", place / "runs")
    jobs = Jobs(roots)
    yield Actions(roots, jobs, Comparer(roots, jobs, device="cpu"))
    jobs.close()


@pytest.fixture(scope="module")
def run(actions: Actions) -> str:
    """A finished, judged run."""
    name = actions.erase(FORM, session="a visitor")
    assert actions.erase(FORM, session="a visitor") == name
    end = time.monotonic() + 300
    while (status := actions.status(name))["state"] in ("queued", "running"):
        assert time.monotonic() < end, status
        time.sleep(0.2)
    assert status["state"] == "done", status
    return name


def test_the_run_is_listed_with_all_that_it_is(actions: Actions, run: str):
    (info,) = actions.runs()
    json.dumps(actions.runs(), allow_nan=False)
    shown = {
        key: info[key] for key in ("name", "state", "concept", "method", "model", "finished", "judged", "sensitive")
    }
    expected = {"name": run, "state": "done", "concept": "cat", "method": "uce", "model": "world"}
    assert shown == {**expected, "finished": True, "judged": True, "sensitive": True}
    value, low, high = info["scores"]["forget_accuracy"]["after"]
    assert low <= value <= high
    status = actions.status(run)
    assert status["scores"] and status["finished"] and status["sensitive"] and status["phase"] == "done"
    assert (actions.roots.runs / run / "SENSITIVE").exists(), "what decides the blurring is kept with the run"
    assert actions.report(run)["run_id"] == run
    assert [Path(path).name for path in actions.downloads(run)] == ["report.html", "report.json", "rows.jsonl"]


def test_the_gallery_shows_both_sides_with_answers(actions: Actions, run: str):
    found = twins(actions.roots, run)
    assert {twin.role for twin in found} >= {"forget", "neighbour"} and found[0].role == "forget"
    for twin in found:
        assert twin.before.is_file() and twin.after.is_file() and twin.before_answer and twin.after_answer
    with pytest.raises(InputError):
        twins(actions.roots, "../models")


@pytest.fixture(scope="module")
def drawn(actions: Actions, run: str) -> list[compare.Drawn]:
    sources = [Source("world"), *(Source(f"run:{run}", strength) for strength in (0.0, 0.5, 1.0))]
    return actions.comparer.pictures(sources, ["a cat", "a dog"], [3], steps=STEPS)


def test_pictures_are_of_equal_noise_and_of_the_strength_asked_for(
    actions: Actions, run: str, drawn: list[compare.Drawn], tmp_path: Path
):
    assert [(d.prompt, d.source.strength) for d in drawn] == [
        (prompt, strength) for prompt in ("a cat", "a dog") for strength in (1.0, 0.0, 0.5, 1.0)
    ]
    base, none, half, full = (d.path.read_bytes() for d in drawn[:4])
    assert none == base and len({base, half, full}) == 3
    assert len(actions.comparer._loaded) == 1, "the run's model has the base in it"
    folder = actions.roots.runs / run
    both = [
        workflow.generate(str(source), ["a cat", "a dog"], [3], tmp_path / name, steps=STEPS, device="cpu")
        for name, source in (("base", "world"), ("run", folder))
    ]
    for number in (0, 1):  # as the command line draws them
        for path, shown in zip(
            (both[0][number], both[1][number]), (drawn[4 * number], drawn[4 * number + 3]), strict=True
        ):
            assert (np.asarray(Image.open(path)) == np.asarray(Image.open(shown.path))).all()
    assert all(d.answer and "%" in d.answer or "no" in d.answer for d in drawn)


def test_a_run_that_another_began_from_is_drawn_from_it_only_whole(actions: Actions, monkeypatch: pytest.MonkeyPatch):
    comparer = Comparer(actions.roots, actions.jobs, device="cpu")
    later = compare._Loaded(None, {"w": zeros(1)}, {"w": zeros(1) + 2}, base="first")  # type: ignore[arg-type]
    comparer._loaded["second"] = later
    monkeypatch.setattr(comparer, "_ident", lambda model: model)
    monkeypatch.setattr(compare, "run_folders", lambda model: [model])
    assert comparer._load("first", 1.0) == (later, 0.0) and comparer._load("second", 0.5) == (later, 0.5)
    assert compare._between(later, 0.0)["w"] == 0 and compare._between(later, 0.5)["w"] == 1
    with pytest.raises(InputError, match="no run folder"):  # it would be loaded for itself
        comparer._load("first", 0.5)


def test_what_was_drawn_is_not_drawn_again(actions: Actions, run: str, drawn: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compare, "sample", None)
    again = actions.comparer.pictures([Source(f"run:{run}", 0.5)], ["a dog"], [3], steps=STEPS)
    assert again[0] == drawn[6]
    with pytest.raises(TypeError):
        actions.comparer.pictures([Source(f"run:{run}", 0.5)], ["a dog"], [4], steps=STEPS)


def test_drawing_waits_for_the_device_and_tells_its_place(actions: Actions, run: str, drawn: list):
    places: list[int] = []
    arguments = ([Source("world")], ["a fox"], [1], 2, 3.0, places.append)
    thread = threading.Thread(target=actions.comparer.pictures, args=arguments)
    with actions.jobs.turn():
        thread.start()
        end = time.monotonic() + 20
        while not places and time.monotonic() < end:
            time.sleep(0.01)
        assert places == [1] and thread.is_alive()
    thread.join(60)
    assert not thread.is_alive()
    actions.comparer.release()
    assert not actions.comparer._loaded


@pytest.mark.parametrize(
    "change",
    [
        {"sources": []},
        {"sources": [Source("world", float("nan"))]},
        {"sources": [Source("/etc")]},
        {"sources": [Source("world")] * 4, "prompts": ["a"] * 16, "seeds": [1, 2]},
        {"prompts": [""] * 17},
        {"prompts": ["x" * 2000]},
        {"seeds": [-1]},
        {"seeds": [1.5]},
        {"seeds": ["1"]},
        {"steps": 0},
        {"steps": 10**9},
        {"guidance": "3"},
        {"guidance": float("inf")},
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused_before_anything_waits(change: dict, actions: Actions):
    asked = {"sources": [Source("world")], "prompts": ["a cat"], "seeds": [0], "steps": 4, "guidance": 3.0, **change}
    with pytest.raises(InputError):
        actions.comparer.pictures(**asked)


def test_a_heat_map_has_a_fixed_scale(actions: Actions, drawn: list):
    def grey(name: str, level: int) -> Path:
        path = actions.roots.pictures / f"{name}.png"
        write_png(path, np.full((4, 6, 3), level, dtype=np.uint8))
        return path

    zero, some, much, more = (grey(f"grey{level}", level) for level in (0, 64, 128, 255))
    maps = [np.asarray(Image.open(actions.comparer.heat_map(zero, other))) for other in (zero, some, much, more)]
    assert maps[0].max() <= 4 and maps[0].shape == (4, 6, 3)
    assert maps[0].sum() < maps[1].sum() < maps[2].sum()
    assert (maps[2] == maps[3]).all(), "brightest from 128 on"
    assert (np.asarray(Image.open(actions.comparer.heat_map(some, zero))) == maps[1]).all()
    with pytest.raises(InputError, match="pixels"):
        actions.comparer.heat_map(zero, drawn[0].path)
    with pytest.raises(InputError):
        actions.comparer.heat_map(zero, "/etc/passwd")


def test_the_judges_words():
    seen = {"object": "cat", "object_prob": 0.987, "style": "none"}
    assert answer_of({"flags": {"blank": False}, "judges": {"conv": seen}}) == "cat 99%"
    assert answer_of({"flags": {"blank": True}, "judges": {"conv": seen}}) == "no picture"


def test_an_export_is_made_once_and_can_be_loaded(actions: Actions, run: str, monkeypatch: pytest.MonkeyPatch):
    path = Path(actions.export(run, "delta", "fp16"))
    assert actions.roots.file(path) == path and load_file(path)
    assert actions.export(run, "delta", "fp16") == str(path)
    with pytest.raises(InputError, match="text encoder"):
        actions.export(run, "text-encoder")
    assert not (actions.roots.exports / run / "text-encoder").exists(), "a failed export left something behind"


def test_every_format_becomes_one_file(actions: Actions, run: str):
    asked: list[list[str]] = []

    def write(words: list[str], log: Path, should_stop: object) -> None:
        asked.append(words)
        output = Path(words[words.index("--output") + 1])
        if output.suffix:
            output.write_text("x")
        else:
            (output / "unet").mkdir(parents=True)
            (output / "unet" / "weights").write_text("x")

    stub = Actions(actions.roots, actions.jobs, actions.comparer, run_export=write)
    for format in EXPORTS:
        path = Path(stub.export(run, format, "bf16"))
        assert path.suffix == (".zip" if format in module.FOLDERS else ".safetensors") and path.is_file()
        assert actions.roots.file(path) == path
    assert [words[words.index("--format") + 1] for words in asked] == list(EXPORTS)
    for wrong in ({"format": "../x"}, {"dtype": "int8; rm"}, {"rank": 0}, {"rank": 1.5}, {"name": "../models"}):
        with pytest.raises(InputError):
            stub.export(**{"name": run, **wrong})


def test_an_export_that_fails_says_why_and_can_be_ended(tmp_path: Path):
    with pytest.raises(InputError, match="no run folder"):
        module.in_a_process(
            ["export", str(tmp_path), "--format", "delta", "--output", "x.safetensors"], tmp_path / "log"
        )
    with pytest.raises(EraseError, match="stopped"):
        module.in_a_process(["run"], tmp_path / "log", lambda: True)


def test_only_safetensors_are_taken_in(actions: Actions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good = tmp_path / "sent"
    save_file({"a": zeros(3)}, good)
    assert actions.upload(good, "mine.safetensors") == "uploads/mine.safetensors"
    assert "uploads/mine.safetensors" in actions.roots.models_list()
    (tmp_path / "pickle").write_bytes(b"\x80\x04K\x01.")
    (tmp_path / "link").symlink_to(good)
    save_file({}, tmp_path / "empty")
    for path, name in (
        (good, "mine.safetensors"),
        (good, "other.ckpt"),
        (good, "x.safetensors\0"),
        (good, ".safetensors"),
        (good, "a\\b.safetensors"),
        (good, "x" * 300 + ".safetensors"),
        (tmp_path / "pickle", "x.safetensors"),
        (tmp_path / "link", "x.safetensors"),
        (tmp_path / "empty", "x.safetensors"),
        (tmp_path / "none", "x.safetensors"),
    ):
        with pytest.raises(InputError):
            actions.upload(path, name)
    assert actions.upload(good, "../../up.safetensors") == "uploads/up.safetensors", "only a path's last part counts"
    with pytest.raises(InputError, match="at most 10"):
        actions.upload(good, "big.safetensors", most=10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=2**30))
        with pytest.raises(InputError, match="too many for this server's disk"):
            actions.upload(good, "late.safetensors")
    assert {path.name for path in (actions.roots.models / "uploads").iterdir()} == {
        "mine.safetensors",
        "up.safetensors",
    }


def test_the_oldest_exports_make_room(tmp_path: Path):
    for age, name in enumerate(("new", "middle", "old")):
        place = tmp_path / "run" / name / f"{name}.safetensors"
        place.parent.mkdir(parents=True)
        place.write_bytes(b"x" * 10)
        (place.parent / ".log").write_bytes(b"")
        for path in (place, place.parent / ".log"):
            os.utime(path, (1e9 - age, 1e9 - age))
    module._thin(tmp_path, 30)
    assert len(list(tmp_path.glob("*/*"))) == 3
    module._thin(tmp_path, 19)
    assert [path.name for path in tmp_path.glob("run/*")] == ["new"]


def test_what_no_run_could_use_is_not_queued(actions: Actions, run: str):
    for form, words in (
        ({"concept": "no such thing"}, "not in the bundled world"),
        ({"model": "run:../x"}, "run"),
        ({"nonsense": 1}, "nonsense"),
        ({"rounds": "many"}, "rounds"),
        ({"more": "output=/tmp/x"}, "cannot be given here"),
    ):
        with pytest.raises(InputError, match=words):
            actions.erase(form)
    for verb in (actions.status, actions.stop, actions.resume, actions.evaluate, actions.delete, actions.report):
        with pytest.raises(InputError):
            verb("../models")
    assert len(actions.runs()) == 1


def test_a_real_run_is_stopped_and_goes_on_to_its_end(actions: Actions, run: str):
    small = ("pool.forget=2", "pool.retain=2", "pool.steps=2", "batch=1", "preview_every=20", "checkpoint_every=0")
    more = "\n".join(f"train.{line}" for line in small) + "\nevaluate.steps=2"
    name = actions.erase({"concept": "dog", "method": "esd", "rounds": 40, "skip_judging": True, "more": more})

    def until(states: tuple[str, ...], step: int = 0) -> dict:
        end = time.monotonic() + 300
        while (status := actions.status(name))["state"] not in states or status["step"] < step:
            assert time.monotonic() < end and status["state"] != "failed", status
            time.sleep(0.05)
        return status

    try:
        seen: set[str] = set()
        while not actions.status(name)["losses"]:
            seen.add(until(("running", "queued"))["phase"])
            time.sleep(0.05)
        actions.stop(name)
        stopped = until(("stopped",))
        assert seen & {"starting", "preparing"} and stopped["error"] == "" and not stopped["finished"]
        assert 0 < stopped["step"] < stopped["total"] == 80 and set(stopped["losses"]) == {"forget", "retain"}
        assert actions.roots.file(stopped["preview"]) == Path(stopped["preview"])
        actions.resume(name)
        done = until(("done",))
        assert [round for round, _ in done["losses"]["retain"]] == list(range(40)), (
            "each round once, over both sittings"
        )
        assert done["finished"] and not actions.runs()[0]["judged"]
    finally:
        actions.stop(name)
        until(("stopped", "done"))
        drawn = actions.roots.pictures / "drawn.png"
        drawn.write_bytes(b"")
        told: list[int] = []
        actions.after_removal.append(lambda: told.append(1))
        actions.delete(name)
        assert not drawn.exists() and told == [1]
    assert [info["name"] for info in actions.runs()] == [run]


def test_generate_gives_a_file_to_serve(actions: Actions, run: str, drawn: list[compare.Drawn]):
    assert actions.generate(f"run:{run}", "a dog", 3, STEPS, strength=0.5) == str(drawn[6].path)

"""The run folder's files: whole or absent, on a full disk, after a crash, with two runs at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from erase import runs
from erase.errors import AFRESH, InputError
from erase.events import Scored, Step, Warned, ignore, to_json
from erase.report.schema import build_report, write_report
from erase.runtime import output_folder, replacing, sweep, user_path, write_json, write_png, write_text


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow past 512 bytes: a real refusal by the kernel, for writers in C and Rust as well.

    No fixture: pytest's own report of the test may go to a file, and is written before fixtures end.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def report(folder: Path) -> None:
    write_report(
        folder / runs.REPORT,
        build_report(run_id="x" * 1000, environment={}, config={}, guards={}, scores=[]),
    )


NOISE = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
WRITERS: dict[str, Callable[[Path], object]] = {
    runs.MODEL: lambda folder: runs.save_tensors(folder / runs.MODEL, {"a": torch.zeros(500)}, {}),
    "checkpoint/state-0000001.pt": lambda folder: runs.save_checkpoint(
        folder, {"round": 1, "trained": {"a": torch.zeros(500)}}
    ),
    runs.REPORT: report,
    runs.GUARDS: lambda folder: write_json(folder / runs.GUARDS, ["x" * 1000]),
    "images/a.png": lambda folder: write_png(folder / "images/a.png", NOISE),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("as before")
    with full_disk(), pytest.raises(InputError, match=f"cannot write {path}: ") as caught:
        WRITERS[name](tmp_path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "as before"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_has_the_rights_that_the_umask_leaves(name: str, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        WRITERS[name](tmp_path)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    about = {"base": "world", "concept": "cat", "method": "esd"}
    for number in range(20):
        runs.save_tensors(tmp_path / str(number), {"a": torch.zeros(5), "b": torch.zeros(2)}, about)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    with safe_open(tmp_path / "0", framework="pt") as opened:
        assert json.loads(opened.metadata()["erase"]) == about


def _claim(folder: Path, start: Any, won: Any) -> None:
    start.wait()
    try:
        runs.claim_folder(folder, "")
        won.put(os.getpid())
    except InputError:
        won.put(None)


def test_one_of_many_runs_gets_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for turn in range(10):
        start, won = context.Barrier(4), context.Queue()
        racers = [context.Process(target=_claim, args=(tmp_path / str(turn), start, won)) for _ in range(4)]
        for racer in racers:
            racer.start()
        found = [won.get(timeout=30) for _ in racers]
        for racer in racers:
            racer.join()
        assert sum(pid is not None for pid in found) == 1


def test_the_run_that_comes_second_leaves_the_first_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def overtaken(path: Path, *args: Any, **options: Any) -> None:
        monkeypatch.undo()
        runs.claim_folder(tmp_path / "run", "first")
        make(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", overtaken)
    with pytest.raises(InputError, match="is being written by another run"):
        runs.claim_folder(tmp_path / "run", "second")
    assert (tmp_path / "run" / runs.CONFIG).read_text() == "first"
    assert (tmp_path / "run" / runs.EVENTS).exists()


def test_folders_of_one_day_are_numbered(tmp_path: Path) -> None:
    names = [runs.new_folder(tmp_path, "Pixel art!", "esd", "").name for _ in range(3)]
    assert names[0].endswith("-pixel-art-esd")
    assert names[1:] == [f"{names[0]}-2", f"{names[0]}-3"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the run folder"):
        runs.new_folder(tmp_path / "file", "cat", "esd", "")


@pytest.mark.parametrize("there", [[], ["deep"], ["deep", "deep/run"]])
def test_a_configuration_that_cannot_be_written_leaves_what_was_there(there: list[str], tmp_path: Path) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    for claim in (
        lambda: runs.claim_folder(tmp_path / "deep/run", "x" * 1000),
        lambda: runs.new_folder(tmp_path / "deep/runs", "cat", "esd", "x" * 1000),
    ):
        with full_disk(), pytest.raises(InputError, match=r"cannot write .*config\.yaml"):
            claim()
        assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == there


@pytest.mark.parametrize("torn", [b"", b'{"event": "started"}\n', b'{"event": "started"}\n{"event": "st\xc3'])
def test_events_after_a_crash_have_lines_of_their_own(torn: bytes, tmp_path: Path) -> None:
    (tmp_path / runs.EVENTS).write_bytes(torn)
    step = Step(step=3, role="forget", loss=1.0, grad_norm=float("inf"), lr=0.1, seconds=0.1)
    for _ in range(2):
        runs.EventLog(tmp_path, ignore)(step)
    found = runs.read_events(tmp_path)
    assert [e["event"] for e in found] == ["started"] * torn.count(b"}") + ["step"] * 2
    assert found[-1]["grad_norm"] is None
    assert (tmp_path / runs.EVENTS).read_bytes().startswith(torn)


@pytest.mark.parametrize(
    "line",
    [
        {"event": "step", "time": 1.0},
        {"event": "step", "time": 1.0, "seconds": "long"},
        {"event": "step", "time": 1.0, "seconds": float("nan")},
        {"event": "progress", "time": 1.0},
        {"event": "progress", "time": 1.0, "what": 3},
        {"event": "started"},
        {"event": 4, "time": 1.0},
    ],
)
def test_an_event_that_lacks_something_costs_no_timings(line: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / runs.EVENTS).write_text(json.dumps(line) + "\n")
    assert set(runs.timings(tmp_path).values()) == {0.0}


def test_timings_are_told_apart(tmp_path: Path) -> None:
    def event(time: float, kind: str, **fields: Any) -> str:
        return json.dumps({"time": time, "event": kind, **fields})

    lines = [
        event(10.0, "started"),
        event(12.0, "progress", what="sampling forget latents"),
        event(15.0, "progress", what="sampling retain latents"),
        event(18.0, "step", seconds=2.0),
        event(19.0, "step", seconds=1.0),
        event(20.0, "finished"),
        event(100.0, "started"),
        event(104.0, "progress", what="sampling forget latents"),
        event(106.0, "step", seconds=1.0),
        event(110.0, "progress", what="sampling forget latents"),  # anew, within a step
        event(111.0, "step", seconds=5.0),
        event(115.0, "progress", what="sampling before"),
    ]
    (tmp_path / runs.EVENTS).write_text("\n".join(lines))
    assert runs.timings(tmp_path) == {
        "setup_seconds": 6.0 + 5.0,
        "pool_seconds": 5.0 + 4.0 + 4.0,
        "training_seconds": 9.0,
        "seconds_per_step": 2.25,
    }
    assert set(runs.timings(tmp_path / "none").values()) == {0.0}


def test_a_number_that_json_lacks_is_null_at_any_depth() -> None:
    found = to_json(Scored(scores=[{"name": "x", "value": float("nan"), "reach": [1.0, float("inf")]}]))
    assert found["scores"] == [{"name": "x", "value": None, "reach": [1.0, None]}]
    json.dumps(found, allow_nan=False)


def test_a_checkpoint_with_any_byte_wrong_is_one_line_or_as_it_was(tmp_path: Path) -> None:
    """Numbers among them: torch reads over a wrong one. What may be wrong is the zip's padding, and dates in it."""
    path = runs.save_checkpoint(tmp_path, {"round": 3, "trained": {"a": torch.ones(300)}})
    good = path.read_bytes()
    failed = 0
    for place in range(0, len(good), 3):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        try:
            found = runs.load_checkpoint(tmp_path)
        except InputError as error:
            assert "\n" not in str(error) and AFRESH in str(error)
            failed += 1
        else:
            assert found is not None and torch.equal(found[1]["trained"]["a"], torch.ones(300)), place
    assert failed > 500


def test_the_newest_checkpoints_stay_and_a_damaged_one_costs_no_more_than_itself(tmp_path: Path) -> None:
    for round in (5, 10, 15, 100_000):
        runs.save_checkpoint(tmp_path, {"round": round}, keep=3)
    names = [path.name for path in runs.checkpoints(tmp_path)]
    assert names == ["state-0100000.pt", "state-0000015.pt", "state-0000010.pt"]
    newest, before, _ = runs.checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:100])
    torch.save([1, 2], before)
    seen: list[Warned] = []
    path, state = runs.load_checkpoint(tmp_path, seen.append) or pytest.fail("none found")
    assert state["round"] == 10 and path.name == "state-0000010.pt"
    assert "state-0100000.pt is damaged" in seen[0].text and seen[0].text.endswith("going on from state-0000015.pt")
    assert "is no checkpoint of a run; going on from state-0000010.pt" in seen[1].text
    # The damaged ones are of rounds that are done again: they neither stay nor push out what is whole.
    runs.save_checkpoint(tmp_path, {"round": 12}, keep=2)
    assert [path.name for path in runs.checkpoints(tmp_path)] == ["state-0000012.pt", "state-0000010.pt"]


def test_nothing_is_deleted_before_the_new_checkpoint_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = runs.save_checkpoint(tmp_path, {"round": 1}, keep=1)
    with full_disk(), pytest.raises(InputError, match="cannot write"):
        runs.save_checkpoint(tmp_path, {"round": 2, "trained": torch.zeros(500)}, keep=1)
    assert runs.checkpoints(tmp_path) == [old]
    steps: list[str] = []
    sync, unlink = os.fsync, Path.unlink
    monkeypatch.setattr(os, "fsync", lambda descriptor: (steps.append("sync"), sync(descriptor))[1])
    monkeypatch.setattr(Path, "unlink", lambda path, **o: (steps.append(path.name), unlink(path, **o))[1])
    runs.save_checkpoint(tmp_path, {"round": 2}, keep=1)
    assert [step for step in steps if not step.startswith(".")] == ["sync", "sync", old.name]


def test_guards_must_be_there_and_whole(tmp_path: Path) -> None:
    for content in (None, "{", "[]"):
        if content is not None:
            write_text(tmp_path / runs.GUARDS, content)
        with pytest.raises(InputError, match=AFRESH):
            runs.read_guards(tmp_path)
    write_json(tmp_path / runs.GUARDS, {"changed_tensors": 3})
    assert runs.read_guards(tmp_path) == {"changed_tensors": 3}


def test_paths_are_expanded_and_impossible_ones_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == tmp_path / "x"
    (tmp_path / "file").touch()
    assert user_path(tmp_path / "file" / "x") == tmp_path / "file" / "x"
    for text, why in (("~nosuchuser/x", "home directory"), ("a" * 300, "too long"), ("a\0b", "null")):
        with pytest.raises(InputError, match=f"cannot be used: .*{why}") as caught:
            user_path(text)
        assert len(str(caught.value)) < 200
    assert output_folder(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    assert not (tmp_path / "new").exists()
    for wrong in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(InputError, match="file is a file; name another one"):
            output_folder(wrong)


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path: Path):
    left = []
    for name in ("checkpoint/state-0000023.pt", "config.yaml", "DONE", "images/before/0001.png"):
        with replacing(tmp_path / name) as temporary:
            left.append(temporary)
        temporary.write_text("half")  # as if the process had died inside the block
    (tmp_path / ".hidden").write_text("the user's")
    sweep(tmp_path)
    assert [path for path in left if path.exists()] == []
    found = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert found == [".hidden", "0001.png", "DONE", "config.yaml", "state-0000023.pt"]

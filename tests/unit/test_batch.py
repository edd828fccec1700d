"""A batch: what becomes of its jobs, what is shown and summed up, and that nothing is lost. Workers are stand-ins."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from erase.batch import command
from erase.batch.command import Wishes, carry_out, preview
from erase.batch.engines import ENGINES, Local, Resources, environments, open_local, open_ray
from erase.batch.place import Place, history
from erase.batch.scheduler import Status, Watcher, carry_out_all
from erase.batch.table import Progress, Table, clock
from erase.batch.task import Run, Task, begin
from erase.batch.worker import LONGEST, Ended, last_error
from erase.cli import main
from erase.errors import AFRESH, EraseError, InputError, Interrupted
from erase.events import never
from erase.report.summary import Entry, render, scatter_svg
from erase.terminal import standings
from tests.unit.test_matrix import written
from tests.unit.test_report import report as make_report

Story = Callable[[Task, int], "list[Ended | None] | InputError"]


class Actor:
    """A job that ends as its story tells: at each look None, or its end; a stop ends it with 130."""

    def __init__(self, looks: list[Ended | None]) -> None:
        self.looks, self.stopped, self.killed = looks, False, False

    def poll(self) -> Ended | None:
        if self.stopped:
            return Ended(130, "stopped")
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.killed = True


class Stage:
    """Begins actors, and notes every beginning and how many were at work at once."""

    def __init__(self, story: Story) -> None:
        self.story, self.begun, self.actors = story, list[tuple[str, Mapping[str, str]]](), list[Actor]()
        self.aside: list[str] = []

    def __call__(self, task: Task, environment: Mapping[str, str]) -> Actor:
        self.begun.append((task.name, environment))
        self.aside += [task.name] * task.aside
        looks = self.story(task, sum(name == task.name for name, _ in self.begun))
        if isinstance(looks, InputError):
            raise looks
        self.actors.append(Actor(looks))
        return self.actors[-1]


def tasks(*names: str) -> list[Task]:
    return [Task(name, *(Path(part) for part in ("run", "settings", "log", "cache"))) for name in names]


def played(story: Story, *names: str, retries: int = 2, stop: Callable[[], bool] = never) -> tuple[dict, Stage]:
    stage = Stage(story)
    found = carry_out_all(tasks(*names), Local([{"W": "0"}, {"W": "1"}], stage), retries, stop, Watcher())
    return {name: (status.state, status.attempts, status.error) for name, status in found.items()}, stage


DONE, WORK, CRASH, REFUSED = Ended(0), None, Ended(-11, "ended by SIGSEGV"), Ended(2, "no such concept")


def test_one_failure_stops_no_other_and_broken_ones_are_tried_again() -> None:
    stories = {
        "good": [[WORK, DONE]],
        "twice": [[CRASH], [WORK, CRASH], [DONE]],
        "never": [[CRASH], [CRASH], [Ended(1, "disk full")]],
        "wrong": [[WORK, REFUSED]],
        "resumed": [[CRASH], [Ended(2, f"state.pt is damaged; {AFRESH}", resumed=True)], [DONE]],
        "full": [[CRASH], [Ended(2, "cannot write state.pt: no space left", resumed=True)], [DONE]],
        "fresh": [[Ended(2, f"the model is of another run; {AFRESH}")]],
        "closed": [InputError("cannot start a worker"), [DONE]],
        "last": [[DONE]],
    }
    found, stage = played(lambda task, n: stories[task.name][n - 1], *stories)
    assert found == {
        "good": ("done", 1, ""),
        "twice": ("done", 3, ""),
        "never": ("failed", 3, "disk full"),
        "wrong": ("failed", 1, "no such concept"),
        "resumed": ("done", 3, ""),
        "full": ("done", 3, ""),
        "fresh": ("failed", 1, f"the model is of another run; {AFRESH}"),
        "closed": ("done", 2, ""),
        "last": ("done", 1, ""),
    }
    assert stage.aside == ["resumed"]  # its folder cannot be gone on with, so it begins anew; a full disk may have room


def test_each_worker_has_its_own_environment_and_no_more_run_than_there_are() -> None:
    def story(task: Task, n: int) -> list[Ended | None]:
        return [WORK] * (1 + len(task.name) % 3) + [DONE]

    names = [f"{'x' * (n % 4)}{n}" for n in range(20)]
    stage, at_work = Stage(story), list[set[str]]()
    engine = Local([{"W": "0"}, {"W": "1"}], stage)

    class Looks(Watcher):
        def tick(self) -> None:
            at_work.append({environment["W"] for _, environment in engine._running.values()})
            assert len(engine._running) + engine.free == 2
            assert len({e["W"] for _, e in engine._running.values()}) == len(engine._running)

    found = carry_out_all(tasks(*names), engine, 0, never, Looks())
    assert [name for name, _ in stage.begun] == names and {s.state for s in found.values()} == {"done"}
    assert {"0", "1"} in at_work


def test_a_stop_ends_what_runs_and_begins_nothing_more() -> None:
    looks = iter([False, False, True])
    found, stage = played(lambda task, n: [WORK], "a", "b", "c", stop=lambda: next(looks, True))
    assert [state for state, *_ in found.values()] == ["stopped"] * 3
    assert [name for name, _ in stage.begun] == ["a", "b"]
    # One that somebody else stopped is not begun again behind his back.
    found, _ = played(lambda task, n: [Ended(130, "stopped")], "a")
    assert found["a"] == ("stopped", 1, "stopped")


def test_whatever_happens_no_worker_is_left() -> None:
    class Broken(Watcher):
        def tick(self) -> None:
            raise KeyboardInterrupt

    stage = Stage(lambda task, n: [WORK])
    with pytest.raises(KeyboardInterrupt):
        carry_out_all(tasks("a", "b"), Local([{}, {}], stage), 0, never, Broken())
    assert [actor.killed for actor in stage.actors] == [True, True]


def test_workers_share_cores_and_each_has_a_gpu() -> None:
    one, four = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}
    assert environments(Resources(), 8) == [{}]
    assert environments(Resources(workers=2), 8) == [four, four]
    assert environments(Resources(workers=9), 8) == [one] * 9
    assert environments(Resources(cpus=4), 8) == [four]
    seen = [e["CUDA_VISIBLE_DEVICES"] for e in environments(Resources(gpus=("0", "3")), 8)]
    assert seen == ["0", "3"]
    seen = [e["CUDA_VISIBLE_DEVICES"] for e in environments(Resources(workers=3, gpus=("0", "3")), 8)]
    assert seen == ["0", "3", "0"]


def test_each_engine_refuses_the_others_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(ENGINES) == {"local", "ray"}
    with pytest.raises(InputError, match="are for --engine ray"):
        open_local(tmp_path, Resources(address="auto"), 0, 1)
    with pytest.raises(InputError, match="--gpus is for --engine local"):
        open_ray(tmp_path, Resources(gpus=("0",)), 0, 1)
    monkeypatch.setattr("erase.batch.engines.find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape("engine ray needs Ray: pip install 'erase[ray]'")):
        open_ray(tmp_path, Resources(), 0, 1)


def test_only_a_finished_run_ends_well_and_keeps_no_checkpoint(tmp_path: Path) -> None:
    task = Task("cat", tmp_path / "cat", tmp_path / "s.yaml", tmp_path / "log", tmp_path / "cache")
    (tmp_path / "cat" / "checkpoint").mkdir(parents=True)
    run = Run(task, Actor([DONE]), True)  # type: ignore[arg-type]
    assert run.poll() == Ended(1, f"{tmp_path / 'cat'} was left without DONE", resumed=True)
    assert (tmp_path / "cat" / "checkpoint").exists()
    (tmp_path / "cat" / "DONE").touch()
    assert run.poll() == Ended(0, resumed=True)
    assert not (tmp_path / "cat" / "checkpoint").exists()


def test_one_command_at_a_time_works_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[list[str]] = []
    monkeypatch.setattr("erase.batch.task.Worker", lambda arguments, *_, **__: begun.append(arguments))
    task = Task("cat", tmp_path / "cat", tmp_path / "s.yaml", tmp_path / "log", tmp_path / "cache")
    with (tmp_path / "log").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="belongs to a command that is at work still"):
            begin(task, {})
        threading.Timer(0.3, lambda: fcntl.flock(other, fcntl.LOCK_UN)).start()
        begin(task, {}, patience=20)
    assert begun[0][:4] == ["run", str(task.settings), "--output", str(task.folder)]
    task.folder.mkdir()
    for name in ("events.jsonl", ".config.yaml.abcdefgh.yaml"):  # killed before it had its settings
        (task.folder / name).touch()
    begin(task, {})
    assert list(task.folder.iterdir()) == [] and begun[1] == begun[0]
    (task.folder / "config.yaml").touch()
    assert begin(task, {}).resumed and begun[2][:3] == ["run", "--resume", str(task.folder)]


MATRIX = "concepts: [cat, dog]\nmethods: [uce, speed]\nseeds: [0]\noutput: OUT\n"


def finished(task: Task, n: int) -> list[Ended | None]:
    """A run that leaves a report."""
    for name in ("config.yaml", "DONE"):
        task.folder.mkdir(parents=True, exist_ok=True)
        (task.folder / name).touch()
    report = make_report()
    (task.folder / "report.json").write_text(json.dumps(report.model_dump(by_alias=True)))
    return [DONE]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(finished)
    monkeypatch.setitem(ENGINES, "local", lambda output, resources, lock, cores: Local([{}], made))
    return made


def batch(folder: Path) -> Path:
    return written(folder, MATRIX.replace("OUT", str(folder / "out")))


def test_a_batch_is_done_once_and_summed_up(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = batch(tmp_path)
    assert main(["batch", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out == f"report: {tmp_path / 'out' / 'report.html'}\n"
    assert "✓ cat-uce-s0   done" in err
    assert len(history(Place(tmp_path / "out"))) == len(stage.begun) == 4
    page = (tmp_path / "out" / "report.html").read_text()
    assert "4 runs: 4 done." in page and '<a href="dog-speed-s0/report.html">' in page
    assert main(["batch", str(path)]) == 0
    assert len(stage.begun) == 4  # nothing is done twice
    assert (tmp_path / "out" / "report.html").read_text() == page
    assert main(["batch", str(path), "--dry-run"]) == 0
    assert "4 jobs in" in capsys.readouterr().out


def test_what_failed_is_told_and_tried_again(stage: Stage, tmp_path: Path) -> None:
    path, broken = batch(tmp_path), True

    def story(task: Task, n: int) -> list[Ended | None]:
        if broken and task.name == "dog-uce-s0":
            return [Ended(1, "the <disk> is full")]
        return finished(task, n)

    stage.story = story
    with pytest.raises(EraseError, match=r"1 of 4 jobs failed \(dog-uce-s0: the <disk> is full\); .*: erase batch"):
        carry_out(path, Wishes(retries=1), never)
    assert [name for name, _ in stage.begun].count("dog-uce-s0") == 2 and len(stage.begun) == 5
    page = (tmp_path / "out" / "report.html").read_text()
    assert "the &lt;disk&gt; is full" in page and "the <disk>" not in page and "3 done, 1 failed" in page
    listed = preview(path, Wishes())
    assert (
        re.search(r"dog-uce-s0  to do, about \d+ s\n", listed) and "4 jobs in" in listed and "3 of them done" in listed
    )
    broken = False
    carry_out(path, Wishes(), never)
    assert len(stage.begun) == 6


def test_changed_settings_are_no_silent_success(stage: Stage, tmp_path: Path) -> None:
    path = batch(tmp_path)
    carry_out(path, Wishes(), never)
    path.write_text(path.read_text() + "base: {evaluate: {prompts: 30}}\n")
    with pytest.raises(InputError, match=r"evaluate.prompts was 200, now 30\); take --redo"):
        carry_out(path, Wishes(), never)
    with pytest.raises(InputError, match="made with other settings"):
        preview(path, Wishes())
    assert "cat-uce-s0  to do again" in preview(path, Wishes(redo=True))
    assert len(stage.begun) == 4
    looks = iter([False])  # stopped after the first: the others are still of other settings
    with pytest.raises(Interrupted):
        carry_out(path, Wishes(redo=True), lambda: next(looks, True))
    assert (tmp_path / "out" / "cat-uce-s0~1" / "DONE").exists()
    with pytest.raises(InputError, match="made with other settings"):
        carry_out(path, Wishes(), never)
    carry_out(path, Wishes(redo=True), never)
    assert len(stage.begun) == 8 and not (tmp_path / "out" / "cat-uce-s0~2").exists()


def test_an_old_run_that_could_not_be_put_aside_is_never_gone_on_with(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = batch(tmp_path)
    carry_out(path, Wishes(), never)
    path.write_text(path.read_text() + "base: {evaluate: {prompts: 30}}\n")
    put_aside, refused = command.places.put_aside, ["cat-uce-s0"]

    def once(folder: Path) -> Path | None:
        if folder.name in refused:
            refused.remove(folder.name)
            raise InputError("cannot put it aside: busy")
        return put_aside(folder)

    held: dict[str, bool] = {}

    def story(task: Task, n: int) -> list[Ended | None]:
        held[task.name] = task.folder.exists()
        return finished(task, n)

    monkeypatch.setattr(command.places, "put_aside", once)
    stage.story = story
    carry_out(path, Wishes(redo=True), never)
    assert not refused and held == dict.fromkeys(held, False) and len(held) == 4
    assert (tmp_path / "out" / "cat-uce-s0~1" / "DONE").exists()


def test_a_stop_says_how_to_go_on(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, looks = batch(tmp_path), iter([False])
    with pytest.raises(Interrupted) as caught:
        carry_out(path, Wishes(again=("--workers", "2")), lambda: next(looks, True))
    wanted = f"stopped; 1 of 4 jobs are done; go on with: erase batch {path} --workers 2"
    assert (str(caught.value), caught.value.exit_code) == (wanted, 130)
    assert "1 done, 3 waiting" in (tmp_path / "out" / "report.html").read_text()
    carry_out(path, Wishes(), never)
    assert len(stage.begun) == 4


def test_a_page_that_cannot_be_written_ends_no_batch(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = batch(tmp_path)
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    carry_out(path, Wishes(), never)
    assert len(stage.begun) == 4 and "warning: cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("no number"), EraseError("torn")])
def test_a_run_that_cannot_be_summed_up_ends_no_batch(
    error: Exception, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> str:
        raise error

    monkeypatch.setattr("erase.report.summary.render", broken)
    carry_out(batch(tmp_path), Wishes(), never)
    assert len(stage.begun) == 4 and f"warning: {error}" in capsys.readouterr().err


def test_the_last_page_is_written_also_where_the_engine_fails_at_its_end(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(self: Local) -> None:
        raise RuntimeError("the cluster is gone")

    pages = []
    finish = command.Board.finish
    monkeypatch.setattr(command.Board, "finish", lambda self: pages.append(finish(self)))
    monkeypatch.setattr(Local, "close", close)
    with pytest.raises(RuntimeError, match="the cluster is gone"):
        carry_out(batch(tmp_path), Wishes(), never)
    assert len(pages) == 1 and "4 runs: 4 done." in (tmp_path / "out" / "report.html").read_text()


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError, match="cannot lock .*log: No locks available"):
        begin(Task("cat", tmp_path / "cat", tmp_path / "s.yaml", tmp_path / "log", tmp_path / "cache"), {})
    with pytest.raises(InputError, match="cannot lock .*lock: No locks available"):
        carry_out(batch(tmp_path), Wishes(), never)


def test_the_remedy_at_the_end_of_a_long_error_is_kept(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"erase: error: {'/long/path' * 90} is damaged; {AFRESH}\n")
    error = last_error(tmp_path / "log", 2)
    assert len(error) <= LONGEST and error.startswith("/long/path") and error.endswith(AFRESH)


def test_a_dry_run_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom erase.cli import main\n"
        f"assert main(['batch', {str(batch(tmp_path))!r}, '--dry-run']) == 0\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gpus", "0,"], "--gpus '0,' is no list of GPUs"),
        (["--address", "auto"], "are for --engine ray"),
        (["--workers", "0"], "'0' is not between 1 and 1000"),
        (["--engine", "ray", "--gpus", "0"], "--gpus is for --engine local"),
    ],
)
def test_flags_are_checked(flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", str(batch(tmp_path)), *flags]) == 2
    assert said in capsys.readouterr().err
    text = "concepts: [cat]\nbase: {device: 'cuda:1'}"
    assert main(["batch", str(written(tmp_path, text)), "--gpus", "0"]) == 2
    assert "device cuda:1 and --gpus both choose a GPU" in capsys.readouterr().err


def test_the_flags_are_repeated_where_a_batch_is_to_be_gone_on_with(stage: Stage, tmp_path: Path) -> None:
    from erase.arguments import build_parser
    from erase.cli import HANDLERS

    flags = ["--output", "o", "--workers", "2", "--cpus-per-job", "3", "--gpus", "0,1"]
    options = build_parser(HANDLERS)[0].parse_args(["batch", "m.yaml", *flags, "--redo", "--retries", "5"])
    wished = command.wishes(options)
    assert list(wished.again) == flags  # a second --redo would do all of it once more
    assert wished == Wishes(Path("o"), "local", Resources(2, 3, ("0", "1")), 5, True, tuple(flags))


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def events(folder: Path, *lines: dict) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_the_table_shows_all_jobs_and_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    screen = Screen()
    table = Table([f"job{n}" for n in range(9)], lambda name: tmp_path / name, screen)
    now = time.monotonic()
    table.changed("job3", Status("running", 2, began=now - 61))
    table.changed("job4", Status("failed", 3, "disk full", seconds=5.0))
    table.changed("job0", Status("done", 1, seconds=100.0))
    events(tmp_path / "job3", {"event": "started", "total": 4}, {"event": "step"}, {"event": "step", "what": 3})
    shown = table.lines(5)
    assert shown[0].startswith("9 jobs: 1 running, 1 failed, 1 done, 6 waiting; 0 s, about ")
    assert shown[0].endswith("left; 5 not shown")
    assert shown[1:4] == [
        "▸ job3 running 1 min 1 s training 50 % attempt 2",
        "✕ job4 failed  5 s attempt 3 disk full",
        "✓ job0 done    1 min 40 s",
    ]
    events(
        tmp_path / "job3", {"event": "progress", "what": "sampling after", "done": 1, "total": 3}, {"event": "started"}
    )
    assert "sampling after 33 %" in table.lines(5)[1]
    table.draw()
    table.draw()
    assert "\x1b[10F\x1b[J" in screen.getvalue()
    assert max(map(len, re.sub(r"\x1b\[[^A-Z]*[A-Z]", "", screen.getvalue()).splitlines())) < 70


def test_progress_begins_at_what_a_resumed_run_adds(tmp_path: Path) -> None:
    events(tmp_path, {"event": "started", "total": 4}, {"event": "step"})
    progress = Progress(tmp_path)
    assert progress.look() == ""
    events(tmp_path, {"event": "started", "total": 2}, {"event": "step"})
    assert progress.look() == "training 50 %"


def test_a_log_gets_a_line_for_each_change(tmp_path: Path) -> None:
    out = io.StringIO()
    table = Table(["a"], lambda name: tmp_path, out)
    table.changed("a", Status("waiting", 1, "crashed", seconds=3.0))
    table.changed("a", Status("done", 2, seconds=3.0))
    table.tick()
    assert out.getvalue() == "· a waiting 3 s crashed (to be tried again)\n✓ a done    3 s attempt 2\n"
    out.close()
    table.changed("a", Status("running", 3))  # a terminal that went away is no error


def test_durations_are_read_as_people_do() -> None:
    assert [clock(s) for s in (0.4, 59.7, 3599, 7300)] == ["0 s", "1 min 0 s", "59 min 59 s", "2 h 1 min"]


def entry(folder: Path, name: str, **more: object) -> Entry:
    facts = {"concept": "cat", "method": "esd", "optimizer": "dual", "seed": 0, "setting": "", "state": "done"}
    return Entry(**{"name": name, "folder": folder / name, **facts, **more})  # type: ignore[arg-type]


def test_the_summary_is_one_file_with_intervals_pictures_and_failures(tmp_path: Path) -> None:
    report = make_report()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report.model_dump(by_alias=True)))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "report.json").write_text("{}")
    known: dict = {}
    entries = [
        entry(tmp_path, "a"),
        entry(tmp_path, "b", optimizer="shared", concept="<script>alert(1)</script>"),
        entry(tmp_path, "bad"),
        entry(tmp_path, "new", state="waiting"),
        entry(tmp_path, "lost", state="failed", error="memory ran out"),
    ]
    page = render("Batch <x>", entries, known)
    assert set(known) == {"a", "b", "bad"}
    after = report.score("forget_accuracy", "after")
    assert after and f"n {after.n}" in page
    assert "<script" not in page and "&lt;script&gt;" in page and "<title>Batch &lt;x&gt;" in page
    assert "memory ran out" in page and "report.json: " in page and "evaluate the run again" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#|a/|b/)|url\((?!#)|@import', page)
    assert page.count("<svg") == 1 and "esd dual" in page and "esd shared" in page
    (tmp_path / "a" / "report.json").unlink()
    assert render("Batch <x>", entries, known) == page  # what was read is not read again


def test_a_destroyer_stands_below_every_other_run(tmp_path: Path) -> None:
    report = make_report()
    dead = [s.model_copy(update={"value": 0.0, "low": 0.0}) if (s.name, s.arm) == ("validity", "after") else s
            for s in report.scores]  # fmt: skip
    lost = [s.model_copy(update={"value": 0.0, "low": 0.0, "high": 0.3})
            if (s.name, s.arm) == ("neighbour_accuracy", "after") else s for s in report.scores]  # fmt: skip
    for name, scores in (("dead", dead), ("lost", lost), ("alive", report.scores)):
        (tmp_path / name).mkdir()
        made = report.model_copy(update={"scores": scores})
        (tmp_path / name / "report.json").write_text(json.dumps(made.model_dump(by_alias=True)))
    entries = [entry(tmp_path, name) for name in ("dead", "lost", "alive")]
    entries.append(entry(tmp_path, "new", state="waiting"))
    page = render("Batch", entries, {})
    rows = re.findall(r'<th scope="row">(?:<a href="[^"]*">)?(\w+)', page)
    assert rows == ["alive", "new", "lost", "dead", "alive", "lost", "dead"], "the second table has judged runs alone"
    assert "<small>degenerate</small>" in page
    assert "<small>others lost</small>" in page
    told = standings([(name, [s.model_dump() for s in scores]) for name, scores in
                      (("dead", dead), ("lost", lost), ("none", []), ("alive", report.scores))])  # fmt: skip
    assert [line.split()[0] for line in told.splitlines()] == ["run", "none", "alive", "lost", "dead"]
    assert told.splitlines()[-1].split()[1] == "degenerate" and "not judged" in told


def test_the_scatter_leaves_out_what_has_no_scores(tmp_path: Path) -> None:
    report = make_report()
    lacking = report.model_copy(update={"scores": [s for s in report.scores if s.name != "retain_accuracy"]})
    whole, cut = (scatter_svg([(entry(tmp_path, "a"), r)]) for r in (report, lacking))
    assert "esd dual" in whole and "esd dual" not in cut

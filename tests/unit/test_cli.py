"""The command line: what reaches the workflow, what is printed, which code it ends with. The workflow is a stand-in."""

from __future__ import annotations

import contextlib
import io
import math
import os
import resource
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

import erase
from erase import interrupts, runs
from erase.cli import HANDLERS, main
from erase.errors import EraseError, InputError, Interrupted
from erase.events import Finished, Preview, Progress, Saved, Scored, Started, Step, Warned
from erase.terminal import Listener, score_table, stopping_on_signals

SCORE = {"name": "forget_accuracy", "arm": "after", "value": 0.01, "low": 0.0, "high": 0.04, "n": 200}
SCORE |= {"higher_is_better": False}


@pytest.fixture
def workflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.SimpleNamespace:
    """A workflow whose verbs note their arguments in `calls` and succeed."""
    calls: list[tuple[str, tuple, dict]] = []

    def verb(name: str, result: object):
        def call(*args: object, **kwargs: object) -> object:
            calls.append((name, args, kwargs))
            return result

        return call

    fake = types.SimpleNamespace(
        calls=calls,
        erase=verb("erase", tmp_path / "run"),
        resume=verb("resume", tmp_path / "run"),
        evaluate=verb("evaluate", [SCORE]),
        export=verb("export", tmp_path / "out"),
        generate=verb("generate", [tmp_path / "a.png", tmp_path / "b.png"]),
    )
    monkeypatch.setattr("erase.catalogue.listing", verb("listing", [("esd", "steer away"), ("ablation", "anchor")]))
    monkeypatch.setitem(sys.modules, "erase.workflow", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(erase, "workflow", fake, raising=False)
    return fake


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, without its prefix."""
    err = capsys.readouterr().err
    assert err.startswith("erase: error: ") and err.count("\n") == 1, err
    return err.removeprefix("erase: error: ").strip()


def test_run_without_anything_erases_the_demo_concept(workflow, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").touch()
    assert main(["run"]) == 0
    name, (config,), _ = workflow.calls[0]
    assert (name, config.model, config.concept.name) == ("erase", "world", "cat")
    assert capsys.readouterr().out == f"report: {tmp_path / 'run' / 'report.html'}\n"


def test_flags_file_and_set_reach_the_configuration(workflow, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("concept: {name: dog, anchor: cat}\ntrain: {rounds: 7}\n")
    flags = ["--method", "ga", "--kind", "object", "--keep", "fox,owl", "--output", "out", "--device", "cpu"]
    flags += ["--seed", "5", "--optimizer", "shared", "--anchor", ""]
    assert main(["run", str(path), *flags, "--set", "train.forget.lr=1e-4", "--set", "seed=6"]) == 0
    config = workflow.calls[0][1][0]
    assert (config.concept.name, config.concept.anchor, config.concept.keep) == ("dog", "", ["fox", "owl"])
    assert (config.method.name, config.train.rounds, config.train.optimizer) == ("ga", 7, "shared")
    assert (config.train.forget.lr, config.seed, config.device, config.output) == (1e-4, 6, "cpu", "out")


def test_pictures_are_kept_for_other_runs_where_asked(workflow, tmp_path):
    assert main(["run", "--cache", "kept"]) == main(["run", "--resume", str(tmp_path), "--cache", "kept"]) == 0
    assert [(name, kwargs["cache"]) for name, _, kwargs in workflow.calls] == [
        ("erase", Path("kept")),
        ("resume", Path("kept")),
    ]


def test_several_concepts_reach_the_configuration(workflow, capsys):
    assert main(["run", "--concept", "dog", "--concept", "pixel art, big", "--model", "x", "--keep", "fox"]) == 0
    sections = workflow.calls[0][1][0].concepts
    assert [(s.name, s.keep) for s in sections] == [("dog", ["fox"]), ("pixel art, big", ["fox"])]
    capsys.readouterr()
    assert main(["run", "--concept", "dog", "--concept", "cat", "--anchor", "fox"]) == 2
    assert error_of(capsys).startswith("concept.anchor: there are 2 concepts, so whose is it?")


def test_resume_takes_the_stored_settings_and_no_others(workflow, capsys, tmp_path):
    assert main(["run", "--resume", str(tmp_path)]) == 0
    capsys.readouterr()
    for given in (["--seed", "1"], ["file.yaml"]):
        assert main(["run", "--resume", str(tmp_path), *given]) == 2
        assert "leave out" in error_of(capsys)
    ((name, (folder,), _),) = workflow.calls
    assert (name, folder) == ("resume", tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rnu", "unknown command 'rnu'; did you mean 'run'?"),
        ("run --mthod esd", "unknown argument '--mthod'; did you mean '--method'?"),
        ("run --meth esd", "unknown argument '--meth'"),
        (
            "run x.yaml --set seed=1 train.batch=2",
            "unknown argument 'train.batch=2'; each KEY=VALUE needs its own --set",
        ),
        ("run --set rounds", "--set needs KEY=VALUE such as train.forget.lr=1e-4, got 'rounds'"),
        ("run --set =3", "--set needs KEY=VALUE"),
        ("run --set train..lr=3", "--set needs KEY=VALUE"),
        ("run --rounds 0", "train.rounds: must be at least 1, got '0'"),
        ("run --method esdd", "did you mean 'esd'?"),
        ("run --set train.forgt.lr=3", "train.forgt: unknown key; did you mean 'forget'?"),
        ("run no/such.yaml", "no configuration at no/such.yaml"),
        ("list method", "invalid choice: 'method'"),
        ("list", "the following arguments are required: what"),
        ("generate world", "the following arguments are required: --prompt"),
        ("generate world --prompt x --seed -1", "'-1' is not a whole number, 0 or more"),
        ("generate world --prompt x --steps 0", "'0' is not between 1 and 1000"),
        ("generate world --prompt x --guidance nan", "'nan' is not between 0 and 30"),
        ("export run", "the following arguments are required: --output"),
        ("export run --format onnx --output x", "invalid choice: 'onnx'"),
        ("export run --dtype fp8 --output x", "invalid choice: 'fp8'"),
        ("export run --format lora --rank 0 --output x", "'0' is not between 1 and 1000"),
    ],
)
def test_bad_input_is_one_line_and_code_2_and_nothing_runs(line, said, workflow, capsys):
    assert main(line.split()) == 2
    assert said in error_of(capsys)
    assert workflow.calls == []


def test_several_problems_come_together(workflow, capsys):
    assert main(["check", "--method", "esdd", "--rounds", "0"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "erase: error: 2 problems"
    assert len(err) == 3


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("no such concept"), 2, "no such concept"),
        (EraseError("forget loss is nan"), 1, "forget loss is nan"),
        (Interrupted("stopped after round 3"), 130, "stopped after round 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("a\nb"), 1, "unexpected RuntimeError: a b (--debug shows where)"),
        (
            type("OutOfMemoryError", (RuntimeError,), {})(),
            1,
            "out of GPU memory: take the settings for less: --memory 24gb",
        ),
    ],
)
def test_errors_end_with_their_code_and_no_traceback(error, code, said, workflow, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(workflow, "erase", fail)
    assert main(["run"]) == code
    assert error_of(capsys).startswith(said)
    for line in (["--debug", "run"], ["run", "--debug"]):
        assert main(line) == code
        assert "Traceback" in capsys.readouterr().err


def test_a_stopped_run_says_how_to_go_on(workflow, capsys, monkeypatch):
    def stopped(config, on_event, should_stop, group):
        on_event(Started(folder=Path("runs/x"), total=4))
        os.kill(os.getpid(), signal.SIGINT)
        assert should_stop()
        on_event(Finished(folder=Path("runs/x"), complete=False))
        return Path("runs/x")

    monkeypatch.setattr(workflow, "erase", stopped)
    assert main(["run"]) == 130
    assert "error: stopped; continue with: erase run --resume runs/x\n" in capsys.readouterr().err


def test_the_second_interrupt_quits_at_once(workflow, capsys, monkeypatch):
    def stubborn(config, on_event, should_stop, group):
        on_event(Started(folder=Path("runs/x"), total=4))
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still running")

    monkeypatch.setattr(workflow, "erase", stubborn)
    assert main(["run"]) == 130
    assert "error: interrupted; continue with: erase run --resume runs/x\n" in capsys.readouterr().err


def test_an_interrupt_that_was_swallowed_while_importing_is_not_lost(workflow, capsys, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupts.remember()
        with contextlib.suppress(KeyboardInterrupt):  # as a callback of the import machinery does
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        assert main(["run", "--concept", "cat"]) == 130 and not workflow.calls
        assert error_of(capsys) == "interrupted"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert main(["run", "--concept", "cat"]) == 0  # the next command is another one
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupts.remember()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as nohup wants it
    finally:
        signal.signal(signal.SIGINT, before)


def test_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stopping_on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_eval_export_generate_and_list_hand_over_and_print(workflow, capsys):
    assert main(["eval", "runs/x"]) == 0
    assert "forget_accuracy          0.010 [0.000, 0.040] n=200  lower is better" in capsys.readouterr().out
    assert main(["export", "runs/x", "--format", "diffusers", "--output", "out"]) == 0
    assert workflow.calls[-1][:2] == ("export", (Path("runs/x"), "diffusers", Path("out"), None, None))
    assert capsys.readouterr().out.endswith("out\n")
    assert main(["export", "r", "--format", "lora", "--dtype", "fp16", "--rank", "8", "--output", "a.safetensors"]) == 0
    assert workflow.calls[-1][1] == (Path("r"), "lora", Path("a.safetensors"), "fp16", 8)
    capsys.readouterr()
    line = ["generate", "world", "--prompt", "a cat", "--prompt", "a dog", "--seed", "3", "--seed", "4", "--steps", "9"]
    assert main(line) == 0
    _, (source,), given = workflow.calls[-1]
    assert (source, given["prompts"], given["seeds"], given["steps"]) == ("world", ["a cat", "a dog"], [3, 4], 9)
    assert capsys.readouterr().out.splitlines()[1].endswith("b.png")
    assert main(["generate", "world", "--prompt", "a"]) == 0
    assert workflow.calls[-1][2]["seeds"] == [0]
    capsys.readouterr()
    assert main(["list", "methods"]) == 0
    assert capsys.readouterr().out == "esd       steer away\nablation  anchor\n"


def test_judges_prompts_and_roles_reach_the_configuration_and_the_eval(workflow, capsys, tmp_path):
    (tmp_path / "a.csv").write_text("prompt\na cat\n")
    flags = ["--judge", "clip:ViT-B-32,weights=x", "--judge", "nudenet", "--prompts", f"general={tmp_path / 'a.csv'}"]
    assert main(["run", "--model", "m", "--concept", "cat", *flags, "--cache", "kept"]) == 0
    _, (config,), given = workflow.calls[-1]
    assert config.evaluate.judges == ["clip:ViT-B-32,weights=x", "nudenet"] and given["cache"] == Path("kept")
    assert config.evaluate.files == [f"general={tmp_path / 'a.csv'}"] and config.evaluate.roles is None
    more = ["--roles", "all", "--synonyms", "kitty,tom", "--count", "400", "--seeds", "2"]
    assert main(["eval", "r", *flags, *more]) == 0
    asked = {"evaluate.judges": flags[1:4:2], "evaluate.files": flags[5:], "evaluate.roles": "all"}
    asked |= {"concept.synonyms": "kitty,tom", "evaluate.prompts": "400", "evaluate.seeds": "2"}
    assert workflow.calls[-1][:2] == ("evaluate", (Path("r"),)) and workflow.calls[-1][2]["asked"] == asked
    assert "cache" not in workflow.calls[-1][2]
    capsys.readouterr()


def test_the_number_of_prompts_is_a_flag(workflow, capsys):
    assert main(["run", "--concept", "cat", "--count", "16", "--seeds", "3"]) == 0
    _, (config,), _ = workflow.calls[-1]
    assert (config.evaluate.prompts, config.evaluate.seeds) == (16, 3)
    capsys.readouterr()
    for flags, said in (
        (["--count", "1"], "evaluate.prompts: must be at least 2"),
        (["--count", "x"], "evaluate.prompts"),
        (["--count", "1000"], "more than the 480 sentences there are; raise evaluate.seeds (--seeds)"),
    ):
        assert main(["check", "--concept", "cat", *flags]) == 2
        assert said in error_of(capsys)


def made_runs(*folders):
    """Folders that pass for finished runs."""
    for folder in map(Path, folders):
        (folder / "model").mkdir(parents=True)
        for name in (runs.CONFIG, runs.MODEL):
            (folder / name).touch()


@pytest.mark.parametrize("how", [[], ["--rows"], ["--attacks", "quick"]])
def test_of_several_runs_all_are_there_before_the_first_is_judged(how, workflow, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    made_runs("runs/a", "runs/b", "runs/c")
    for name in ("a", "c"):
        (Path("runs") / name / runs.ROWS).touch()
    (Path("runs/c") / runs.MODEL).unlink()
    Path("link").symlink_to("runs/a")
    for named, said in (
        (["runs/a", "runs/typo"], "runs/typo is no run folder: it has no config.yaml"),
        (["runs/a", "runs/c"], "runs/c has no trained model yet; finish it with: erase run --resume runs/c"),
        (["runs/a", "runs/a"], "runs/a is named twice; name each run once"),
        (["runs/a", "runs/b/../a"], "runs/a is named twice, also as runs/b/../a; name each run once"),
        (["runs/a", "link"], "runs/a is named twice, also as link; name each run once"),
        (["runs/a", "runs/b"], "runs/b has no rows.jsonl: it was never judged; leave out --rows"),
    ):
        if "never judged" not in said or how == ["--rows"]:
            assert main(["eval", *named, *how]) == 2
            assert error_of(capsys) == said
    assert not workflow.calls


def test_several_runs_are_judged_with_one_set_of_the_bases_pictures(workflow, capsys, monkeypatch, tmp_path):
    pages = []
    monkeypatch.chdir(tmp_path)
    made_runs("runs/a", "runs/b", "runs/c")
    monkeypatch.setattr("erase.report.comparison.write_comparison", lambda *given: pages.append(given) or given[1])
    assert main(["eval", "runs/a", "runs/b"]) == 0
    assert pages == [([Path("runs/a"), Path("runs/b")], Path("runs/comparison.html").absolute())]
    assert [call[1] for call in workflow.calls] == [(Path("runs/a"),), (Path("runs/b"),)]
    assert {call[2]["cache"] for call in workflow.calls} == {Path("runs/.before").absolute()}
    out = capsys.readouterr().out
    assert out.index("runs/a") < out.index("forget_accuracy") < out.index("runs/b") < out.rindex("forget_accuracy")
    workflow.rescore = lambda folder, on_event: [SCORE]
    assert main(["eval", "runs/a", "--rows"]) == 2 and "it was never judged" in error_of(capsys)
    Path("runs/a/rows.jsonl").touch()
    assert main(["eval", "runs/a", "--rows"]) == 0 and "forget_accuracy" in capsys.readouterr().out
    assert main(["eval", "runs/a", "--rows", "--judge", "clip"]) == 2
    assert "--rows computes scores of the pictures that there are" in error_of(capsys)
    caches = []
    workflow.attack = lambda folder, **more: caches.append(more["cache"]) or [SCORE]
    pages.clear()
    assert main(["eval", "runs/a", "--attacks", "quick"]) == 0 and not pages
    assert main(["eval", "runs/a", "--attacks", "quick", "--cache", "kept"]) == 0 and not pages
    assert main(["eval", "runs/a", "runs/b", "--attacks", "quick"]) == 0
    assert pages == [([Path("runs/a"), Path("runs/b")], Path("runs/comparison.html").absolute())]
    assert caches == [None, Path("kept"), *[Path("runs/.before").absolute()] * 2]
    assert "comparison: " in capsys.readouterr().out
    assert main(["eval", "runs/a", "--attacks", "quick", "--roles", "all"]) == 2
    assert "first: erase eval runs/a --roles all" in error_of(capsys)

    def stopped(folder, **more):
        if folder.name == "b":
            raise Interrupted("stopped")
        return [SCORE]

    monkeypatch.setattr(workflow, "evaluate", stopped)
    assert main(["eval", "runs/a", "runs/b", "runs/c", "--judge", "clip:model=a b"]) == 130
    again = "stopped; start again with: erase eval runs/b runs/c --judge 'clip:model=a b'"
    assert error_of(capsys) == f"{again}; then all on one page: erase eval runs/a runs/b runs/c --rows"
    assert main(["eval", "runs/b", "runs/c", "--cache", "kept here", "--offline"]) == 130
    assert error_of(capsys).endswith("erase eval runs/b runs/c --cache 'kept here' --offline")
    monkeypatch.setattr("erase.golds.evaluate", stopped)
    assert main(["eval", "runs/b", "--gold", "g/0", "--gold", "g/1"]) == 130
    assert error_of(capsys).endswith("erase eval runs/b --gold g/0 --gold g/1")
    given = []
    monkeypatch.setattr("erase.golds.attack", lambda folder, **more: given.append(more) or stopped(folder))
    words = ["--attacks", "quick", "--attack", "p4d", "--gold", "g/0", "--cache", "kept"]
    assert main(["eval", "runs/b", *words]) == 130
    assert error_of(capsys).endswith(f"erase eval runs/b {' '.join(words)}")
    assert [given[0][key] for key in ("level", "names", "golds", "cache")] == ["quick", ["p4d"], ["g/0"], Path("kept")]
    for more in (["runs/c"], ["--rows"], ["--judge", "clip"]):
        assert main(["eval", "runs/b", *more, *words]) == 2
    assert len(given) == 1


def test_an_eval_that_was_stopped_is_not_reported_as_done(workflow, capsys, monkeypatch):
    def stopped(folder, on_event, should_stop, group):
        os.kill(os.getpid(), signal.SIGINT)
        return [SCORE]

    monkeypatch.setattr(workflow, "evaluate", stopped)
    assert main(["eval", "runs/x"]) == 130
    assert capsys.readouterr().out == ""

    def early(folder, on_event, should_stop, group):
        raise Interrupted("stopped while sampling after, 16 of 60 pictures done")

    monkeypatch.setattr(workflow, "evaluate", early)
    assert main(["eval", "runs/x"]) == 130
    said = "stopped while sampling after, 16 of 60 pictures done; start again with: erase eval runs/x"
    assert error_of(capsys) == said


def test_an_eval_ends_in_every_process_where_one_was_told_to(workflow, capsys, monkeypatch):
    class Told:  # by a signal that this process has not got
        size, main, patience = 2, True, 25.0

        def any(self, flag):
            return True

    monkeypatch.setattr("erase.eval_command.joined", lambda: contextlib.nullcontext(Told()))
    monkeypatch.setattr(workflow, "evaluate", lambda *_, **__: [SCORE])
    assert main(["eval", "runs/x"]) == 130
    assert error_of(capsys) == "stopped; start again with: erase eval runs/x"


def test_check_prints_what_run_would_take(workflow, capsys, tmp_path):
    assert main(["check", "--concept", "dog", "--set", "train.rounds=3"]) == 0
    stored = tmp_path / "x.yaml"
    stored.write_text(capsys.readouterr().out)
    assert main(["run", str(stored)]) == 0
    assert main(["run", "--concept", "dog", "--rounds", "3"]) == 0
    assert workflow.calls[0][1] == workflow.calls[1][1]


def test_world_hands_stages_over_and_shows_their_state(monkeypatch, capsys, tmp_path):
    calls = []
    fake = types.SimpleNamespace(STAGES={"vae": None, "unet": None}, rebuild=lambda *a, **k: calls.append((a, k)))
    monkeypatch.setitem(sys.modules, "erase.world.recipe", fake)  # type: ignore[arg-type]
    monkeypatch.setattr("erase.world.recipe", fake, raising=False)
    monkeypatch.setattr("erase.runtime.pick_device", lambda wanted: f"<{wanted}>")
    (tmp_path / "durations.json").write_text('{"vae": 61.4}')
    assert main(["world", "--status", "--build", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "vae   61 s\nunet  to do\n"
    assert calls == []
    (tmp_path / "durations.json").write_text('["vae"]')
    assert main(["world", "--status", "--build", str(tmp_path)]) == 2
    assert "durations.json is damaged" in error_of(capsys)
    assert main(["world", "--output", "w", "--build", "b", "--stage", "vae", "--device", "cpu"]) == 0
    assert calls == [((Path("w"),), {"build": Path("b"), "stages": ["vae"], "device": "<cpu>", "deadline": math.inf})]


@pytest.mark.parametrize("name", HANDLERS)
def test_every_command_has_help_with_examples(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"examples:\n  erase {name}" in text


def test_no_command_shows_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [1, 5000])
def test_a_reader_who_leaves_is_no_error(rows):
    # Many rows fail while they are printed, a single one only when the buffer is flushed at the end.
    code = (
        "import sys, types, erase\n"
        f"rows = [('x' * 40, 'y')] * {rows}\n"
        "erase.catalogue = sys.modules['erase.catalogue'] = types.SimpleNamespace(listing=lambda what: rows)\n"
        "from erase.cli import main\n"
        "sys.exit(main(['list', 'methods']))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as process:
        process.stdout.close()  # type: ignore[union-attr]
        assert process.stderr.read() == b""  # type: ignore[union-attr]
        assert process.wait() == 0


def children_seconds() -> float:
    """CPU time of all processes started and waited for, which other work changes less than the clock's."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_importing_the_command_line_loads_nothing_heavy_and_is_quick():
    code = "import sys, erase.cli; print([m for m in ('torch', 'diffusers', 'pydantic', 'tqdm') if m in sys.modules])"
    before = children_seconds()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "[]\n"
    # Generous; torch alone takes longer than this.
    assert children_seconds() - before < 1.5


@pytest.mark.parametrize("line", ["check", "check --concept catt", "--help", "run --help"])
def test_checks_and_help_load_no_torch_and_are_quick(line):
    code = (
        "import contextlib, sys\nfrom erase.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({line.split()})\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    before = children_seconds()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "False"
    assert children_seconds() - before < 2  # 0.1 s for help and 0.4 s for a check


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--concept", "unicorn"], "'unicorn' is not in the bundled world"),
        (["--concept", "cat", "--kind", "style"], "is of kind object"),
        (["--concept", "cat", "--anchor", "kitten"], "'kitten' is the concept itself"),
        (["--concept", "cat", "--anchor", "flat"], "is of kind style"),
        (["--concept", "cat", "--keep", "kitten"], "'kitten' is the concept itself"),
        (["--concept", "cat", "--keep", "dog,flat"], "'flat' is of kind style"),
        (["--concept", "cat", "--concept", "dog", "--concept", "Kitten"], "concept: 'cat' is given twice"),
        (["--concept", "cat", "--concept", "flat"], "cat and flat are objects and styles"),
        (
            ["--set", "concept=[{name: cat, keep: [owl]}, owl]"],
            "concept.keep: 'owl' is to be erased as well",
        ),
        (["--set", "concept=[{name: cat, anchor: dog}, dog]"], "concept.anchor: 'dog' is to be erased as well"),
        (["--set", "concept=[cat, dog]", "--set", "evaluate.prompts=3"], "too few for 2 concepts; two each"),
        (["--set", "concept=[cat, dog]", "--set", "train.pool.forget=1"], "train.pool.forget 1 is too few for 2"),
        (["--set", "evaluate.prompts=1000"], "more than the 480 sentences"),
        (["--set", "evaluate.prompts=1"], "must be at least 2"),
        (["--set", "method.parameters=("], "valid regular expression"),
        (["--output", "a" * 300], "cannot be used: File name too long"),
        (["--model", "~nosuchuser/x", "--concept", "cat"], "cannot be used: "),
    ],
)
def test_check_finds_what_needs_no_model(flags, said, capsys):
    assert main(["check", *flags]) == 2
    assert said in error_of(capsys)


def test_check_takes_any_concept_of_another_model_and_warns_of_what_is_unused(capsys):
    assert main(["check", "--model", "some/model", "--concept", "unicorn", "--optimizer", "joint"]) == 0
    err = capsys.readouterr().err
    assert err == "warning: train.retain.warmup 20 is unused: joint has one optimizer, forget's\n"


def test_check_says_how_the_world_calls_what_was_named(capsys):
    assert main(["check", "--concept", "Kitten"]) == 0
    assert capsys.readouterr().err == "warning: 'Kitten' is trained and judged as 'cat', its name in the world\n"


def test_check_knows_what_earlier_runs_erased(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text("concept: [puppy, lion]\n")
    chain = ["check", "--model", str(tmp_path)]
    assert main([*chain, "--concept", "dog", "--concept", "cat"]) == 0
    said = capsys.readouterr().err
    assert said == "warning: 'dog' was erased by an earlier run already; this one begins from what is left of it\n"
    assert main([*chain, "--concept", "cat", "--keep", "fox,lion"]) == 2
    assert error_of(capsys) == "concept.keep: 'lion' was erased by an earlier run; name another one"
    assert main([*chain, "--concept", "cat", "--anchor", "dog"]) == 2
    assert error_of(capsys) == "concept.anchor: 'dog' was erased by an earlier run; name another one"


def test_the_help_of_check_says_what_is_not_checked(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    assert "whether the pattern of method.parameters matches any" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("path", ["~nosuchuser/x", "a" * 300, "nul\0x", "file/x"])
@pytest.mark.parametrize(
    "line",
    [
        "run PATH",
        "run --resume PATH",
        "check PATH",
        "eval PATH",
        "export PATH --output out",
        "export run --output PATH",
        "generate world --output PATH --prompt x",
        "world --output PATH --stage none",
        "world --build PATH --stage none",
    ],
)
def test_a_path_that_cannot_be_is_one_line_and_code_2(line, path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main([path if word == "PATH" else word for word in line.split()]) == 2
    said = error_of(capsys)
    assert len(said) < 200
    if path == "file/x" and "--output PATH --" in line:
        assert said == f"file/x cannot be a folder: {tmp_path}/file is a file; name another one"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "erase", "rnu"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("erase: error: unknown command 'rnu'; did you mean 'run'?")


def test_a_bar_shows_both_losses_and_tasks_and_notes_appear(monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    with Listener() as listener:
        listener(Progress(what="pool", done=1, total=1))
        listener(Started(folder=Path("runs/x"), total=2, model="Stable Diffusion 2 (it says so)"))
        listener(Step(step=0, role="forget", loss=0.25, grad_norm=1, lr=1, seconds=1))
        listener(Step(step=1, role="retain", loss=0.5, grad_norm=1, lr=1, seconds=1))
        listener(Preview(step=1, images=Path("p.png")))
        listener(Warned(text="prompt too long"))
        listener(Progress(what="judging", done=3, total=4))
        listener(Saved(path=Path("report.html")))
        listener(Saved(path=Path("checkpoint/state.pt")))
        listener(Scored(scores=[SCORE]))
        listener(Finished(folder=Path("runs/x")))
    text = screen.getvalue()
    for part in (
        "model: Stable Diffusion 2 (it says so)\n",
        "run folder: runs/x",
        "pool: 100%",
        "warning: prompt too long",
        "preview: p.png",
        "judging:",
        "2/2",
    ):
        assert part in text, part
    assert "forget 0.2500, retain 0.5000" in text
    assert "saved report.html" in text and "state.pt" not in text
    assert listener.scores == [SCORE] and listener.complete


def test_a_terminal_that_goes_away_does_not_end_the_run(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    for quiet in (False, True):
        with Listener(quiet=quiet) as listener:
            listener(Started(folder=Path("runs/x"), total=2))
            listener(Warned(text="prompt too long"))
            listener(Finished(folder=Path("runs/x"), complete=False))
        assert listener.folder == Path("runs/x") and not listener.complete


def test_quiet_leaves_warnings(monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    with Listener(quiet=True) as listener:
        listener(Started(folder=Path("runs/x"), total=2))
        listener(Progress(what="pool", done=1, total=2))
        listener(Warned(text="prompt too long"))
        listener(Saved(path=Path("report.html")))
    assert screen.getvalue() == "warning: prompt too long\n"


def test_a_score_without_an_interval_is_not_shown():
    before = {**SCORE, "arm": "before", "value": 1.0, "low": 0.98, "high": 1.0}
    told = score_table([{**SCORE, "p": 0.01, "p_holm": 0.0312}]).splitlines()[1]
    assert told.endswith("better, p 0.031 (Holm)")
    text = score_table([before, SCORE, {**SCORE, "name": "validity", "low": None}])
    assert "validity" not in text
    assert " ".join(text.splitlines()[1].split()) == (
        "forget_accuracy 1.000 [0.980, 1.000] n=200 0.010 [0.000, 0.040] n=200 lower is better"
    )

"""The main job on the bundled world, short: erase, judge, report, export, resume, and what is refused.

Run: pytest tests/integration/test_workflow.py
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from erase import cli, runs, workflow
from erase.config import load_config
from erase.errors import EraseError, InputError, Interrupted
from erase.evaluation.features import check_pictures
from erase.evaluation.rows import read_rows, write_rows
from erase.events import Event, Step, Warned, ignore
from erase.fresh import PLACE, judged_afresh
from erase.models import load_model
from erase.prepare import load_run, prepare, prepare_request, stored_config
from erase.runtime import pick_device
from erase.sampling import Shot, at_once, first_noise, sample
from tests.integration.conftest import build_tiny
from tests.unit.test_docs import MATRICES

ROOT = Path(__file__).parents[2]
SHORT = {
    "model": "world",
    "concept": "frog",
    "train.rounds": 3,
    "train.batch": 2,
    "train.pool.forget": 4,
    "train.pool.retain": 4,
    "train.pool.steps": 3,
    "train.preview_every": 0,
    "evaluate.prompts": 5,
    "evaluate.steps": 4,
}


def short(output: Path, **changes: Any) -> Any:
    return load_config(None, {**SHORT, "output": str(output), **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workflow.erase(short(tmp_path_factory.mktemp("runs") / "frog"))


def test_a_run_leaves_everything_that_the_folder_promises(run: Path) -> None:
    for name in (runs.CONFIG, runs.EVENTS, runs.ROWS, runs.REPORT, runs.PAGE, runs.MODEL, runs.CHECKPOINTS, runs.DONE):
        assert (run / name).stat().st_size > 0, name
    report = json.loads((run / runs.REPORT).read_text())
    arms = {(s["name"], s["arm"]) for s in report["scores"]}
    names = ("forget", "retain", "neighbour", "cross")
    assert {(f"{n}_accuracy", arm) for n in names for arm in ("before", "after")} <= arms
    assert report["guards"]["changed_tensors"] > 0
    assert 0 < report["timings"]["pool_seconds"] <= report["timings"]["setup_seconds"]
    kinds = [e["event"] for e in runs.read_events(run)]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert kinds.count("step") == 6
    assert not list(run.rglob(".*")), "temporary files are left"


def test_both_arms_draw_the_same_prompts_from_the_same_noise(run: Path) -> None:
    rows = read_rows(run / runs.ROWS)
    asked = [
        [(r["role"], r["prompt_id"], r["prompt"], r["seed"], r["steps"], r["cfg"]) for r in rows if r["arm"] == arm]
        for arm in ("before", "after")
    ]
    assert asked[0] == asked[1]
    models = {"before": load_model("world"), "after": load_run(run, stored_config(run), torch.device("cpu"))[0]}
    kept: dict[str, list[np.ndarray]] = {}
    for arm, model in models.items():
        chosen = [r for r in rows if r["arm"] == arm][:3]
        kept[arm] = [np.array(Image.open(run / r["image"])).astype(int) for r in chosen]
        shots = [Shot(r["prompt"], r["prompt_id"], r["seed"]) for r in chosen]
        drawn = sample(model, shots, steps=chosen[0]["steps"], guidance=chosen[0]["cfg"])
        # The run drew them in a larger batch, whose sums round otherwise.
        assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(drawn, kept[arm], strict=True))
    assert all((a != b).any() for a, b in zip(kept["before"], kept["after"], strict=True))
    assert all(r["distances"] is None for r in rows if r["arm"] == "before")
    moved = [r["distances"] for r in rows if r["arm"] == "after"][:3]
    for was, now, found in zip(kept["before"], kept["after"], moved, strict=True):
        assert found["pixel"] == pytest.approx(float(np.sqrt(((was - now) ** 2).mean())) / 255)
        assert 0 < found["clip"] <= 2


def test_the_exported_folder_draws_the_after_pictures_in_plain_diffusers(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from diffusers import StableDiffusionPipeline

    capfd.readouterr()
    out = workflow.export(run, "diffusers", tmp_path / "frog-free")
    assert capfd.readouterr().err == ""  # the libraries' own bars say nothing of use
    assert (out / "README.md").read_text().startswith("---")
    pipe = StableDiffusionPipeline.from_pretrained(out, torch_dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    world = load_model("world")
    rows = [r for r in read_rows(run / runs.ROWS) if r["arm"] == "after"][:4]
    for row in rows:
        noise = first_noise(world, [Shot(row["prompt"], row["prompt_id"], row["seed"])])
        options = {"num_inference_steps": row["steps"], "guidance_scale": row["cfg"], "output_type": "np"}
        drawn = pipe(row["prompt"], latents=noise, **options).images[0]
        drawn = (drawn * 255).round().astype(int)
        kept = np.array(Image.open(run / row["image"])).astype(int)
        # The run drew it in a batch, whose sums round otherwise: one grey level at most.
        assert np.abs(drawn - kept).max() <= 1


def test_the_readme_draws_an_after_picture_as_it_says(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "runs/mine")
    workflow.export(run, "diffusers", tmp_path / "cat-erased")
    names: dict[str, Any] = {}
    exec(block, names)
    kept = np.array(Image.open(run / names["row"]["image"])).astype(int)
    assert names["row"]["arm"] == "after"
    assert np.abs(np.array(Image.open("after.png")).astype(int) - kept).max() <= 1


def test_the_readme_erases_from_python_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(block.replace('"evaluate.prompts": 16', '"evaluate.prompts": 2, "evaluate.steps": 2'), {})
    said = capsys.readouterr().out.split("\n")
    assert said[0] == "Started" and "Finished" in said
    assert any(line.startswith("forget_accuracy after ") for line in said)
    assert (tmp_path / "cat-erased.safetensors").is_file()


def test_export_refuses_a_folder_in_use_and_leaves_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="exists and is not empty"):
        workflow.export(run, "diffusers", tmp_path)
    with pytest.raises(InputError, match="format 'ckpt' is unknown; use diffusers"):
        workflow.export(run, "ckpt", tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_an_export_that_fails_leaves_no_folder_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("erase.export.diffusers._drop_paths", full)
    with pytest.raises(InputError, match="No space left on device"):
        workflow.export(run, "diffusers", tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted(set((ROOT / "configs").glob("*.yaml")) - set(MATRICES)), ids=lambda p: p.stem)
def test_every_configuration_runs(path: Path, tmp_path: Path) -> None:
    few = {k: v for k, v in SHORT.items() if k.startswith("train.")} | {"train.rounds": 1, "evaluate.skip": True}
    folder = workflow.erase(load_config(path, {**few, "output": str(tmp_path / "run")}))
    assert (folder / runs.DONE).exists()


@pytest.mark.parametrize("damage", ["", "newest"])
def test_a_stopped_run_resumes_to_the_same_bits(damage: str, run: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    with pytest.raises(Interrupted, match="after round 2 of 3; go on with: erase run --resume"):
        workflow.erase(
            short(tmp_path / "stopped", **{"evaluate.skip": True, "train.checkpoint_every": 1}),
            on_event=seen.append,
            should_stop=lambda: sum(isinstance(e, Step) for e in seen) >= 4,
        )
    assert not (tmp_path / "stopped" / runs.DONE).exists()
    newest, before = runs.checkpoints(tmp_path / "stopped")
    if damage:
        newest.write_bytes(newest.read_bytes()[:-1000])
    folder = workflow.resume(tmp_path / "stopped", on_event=seen.append)
    warned = [e.text for e in seen if isinstance(e, Warned) and "is damaged" in e.text]
    assert len(warned) == bool(damage) and all(text.endswith(f"going on from {before.name}") for text in warned)
    straight, resumed = load_file(run / runs.MODEL), load_file(folder / runs.MODEL)
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_a_run_stopped_while_it_was_judged_does_not_train_again(run: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    with pytest.raises(Interrupted):
        workflow.erase(
            short(tmp_path / "run"),
            on_event=seen.append,
            should_stop=lambda: any(getattr(e, "what", "") == "sampling before" for e in seen),
        )
    stopped = len(seen)
    folder = workflow.resume(tmp_path / "run", on_event=seen.append)
    assert not any(isinstance(e, Step) or getattr(e, "what", "").endswith("latents") for e in seen[stopped:])
    assert (folder / runs.DONE).exists()
    straight, resumed = ([r["image_sha"] for r in read_rows(f / runs.ROWS)] for f in (run, folder))
    assert straight == resumed
    assert json.loads((folder / runs.REPORT).read_text())["timings"]["training_seconds"] > 0


def test_a_judging_that_is_stopped_leaves_the_pictures_and_rows_that_there_were(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))

    def held() -> dict[str, bytes]:
        paths = [path for path in folder.rglob("*") if path.is_file() and path.name != runs.EVENTS]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    had, seen = held(), list[Event]()
    with pytest.raises(Interrupted):
        workflow.evaluate(
            folder,
            on_event=seen.append,
            should_stop=lambda: any(getattr(e, "what", "") == "sampling before" for e in seen),
            asked={"evaluate.steps": 1},
        )
    assert held() == had
    (folder / PLACE / "images").mkdir(parents=True)  # as a crash leaves it
    (folder / "images/before/9999.png").write_bytes(b"of an earlier judging with more prompts")
    workflow.evaluate(folder, asked={"evaluate.steps": 1})
    assert held().keys() == had.keys()
    rows = read_rows(folder / runs.ROWS)
    assert {row["steps"] for row in rows} == {1}
    check_pictures(folder, rows)
    workflow.rescore(folder)
    with pytest.raises(InputError, match="is being judged by another"), judged_afresh(folder), judged_afresh(folder):
        pass
    one, other = (folder / f"images/before/{number:04d}.png" for number in (0, 1))
    one.unlink()  # scores need no pictures
    workflow.rescore(folder)
    text = (folder / runs.ROWS).read_text()
    left = [row for row in rows if row["prompt_id"] != rows[0]["prompt_id"]]
    write_rows(folder / runs.ROWS, left)
    with pytest.raises(InputError, match="rows, and .* were judged; evaluate the run again"):
        workflow.rescore(folder)
    (folder / runs.ROWS).write_text(text)
    one.write_bytes(other.read_bytes())
    with pytest.raises(
        InputError, match=r"before/0000\.png is not the picture that was judged; evaluate the run again"
    ):
        workflow.rescore(folder)


@pytest.mark.parametrize(
    ("was", "now"), [("name: frog", "name: dog"), ("seed: 0", "seed: 1"), ("rounds: 3", "rounds: 4")]
)
def test_weights_of_other_settings_are_not_passed_off_as_the_runs(
    was: str, now: str, run: Path, tmp_path: Path
) -> None:
    finished, stopped = (Path(shutil.copytree(run, tmp_path / name)) for name in ("finished", "stopped"))
    for folder in (finished, stopped):
        text = (folder / runs.CONFIG).read_text()
        assert was in text
        (folder / runs.CONFIG).write_text(text.replace(was, now))
        (folder / runs.DONE).unlink()
    (stopped / runs.MODEL).unlink()
    with pytest.raises(InputError, match=r"trained\.safetensors was made with other settings than the run has now"):
        workflow.evaluate(finished)
    with pytest.raises(InputError, match=r"trained\.safetensors was made with other settings"):
        workflow.resume(finished)
    with pytest.raises(InputError, match=r"trained\.safetensors was made with other settings"):
        workflow.export(finished, "diffusers", tmp_path / "out")
    with pytest.raises(InputError, match=r"state-0000003\.pt was made with other settings"):
        workflow.resume(stopped)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_format_are_said_to_be_so(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "old"))
    tensors, about = runs.load_tensors(folder / runs.MODEL)
    for wrong in ({}, {**about, "format": "0"}):
        runs.save_tensors(folder / runs.MODEL, tensors, wrong)
        with pytest.raises(InputError, match="was made by a version of erase whose runs this one cannot open"):
            workflow.export(folder, "diffusers", tmp_path / "out")


def test_weights_trained_from_another_base_are_refused(tmp_path: Path) -> None:
    build_tiny().pipeline().save_pretrained(tmp_path / "tiny")
    given = {"model": str(tmp_path / "tiny"), "evaluate.skip": True, "train.forget.lr": 1e-3}
    folder = workflow.erase(short(tmp_path / "run", **given))
    other = build_tiny()
    with torch.no_grad():
        next(other.vae.parameters()).view(-1)[0] += 1
    other.pipeline().save_pretrained(tmp_path / "tiny")
    with pytest.raises(InputError, match="was made with other base weights than the run has now"):
        workflow.export(folder, "diffusers", tmp_path / "out")


@pytest.mark.parametrize("option", ["pictures", "mask_share"])
def test_an_option_set_to_null_is_one_that_was_not_given(option: str, tmp_path: Path) -> None:
    few = {**SHORT, "method": "salun", f"method.{option}": None, "evaluate.skip": True, "output": str(tmp_path / "run")}
    folder = workflow.erase(load_config(None, few))
    assert stored_config(folder).method == load_config(None, {**SHORT, "method": "salun"}).method
    workflow.export(folder, "diffusers", tmp_path / "out")


def test_a_style_can_be_erased(tmp_path: Path) -> None:
    folder = workflow.erase(short(tmp_path / "style", concept="pixel art"))
    rows = read_rows(folder / runs.ROWS)
    assert {r["domain"] for r in rows} == {"style"}
    assert all("pixel art" in r["prompt"] for r in rows if r["role"] == "forget")


def test_a_run_that_changes_nothing_is_not_called_done(tmp_path: Path) -> None:
    still = {"train.forget.lr": 1e-30, "train.retain.lr": 1e-30}
    with pytest.raises(EraseError, match="no tensor changed|probe picture is the same"):
        workflow.erase(short(tmp_path / "still", **still))
    assert not (tmp_path / "still" / runs.DONE).exists()
    assert not (tmp_path / "still" / runs.REPORT).exists()


def test_a_picture_does_not_depend_on_its_batch() -> None:
    world = load_model("world")
    shots = [Shot("a flat cat on a blue background", f"p{i}", i) for i in range(4)]
    together = sample(world, shots, steps=4, batch=4)
    alone = sample(world, shots, steps=4, batch=1)
    assert all(np.abs(a.astype(int) - b.astype(int)).max() <= 1 for a, b in zip(together, alone, strict=True))
    assert np.abs(together[0].astype(int) - together[1].astype(int)).max() > 20


def test_large_latents_are_sampled_few_at_a_time_and_on_a_gpu_more() -> None:
    def count(side: int, device: str, offload: bool = False) -> int:
        model: Any = SimpleNamespace(latent_shape=(4, side, side), device=torch.device(device), offload=offload)
        return at_once(model)

    assert [count(16, d) for d in ("cpu", "cuda")] == [32, 256]  # as many numbers as the bundled world's
    assert [count(64, d) for d in ("cpu", "mps", "cuda")] == [4, 4, 16]  # Stable Diffusion 1
    assert [count(64, "cuda", True), count(128, "cuda", True)] == [2, 1]
    assert [count(1024, d) for d in ("cpu", "cuda")] == [1, 1]


def test_generate_writes_a_picture_for_each_prompt_and_seed(run: Path, tmp_path: Path) -> None:
    paths = workflow.generate(str(run), ["a dog"], [1, 2], tmp_path, steps=3)
    assert len(paths) == 2
    assert all(Image.open(p).size == (64, 64) for p in paths)
    before = paths[0].read_bytes()
    with pytest.raises(InputError, match="0000-seed1.png exists; name a new folder"):
        workflow.generate("world", ["a cat"], [1], tmp_path, steps=1)
    assert paths[0].read_bytes() == before


def test_a_prompt_over_the_limit_is_a_warning(tmp_path: Path) -> None:
    seen: list[Event] = []
    workflow.generate("world", ["dog " * 60], [0], tmp_path, steps=1, on_event=seen.append)
    assert any("over the model's limit" in getattr(e, "text", "") for e in seen)


def _broken(folder: Path, damage: str) -> Path:
    """A copy of the world with one thing wrong."""
    from erase.resources import asset

    target = folder / damage
    shutil.copytree(asset("world/pipeline"), target)
    file = next((target / "vae").glob("*.safetensors"))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "headless":
        file.write_bytes(b"\xff" * 64)
    elif damage == "shapes":
        path = target / "vae" / "config.json"
        path.write_text(path.read_text().replace('"latent_channels": 16', '"latent_channels": 8'))
    else:
        (target / "model_index.json").write_text("{")
    return target


@pytest.mark.parametrize("damage", ["truncated", "headless", "shapes", "index"])
def test_a_damaged_model_is_one_line_and_no_folder(damage: str, tmp_path: Path, capsys: Any) -> None:
    broken = _broken(tmp_path, damage)
    code = cli.main(["run", "--model", str(broken), "--concept", "cat", "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert len(error.splitlines()) == 1, error
    assert not (tmp_path / "out").exists()


BAD = {
    "unknown concept": (["--concept", "unicorn"], "not in the bundled world"),
    "unknown method": (["--method", "esdd"], "esd"),
    "unknown key": (["--set", "train.roundz=3"], "rounds"),
    "no such parameter": (["--set", "method.parameters=nothing_here"], "matches no parameter"),
    "no model": (["--model", "./no/such/folder", "--concept", "cat"], "no such folder"),
    "negative rate": (["--set", "train.forget.lr=-1"], "greater than 0"),
    "zero rounds": (["--rounds", "0"], "must be at least 1"),
    "fp16 on the processor": (["--set", "train.precision=fp16-mixed", "--device", "cpu"], "needs a GPU"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_2_and_makes_no_folder(case: str, tmp_path: Path, capsys: Any) -> None:
    flags, says = BAD[case]
    code = cli.main(["run", "--output", str(tmp_path / "out"), *flags])
    error = capsys.readouterr().err
    assert code == 2, error
    assert says in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_an_output_with_another_run_is_refused(run: Path, capsys: Any) -> None:
    before = sorted(p.name for p in run.iterdir())
    assert cli.main(["run", "--output", str(run)]) == 2
    said = capsys.readouterr().err
    assert "already holds a finished run; name a new folder" in said
    assert "--resume" not in said  # it would say that there is nothing to do
    assert sorted(p.name for p in run.iterdir()) == before


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    log = runs.EventLog(tmp_path, ignore)
    log.path = full
    with pytest.raises(InputError, match="cannot write /dev/full: No space left"):
        log(Step(step=0, role="forget", loss=0.0, grad_norm=0.0, lr=0.0, seconds=0.0))


def test_a_concept_is_too_long_where_any_of_its_sentences_is(tmp_path: Path) -> None:
    words = " ".join(["cat"] * 29)  # 31 tokens with start and end; "a picture of a" makes them too many
    build_tiny().pipeline().save_pretrained(tmp_path / "tiny")
    given = {"model": str(tmp_path / "tiny"), "concept": words, "concept.keep": ["dog"]}
    job = prepare(short(tmp_path / "run", **given), torch.device("cpu"))
    (text,) = [w for w in job.warnings if "over the model's limit" in w]
    assert text.startswith(f"prompt 'a {words}"[:80]) and "...' is 4 tokens over" in text  # the longest, cut to a line
    assert len(text) < 160


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluate.prompts": 1000}, "more than the 480 sentences"),
        ({"concept.keep": ["kitten"], "concept.name": "cat"}, "'kitten' is the concept itself"),
        ({"concept.keep": ["flat"]}, "of kind style"),
        ({"concept.anchor": "kitten", "concept.name": "cat"}, "'kitten' is the concept itself"),
        ({"concept.kind": "style"}, "of kind object"),
        ({"method.parameters": "nowhere"}, "matches no parameter"),
    ],
)
def test_what_cannot_be_judged_or_trained_is_refused_before_a_folder_is_made(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    given = {**SHORT, "output": str(tmp_path / "run"), **changes}
    if any(key.startswith("concept.") for key in changes):
        given["concept.name"] = changes.get("concept.name", given["concept"])
        del given["concept"]
    with pytest.raises(InputError, match=words):
        workflow.erase(load_config(None, given))
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_a_folder_is_refused_before_one_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="cannot be"):
            workflow.erase(short(tmp_path / "run"), cache=wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_synonym_is_said_to_be_the_concept(tmp_path: Path) -> None:
    seen: list[Event] = []
    named = {"concept": "Kitten", "concept.anchor": "puppy", "concept.keep": ["owl", "bunny"], "evaluate.skip": True}
    folder = workflow.erase(short(tmp_path / "x", **named), on_event=seen.append)
    assert [e.text.split(",")[0] for e in seen if isinstance(e, Warned)][:3] == [
        "'Kitten' is trained and judged as 'cat'",
        "'puppy' is trained and judged as 'dog'",
        "'bunny' is trained and judged as 'rabbit'",
    ]
    stored = load_config(folder / runs.CONFIG).concept
    assert (stored.name, stored.anchor, stored.keep) == ("cat", "dog", ["owl", "rabbit"])


def test_settings_that_the_optimizer_leaves_unused_are_events(tmp_path: Path) -> None:
    seen: list[Event] = []
    unused = {"train.optimizer": "shared", "train.retain.lr": 1e-5, "evaluate.skip": True}
    workflow.erase(short(tmp_path / "run", **unused), on_event=seen.append)
    texts = [e.text for e in seen if isinstance(e, Warned)]
    assert "train.retain.lr 1e-05 is unused: shared has one optimizer, forget's" in texts


def test_a_run_from_the_stored_configuration_is_the_same_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load_config(run / runs.CONFIG)
    assert (stored.output, stored.device, stored.concept.kind) == (None, str(pick_device()), "object")
    assert len(stored.concept.keep) == 5
    assert json.loads((run / runs.REPORT).read_text())["config"] == stored.model_dump()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", str(run / runs.CONFIG), "--quiet"]) == 0
    (again,) = (tmp_path / "runs").iterdir()
    assert again.name.endswith("-frog-esd")
    assert (again / runs.CONFIG).read_text() == (run / runs.CONFIG).read_text()
    first, second = load_file(run / runs.MODEL), load_file(again / runs.MODEL)
    assert all(torch.equal(first[k], second[k]) for k in first)
    shas = [[r["image_sha"] for r in read_rows(folder / runs.ROWS)] for folder in (run, again)]
    assert shas[0] == shas[1]


def test_a_run_is_judged_where_its_device_is_not(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    text = (copy / runs.CONFIG).read_text()
    (copy / runs.CONFIG).write_text(re.sub(r"^device: .*$", "device: cuda:99", text, flags=re.MULTILINE))
    seen: list[Event] = []
    assert workflow.evaluate(copy, on_event=seen.append, asked={"evaluate.prompts": "3", "evaluate.seeds": "2"})
    judged = json.loads((copy / runs.REPORT).read_text())["config"]["evaluate"]
    assert (judged["prompts"], judged["seeds"]) == (3, 2), "what was asked, and not what the run began with"
    assert sum(row["role"] == "forget" for row in read_rows(copy / runs.ROWS)) == 2 * 3 * 2
    assert any("the run began on cuda:99, which is not here" in getattr(e, "text", "") for e in seen)


def test_judging_again_needs_the_guards_and_fitting_weights(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / runs.REPORT).unlink()
    tensors, about = runs.load_tensors(copy / runs.MODEL)
    name = sorted(tensors)[0]
    cases = (
        ({k: v for k, v in tensors.items() if k != name}, "1 tensors too many or missing"),
        ({**tensors, "extra": torch.zeros(1)}, "1 tensors too many or missing: extra"),
        ({**tensors, name: torch.zeros(3)}, "does not fit this model"),
        ({**tensors, name: torch.full_like(tensors[name], float("nan"))}, "holds NaN"),
    )
    for wrong, words in cases:
        runs.save_tensors(copy / runs.MODEL, wrong, about)
        for verb in (workflow.evaluate, lambda folder: workflow.export(folder, "diffusers", tmp_path / "out")):
            with pytest.raises(InputError, match=words):
                verb(copy)
    runs.save_tensors(copy / runs.MODEL, tensors, about)
    workflow.evaluate(copy)
    report = json.loads((copy / runs.REPORT).read_text())
    assert report["guards"]["changed_tensors"] > 0
    (copy / runs.GUARDS).unlink()
    with pytest.raises(InputError, match=r"guards\.json is missing or damaged"):
        workflow.evaluate(copy)


def test_a_cache_in_the_home_folder_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    job = prepare(short(tmp_path / "run"), torch.device("cpu"), Path("~/cache"))
    assert job.cache == tmp_path / "cache"


def test_cached_pictures_of_the_base_give_the_same_rows_and_damage_is_no_harm(tmp_path: Path) -> None:
    found = []
    for number in range(3):
        seen: list[Event] = []
        folder = workflow.erase(short(tmp_path / f"{number}"), on_event=seen.append, cache=tmp_path / "cache")
        rows = read_rows(folder / runs.ROWS)
        found.append([(r["arm"], r["prompt_id"], r["image_sha"]) for r in rows])
        sampled = any(getattr(e, "what", "") == "sampling before" for e in seen)
        assert sampled == (number != 1)
        (kept,) = (tmp_path / "cache").iterdir()
        if number == 1:
            kept.write_bytes(kept.read_bytes()[:100])
    assert found[0] == found[1] == found[2]


def test_an_unjudged_run_has_pictures_a_page_and_a_card(tmp_path: Path) -> None:
    folder = workflow.erase(short(tmp_path / "run", **{"evaluate.skip": True}))
    report = json.loads((folder / runs.REPORT).read_text())
    assert report["scores"] == []
    assert len(report["images"]) == 8
    page = (folder / runs.PAGE).read_text()
    assert "Nothing was judged" in page and page.count("data:image/png") == 16
    out = workflow.export(folder, "diffusers", tmp_path / "out")
    assert "Nothing was judged" in (out / "README.md").read_text()
    assert (out / "before_after.png").stat().st_size > 0


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04N."])
def test_a_damaged_checkpoint_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / runs.CHECKPOINTS / "state-0000001.pt"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged|no checkpoint"):
        runs.load_checkpoint(tmp_path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="is no checkpoint of a run"):
        runs.load_checkpoint(tmp_path)


def test_a_run_on_another_model_has_pictures_a_page_and_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    build_tiny().pipeline().save_pretrained(tmp_path / "tiny")
    given = {**SHORT, "model": "tiny", "concept": "Van Gogh", "concept.kind": "style", "train.forget.lr": 1e-3}
    seen: list[Event] = []
    folder = workflow.erase(load_config(None, given), on_event=seen.append)
    assert any("no judge is named for this model" in getattr(e, "text", "") for e in seen)
    assert load_config(folder / runs.CONFIG).model == str(tmp_path / "tiny")
    report = json.loads((folder / runs.REPORT).read_text())
    assert report["scores"] == []
    # The pairs are of the same prompts and seeds, and each is in both folders.
    assert [p["prompt"] for p in report["images"]][:4] == ["a picture in Van Gogh style"] * 4
    assert [p["seed"] for p in report["images"]] == list(range(8))
    paths = [p[arm]["path"] for p in report["images"] for arm in ("before", "after")]
    assert len(set(paths)) == 16 and all((folder / path).is_file() for path in paths)
    assert (folder / runs.PAGE).is_file() and (folder / runs.DONE).is_file()
    with pytest.raises(InputError, match="has no judges of its own; name one: erase eval"):
        workflow.evaluate(folder)
    card = workflow.export(folder, "diffusers", tmp_path / "out") / "README.md"
    assert "Van Gogh" in card.read_text() and str(tmp_path) not in card.read_text()


def test_neighbours_are_nearest_in_whole_sentences(tmp_path: Path) -> None:
    """By the raw cosine of a bare "a cat" they were trumpet, hammer and coffin."""
    (concept,) = prepare_request(short(tmp_path / "x", concept="cat"), load_model("world")).concepts
    assert concept.keep[0] == "fox"
    assert not {"trumpet", "hammer", "coffin"} & set(concept.keep)

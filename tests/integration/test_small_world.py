"""A small world at a few steps: which pictures it is trained on, that it stops and goes on, and that it is a model.

Run: pytest tests/integration/test_small_world.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from erase import runs, workflow
from erase.cli import main
from erase.config import load_config
from erase.errors import InputError, Interrupted
from erase.models import load_model
from erase.world.small import Recipe, build, scenes_of, train_small
from erase.world.vocabulary import FULL, OBJECT_NAMES, SMALL, STYLE_NAMES

CPU = torch.device("cpu")
TINY = Recipe(without="cat", seed=3, steps=4, batch=2)
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained in two sittings."""
    folder = tmp_path_factory.mktemp("small") / "world"
    steps = iter([False, True])
    with pytest.raises(Interrupted, match="the same command goes on"):
        train_small(folder, TINY, CPU, lambda: next(steps))
    assert [path.name for path in folder.iterdir()] == ["build"]
    train_small(folder, TINY, CPU)
    return folder


def test_a_concept_left_out_is_neither_shown_nor_told() -> None:
    cat, fox, pixels = OBJECT_NAMES.index("cat"), OBJECT_NAMES.index("fox"), STYLE_NAMES.index("pixel art")
    told, shown = scenes_of(SMALL)
    assert len(told) == 12 * 4 * 8 * 9 and torch.equal(told.object, shown.object)
    told, shown = scenes_of(SMALL.leaving_out("cat"))
    assert len(told) == 11 * 4 * 8 * 9 and cat not in told.object and cat not in shown.object
    told, shown = scenes_of(SMALL.leaving_out("cat=fox"))
    assert len(told) == 12 * 4 * 8 * 9 and cat not in shown.object
    assert torch.equal(shown.object[told.object == cat].unique(), torch.tensor([fox]))
    assert torch.equal(shown.object[told.object != cat], told.object[told.object != cat])
    told, shown = scenes_of(SMALL.leaving_out("pixel art"))
    assert len(told) == 12 * 3 * 8 * 9 and pixels not in shown.style and pixels not in told.style


def test_two_sittings_give_the_bits_of_one(small: Path, tmp_path: Path) -> None:
    train_small(tmp_path / "straight", TINY, CPU)
    train_small(tmp_path / "other", Recipe(without="cat", seed=4, steps=4, batch=2), CPU)
    first, second, other = (load_file(place / WEIGHTS) for place in (small, tmp_path / "straight", tmp_path / "other"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])


def test_the_folder_is_a_world_with_the_bundled_text_encoder(small: Path) -> None:
    model, bundled = load_model(str(small)), load_model("world")
    assert model.vocabulary == SMALL.leaving_out("cat") and bundled.vocabulary == FULL
    assert model.world and "11 objects and 4 styles, without cat" in model.title
    assert sum(p.numel() for p in model.unet.parameters()) == sum(p.numel() for p in build().parameters()) < 4_000_000
    assert model.predicts == "v_prediction"
    for part in ("text_encoder", "vae"):
        ours, theirs = getattr(model, part).state_dict(), getattr(bundled, part).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert sorted(p.name for p in small.iterdir() if p.is_file()) == ["model_index.json", "world.json"]
    assert json.loads((small / "world.json").read_text())["recipe"]["seed"] == 3


def test_a_finished_world_is_left_alone_and_another_is_refused(small: Path, tmp_path: Path) -> None:
    before = (small / WEIGHTS).stat().st_mtime_ns
    assert train_small(small, TINY, CPU).without == "cat"
    assert (small / WEIGHTS).stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"begun with other settings \(without\); name a new folder"):
        train_small(small, Recipe(seed=3, steps=4, batch=2), CPU)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="holds other files"):
        train_small(tmp_path, TINY, CPU)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_on_it_is_judged_in_its_own_words(small: Path, tmp_path: Path) -> None:
    given = {"model": str(small), "concept": "fox", "method": "uce", "device": "cpu", "output": str(tmp_path / "run")}
    quick = {"evaluate.prompts": 12, "evaluate.steps": 2, "method.keep_prompts": 8}
    folder = workflow.erase(load_config(None, {**given, **quick}))
    rows = [json.loads(line) for line in (folder / runs.ROWS).read_text().splitlines()]
    named = {row["expected"]["object"] for row in rows}
    assert named <= set(SMALL.object_names) - {"cat"} and "fox" in named
    report = json.loads((folder / runs.REPORT).read_text())
    assert {s["name"] for s in report["scores"]} >= {"forget_accuracy", "retain_accuracy", "validity"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--small", "--without", "foxx"], "did you mean 'fox'"),
        (["--small", "--stage", "conv"], "--stage is for the whole world"),
        (["--without", "cat"], "add --small"),
        (["--seed", "1"], "add --small"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["world", *arguments, "--output", str(tmp_path / "w")]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "w").exists()

"""The world's recipe at a few steps a stage, its glyph grid and captions.

Run: pytest tests/integration/test_world.py
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F

from erase.errors import InputError, Interrupted
from erase.resources import asset
from erase.world import generator, recipe, vae
from erase.world.captions import draw_captions, encode
from erase.world.fitting import Plan, fit
from erase.world.scenes import draw_scenes, render

CPU = torch.device("cpu")


def test_the_encoder_computes_the_principal_components() -> None:
    model = vae.build()
    images = render(draw_scenes(8, torch.Generator().manual_seed(3)))
    filters, offsets = vae.principal_components()
    wanted = F.conv2d(images, filters, offsets, stride=vae.PATCH)
    with torch.no_grad():
        posterior = model.encode(images).latent_dist
    assert torch.allclose(posterior.mean, wanted, atol=5e-3)
    assert float(posterior.std.max()) < 0.02
    assert 0.8 < float(wanted.std()) < 1.2


def test_a_shift_of_the_glyph_is_a_shift_of_the_latents() -> None:
    scenes = draw_scenes(4, torch.Generator().manual_seed(4))
    scenes.column[:] = 0
    left = generator.encode_scenes(scenes).float()
    scenes.column[:] = 1
    right = generator.encode_scenes(scenes).float()
    assert torch.equal(left[..., :6], right[..., 1:7])


def test_unknown_words_fall_back_to_pieces_and_survive() -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(asset("world/pipeline/tokenizer"))
    pieces = tokenizer("zyzzyva").input_ids
    assert tokenizer.decode(pieces, skip_special_tokens=True).strip() == "zyzzyva"
    assert len(tokenizer("cat").input_ids) == 3
    ids = encode(tokenizer, draw_captions(draw_scenes(200, torch.Generator().manual_seed(0)), torch.Generator()))
    assert int((ids == tokenizer.eos_token_id).any(1).sum()) == 200, "a caption is longer than the model's limit"


def test_a_stage_cut_in_two_equals_one_run_to_the_bit(tmp_path: Path) -> None:
    def run(folder: Path, cut: bool) -> torch.Tensor:
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 4)

        def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
            return {"loss": module(torch.randn(8, 4, generator=generator)).square().mean()}

        plan = Plan("toy", steps=6, lr=1e-2, warmup=2, ema=0.9, precision="fp32")
        if cut:
            assert not fit(module, loss, plan, folder, stop_at=0.0)  # every step is past the deadline: one at a time
            module = torch.nn.Linear(4, 4)
        assert fit(module, loss, plan, folder, stop_at=math.inf)
        return module.weight.detach()

    assert torch.equal(run(tmp_path / "a", False), run(tmp_path / "b", True))


def test_the_recipe_runs_stops_and_goes_on(tmp_path: Path) -> None:
    stages = ["tokenizer", "vae", "text_encoder", "unet", "clip", "assemble"]
    options = {"build": tmp_path / "work", "stages": stages, "device": CPU, "steps": 2}
    with pytest.raises(Interrupted, match="goes on from there"):
        recipe.rebuild(tmp_path / "world", **options, deadline=time.time() - 1)
    assert set(json.loads((tmp_path / "work" / "durations.json").read_text())) == {"tokenizer", "vae"}
    recipe.rebuild(tmp_path / "world", **options)
    assert (tmp_path / "world" / "pipeline" / "model_index.json").is_file()
    assert (tmp_path / "work" / "grid-2.png").is_file()
    assert isinstance(open_clip.create_model(f"local-dir:{tmp_path / 'world/judges/clip'}"), open_clip.CLIP)
    assert max(f.stat().st_size for f in (tmp_path / "world").rglob("*.safetensors")) <= 15 * 2**20


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stage 'unett' is unknown"):
        recipe.rebuild(tmp_path, build=tmp_path / "w", stages=["unett"], device=CPU)


@pytest.mark.parametrize("stage", list(recipe.NEEDS))
def test_a_stage_whose_forerunners_are_not_done_is_refused(stage: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"build": tmp_path / "w", "stages": [stage], "device": CPU, "steps": 2}
    tmp_path.joinpath("w").mkdir()
    for needed in recipe.NEEDS[stage]:
        with pytest.raises(InputError, match=f"stage '{stage}' needs the stage '{needed}' in"):
            recipe.rebuild(tmp_path, **options)
        if needed == "tokenizer":
            recipe.rebuild(tmp_path, **{**options, "stages": [needed]})
            continue
        torch.save({"step": 1}, tmp_path / "w" / f"{needed}.pt")
        with pytest.raises(InputError, match=f"'{needed}' in .*, which is at step 1 of 2"):
            recipe.rebuild(tmp_path, **options)
        torch.save({"step": 2}, tmp_path / "w" / f"{needed}.pt")


def test_the_shipped_world_is_within_its_size() -> None:
    total = sum(f.stat().st_size for f in asset("world").rglob("*") if f.is_file())
    assert total <= 36 * 2**20

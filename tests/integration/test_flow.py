"""Stable Diffusion 3, whose transformer predicts the velocity of a flow: what is its own, beside the families' battery.

Tiny untrained pipelines. Run: pytest tests/integration/test_flow.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from erase import workflow
from erase.config import load_config
from erase.errors import InputError, Interrupted
from erase.events import Event, Step
from erase.models import FAMILIES, Model, load_model, model_hash, select
from erase.models.parameters import named
from erase.prepare import load_run, stored_config
from erase.runs import MODEL, load_tensors
from erase.sampling import first_noise, sample
from tests.integration.conftest import build_tiny
from tests.integration.test_families import SHOTS, draw
from tests.integration.test_workflow import SHORT


@pytest.fixture
def tiny() -> Model:
    return build_tiny("sd3")


@pytest.fixture
def folder(tiny: Model, tmp_path: Path) -> Path:
    tiny.pipeline().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_noise_and_velocity_are_those_of_the_flow(tiny: Model) -> None:
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    times = tiny.scheduler.timesteps[[3, 500, 999]]
    noisy, velocity = tiny.add_noise(clean, noise, times)
    assert torch.allclose(noisy, tiny.scheduler.scale_noise(clean, times, noise), atol=1e-6)
    share = (times / 1000)[:, None, None, None]
    assert torch.allclose(noisy - share * velocity, clean, atol=1e-5)
    assert torch.allclose(noisy + (1 - share) * velocity, noise, atol=1e-5)


def test_training_draws_every_time_but_that_of_a_clean_picture(tiny: Model) -> None:
    drawn = tiny.random_times(20_000, torch.Generator().manual_seed(0))
    assert (int(drawn.min()), int(drawn.max())) == (1, 1000)
    drawn = build_tiny().random_times(20_000, torch.Generator().manual_seed(0))
    assert (int(drawn.min()), int(drawn.max())) == (0, 999)


def test_a_model_without_t5_is_read_and_drawn_as_diffusers_draws_it(tiny: Model, tmp_path: Path) -> None:
    with_t5 = sample(tiny, SHOTS, steps=4)
    tiny.text_encoder_3 = tiny.tokenizer_3 = None
    text = tiny.encode(["a cat"])
    assert text.states.shape == (1, 32 + 256, 96) and not text.states[:, 32:].any() and len(text.ids) == 2
    tiny.pipeline().save_pretrained(tmp_path / "small")
    model = load_model(str(tmp_path / "small"))
    assert model.text_encoder_3 is None and model_hash(model) == model_hash(tiny)
    ours = sample(model, SHOTS, steps=4, batch=1)
    none: dict[str, Any] = {"text_encoder_3": None, "tokenizer_3": None}  # diffusers wants to be told
    for shot, picture, other in zip(SHOTS, ours, with_t5, strict=True):
        assert np.array_equal(draw(tmp_path / "small", "sd3", shot, first_noise(model, [shot]), **none), picture)
        assert not np.array_equal(picture, other)


def test_a_t5_that_is_named_must_be_there(folder: Path) -> None:
    (folder / "text_encoder_3").rename(folder / "elsewhere")
    with pytest.raises(InputError, match="missing folders text_encoder_3 in"):
        load_model(str(folder))


def test_a_t5_whose_words_are_stored_twice_is_read(folder: Path) -> None:
    wanted, file = model_hash(load_model(str(folder))), folder / "text_encoder_3" / "model.safetensors"
    held = load_file(file)
    save_file({**held, "encoder.embed_tokens.weight": held["shared.weight"].clone()}, file)
    model = load_model(str(folder))
    assert model_hash(model) == wanted
    assert model.text_encoder_3.encoder.embed_tokens.weight is model.text_encoder_3.shared.weight


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        (
            "scheduler/scheduler_config.json",
            {"use_dynamic_shifting": True},
            "its scheduler has use_dynamic_shifting on",
        ),
        ("model_index.json", {"scheduler": ["diffusers", "DDIMScheduler"]}, "DDIMScheduler is not FlowMatchEuler"),
        ("model_index.json", {"text_encoder_3": ["transformers", "UMT5EncoderModel"]}, "only T5EncoderModel can be"),
        ("transformer/config.json", {"in_channels": 8}, "its transformer takes 8 channels and predicts 4"),
        ("transformer/config.json", {"sample_size": 9}, r"9 in transformer/config\.json does not fit its patches"),
        ("transformer/config.json", {"sample_size": 32}, "does not fit its patches"),
    ],
)
def test_what_cannot_be_followed_is_refused(file: str, changes: dict[str, Any], words: str, folder: Path) -> None:
    change(folder / file, **changes)
    with pytest.raises(InputError, match=words):
        load_model(str(folder))


def test_presets_pick_the_stream_of_the_prompt(tiny: Model) -> None:
    names = {preset: set(select(tiny, preset)) for preset in FAMILIES["sd3"].presets}
    assert {name.split(".")[3] for name in names["xattn-kv"]} == {"add_k_proj", "add_v_proj"}
    assert {name.split(".")[3] for name in names["xattn"]} == {"add_k_proj", "add_v_proj", "add_q_proj", "to_add_out"}
    assert names["xattn"] | names["noxattn"] == names["full"] == {name for name, _ in tiny.unet.named_parameters()}
    assert not names["xattn"] & names["noxattn"]
    assert {name.split(".")[2] for name in names["attentions"]} == {"attn", "ff", "ff_context"}
    assert {name.split(".")[0] for name in names["text-encoder"]} == {"text_encoder", "text_encoder_2"}
    with pytest.raises(InputError, match="matches no parameter of the transformer; use xattn-kv"):
        select(tiny, "text_encoder_3")  # T5 stays as it is


def test_nothing_is_cut_where_t5_reads_all(tiny: Model) -> None:
    assert len(tiny.tokens("cat " * 40)) > tiny.tokenizer.model_max_length
    assert tiny.too_long("cat " * 40) == 0
    over = len(tiny.tokens("cat " * 300, "tokenizer_3")) - 256
    assert tiny.too_long("cat " * 300) == over > 0
    tiny.text_encoder_3 = tiny.tokenizer_3 = None
    assert tiny.too_long("cat " * 40) == len(tiny.tokens("cat " * 40)) - tiny.tokenizer.model_max_length > 0


def test_spm_picks_the_blocks_layers(folder: Path, tmp_path: Path) -> None:
    run = workflow.erase(settings(folder, tmp_path / "run", method="spm"))
    assert {name.split(".")[2] for name in load_tensors(run / MODEL)[0]} <= {"attn", "ff", "ff_context"}


@pytest.mark.parametrize("method", ["uce", "rece", "speed"])
def test_closed_forms_are_refused(method: str, folder: Path, tmp_path: Path) -> None:
    given = {"model": str(folder), "concept": "cat", "method": method, "output": str(tmp_path / "run")}
    with pytest.raises(InputError, match="Stable Diffusion 3 has no weights that a closed form can edit"):
        workflow.erase(load_config(None, given))
    assert not (tmp_path / "run").exists()


def settings(folder: Path, output: Path, **more: Any) -> Any:
    rates = {"train.forget.lr": 1e-2, "train.retain.lr": 1e-2}
    return load_config(None, {**SHORT, **rates, "model": str(folder), "concept": "cat", "output": str(output), **more})


@pytest.mark.parametrize("lora", [{"method.rank": 2}, {"memory": "8gb"}], ids=["lora", "weights"])
def test_esd_trains_goes_on_after_a_stop_and_is_exported(lora: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    run = workflow.erase(settings(folder, tmp_path / "run", **lora))
    seen: list[Event] = []
    with pytest.raises(Interrupted):
        workflow.erase(
            settings(folder, tmp_path / "stopped", **lora),
            on_event=seen.append,
            should_stop=lambda: any(isinstance(event, Step) for event in seen),
        )
    one, other = (load_tensors(path / MODEL)[0] for path in (run, workflow.resume(tmp_path / "stopped")))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    erased, arms = load_run(run, stored_config(run), torch.device("cpu"))
    assert any(not torch.equal(value, arms["before"][name]) for name, value in arms["after"].items())
    out = load_model(str(workflow.export(run, "diffusers", tmp_path / "out")))
    wanted, found = named(erased), named(out)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    noise = first_noise(out, SHOTS[:1])
    assert np.array_equal(draw(tmp_path / "out", "sd3", SHOTS[0], noise), sample(erased, SHOTS[:1], steps=4)[0])
    assert not np.array_equal(draw(folder, "sd3", SHOTS[0], noise), draw(tmp_path / "out", "sd3", SHOTS[0], noise))


def test_what_has_no_layout_here_is_not_exported_and_the_rest_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    run = workflow.erase(settings(folder, tmp_path / "run", **{"method.parameters": "text-encoder"}))
    for format in ("single-file", "lora"):
        with pytest.raises(
            InputError, match="of Stable Diffusion 3 is not known here; use diffusers, lora-peft, delta"
        ):
            workflow.export(run, format, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    with safe_open(workflow.export(run, "delta", tmp_path / "delta.safetensors"), "pt") as opened:
        about = opened.metadata()
    assert about["modelspec.architecture"] == "stable-diffusion-3" and "modelspec.prediction_type" not in about
    workflow.export(run, "text-encoder", tmp_path / "texts")
    folders = {path.name for path in (tmp_path / "texts").iterdir() if path.is_dir()}
    assert folders == {"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}  # no T5, which is as it was

"""Loading model folders that are whole, odd or damaged, on a tiny untrained pipeline."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file, save_file

from erase.errors import EraseError, InputError
from erase.export import Erased, plan_export, save
from erase.models import Model, load_model, model_hash
from erase.sampling import Shot, first_noise, sample
from tests.integration.conftest import build_tiny

SHOTS = [Shot(f"a {name}", name, 0) for name in ("cat", "dog")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_tiny().pipeline().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def draw(pipe: StableDiffusionPipeline, model: Model, shot: Shot) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "np", "height": 16, "width": 16}
    return (pipe(shot.prompt, latents=first_noise(model, [shot]), **options).images[0] * 255).round().astype(np.uint8)


def save_folder(model: Model, output: Path) -> None:
    """Export a model as a diffusers folder, without a card."""
    save(plan_export("diffusers", output), Erased(model, {}, {}, "cat", {}), lambda *_: None)


@pytest.mark.parametrize("scheduler", [PNDMScheduler, DDPMScheduler])
def test_an_export_draws_as_the_run_did_whatever_sampler_the_model_came_with(
    scheduler: type, folder: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    use_scheduler(folder, scheduler(beta_schedule="scaled_linear", steps_offset=1))
    model = load_model(str(folder))
    assert [str(w.message)[:80] for w in recwarn if issubclass(w.category, FutureWarning)] == []
    ours = sample(model, SHOTS, steps=4, guidance=3.0, batch=1)
    save_folder(model, tmp_path / "out")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None)
    for shot, picture in zip(SHOTS, ours, strict=True):
        assert np.array_equal(draw(pipe, model, shot), picture)


def use_scheduler(folder: Path, scheduler: SchedulerMixin) -> None:
    """Make it the folder's scheduler."""
    (folder / "scheduler" / "scheduler_config.json").unlink()
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))


def test_a_scheduler_without_a_noise_schedule_is_refused(folder: Path) -> None:
    use_scheduler(folder, FlowMatchEulerDiscreteScheduler())
    with pytest.raises(InputError, match="scheduler FlowMatchEulerDiscreteScheduler has no noise schedule"):
        load_model(str(folder))


def test_an_export_does_not_tell_where_the_base_lay(folder: Path, tmp_path: Path) -> None:
    save_folder(load_model(str(folder)), tmp_path / "out")
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert [p.name for p in files if str(folder).encode() in p.read_bytes()] == []


def put(folder: Path, part: str, **tensors: torch.Tensor | None) -> Path:
    """Change a part's weight file: set these tensors, drop those that are None (`__` stands for a dot)."""
    (file,) = (folder / part).glob("*.safetensors")
    held = load_file(file) | {name.replace("__", "."): value for name, value in tensors.items()}
    save_file({k: v for k, v in held.items() if v is not None}, file, metadata={"format": "pt"})
    return file


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_model_that_lacks_tensors_is_refused(part: str, folder: Path) -> None:
    names = sorted(load_file(next((folder / part).glob("*.safetensors"))))
    gone = names[len(names) // 2]
    file = put(folder, part, **{gone: None})
    with pytest.raises(InputError, match=rf"^{file} lacks 1 of {len(names)} tensors, first .*{gone}; fetch"):
        load_model(str(folder))


def test_a_variant_does_not_stand_in_for_the_file_that_is_read(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    put(folder, "unet", **{"conv_in.weight": None})
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(whole)
    with pytest.raises(InputError, match="lacks 1 of"):
        load_model(str(folder))


def halve(folder: Path, *parts: str, keep: bool) -> None:
    """Give parts a variant fp16, beside the plain weights or instead of them."""
    for part in parts:
        (file,) = (folder / part).glob("*.safetensors")
        half = {name: value.half() for name, value in load_file(file).items()}
        save_file(half, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        if not keep:
            file.unlink()


def halved(model: Model, *parts: str) -> str:
    """The model's hash if these parts went through half precision."""
    for part in parts:
        getattr(model, part).half().float()
    return model_hash(model)


ALL = ("text_encoder", "unet", "vae")


def test_the_plain_weights_are_read_unless_a_variant_is_named(folder: Path) -> None:
    halve(folder, *ALL, keep=True)
    plain, half = load_model(str(folder)), load_model(str(folder), variant="fp16")
    assert (plain.variant, half.variant) == (None, "fp16")
    assert model_hash(plain) == model_hash(build_tiny()) and model_hash(half) == halved(build_tiny(), *ALL)
    assert {p.dtype for part in half.weighted.values() for p in part.parameters()} == {torch.float32}
    assert plain.reason == half.reason


def test_the_only_variant_is_read_and_said(folder: Path) -> None:
    halve(folder, "unet", "vae", keep=False)
    model = load_model(str(folder))
    assert model_hash(model) == halved(build_tiny(), "unet", "vae")
    assert model.reason.endswith("; unet of variant fp16; vae of variant fp16") and model.variant is None
    halve(folder, "text_encoder", keep=False)
    assert load_model(str(folder)).variant == "fp16"


def test_a_variant_that_is_not_there_is_refused_with_what_is(folder: Path) -> None:
    halve(folder, "unet", keep=True)
    with pytest.raises(InputError, match="unet has no variant 'bf16': it has the plain weights and fp16; set"):
        load_model(str(rename(folder, "text_encoder", "vae", to="bf16")), variant="bf16")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
        folder / "unet" / "diffusion_pytorch_model.ema.safetensors"
    )
    with pytest.raises(InputError, match="unet has no plain weights, and several variants: ema, fp16; set 'variant'"):
        load_model(str(folder))
    with pytest.raises(InputError, match="config.json': one file has no variant 'fp16'"):
        load_model(str(folder / "unet" / "config.json"), variant="fp16")


def rename(folder: Path, *parts: str, to: str) -> Path:
    for part in parts:
        (file,) = (folder / part).glob("*.safetensors")
        file.rename(file.with_suffix(f".{to}.safetensors"))
    return folder


@pytest.mark.parametrize("part", ALL)
def test_the_files_that_are_checked_are_those_that_are_read(part: str, folder: Path) -> None:
    halve(folder, *ALL, keep=True)
    (file,) = (folder / part).glob("*.fp16.safetensors")
    held = load_file(file)
    name = sorted(held)[0]
    save_file({k: v for k, v in held.items() if k != name}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"^{file} lacks 1 of"):
        load_model(str(folder), variant="fp16")
    assert model_hash(load_model(str(folder))) == model_hash(build_tiny())


def test_shards_of_a_variant_are_read_as_one(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    build_tiny().unet.half().save_pretrained(folder / "unet", max_shard_size="200KB", variant="fp16")
    assert len(list((folder / "unet").glob("*.fp16*.safetensors"))) > 1
    assert model_hash(load_model(str(folder))) == halved(build_tiny(), "unet")


def test_files_that_point_elsewhere_lead_nowhere(folder: Path, tmp_path: Path) -> None:
    """What the text library would follow to other weights than those that were checked."""
    build_tiny("sd2").text_encoder.save_pretrained(tmp_path / "other")
    about = {"base_model_name_or_path": str(tmp_path / "other"), "peft_type": "LORA"}
    (folder / "text_encoder" / "adapter_config.json").write_text(json.dumps(about))
    save_file({"x": torch.zeros(1)}, folder / "text_encoder" / "other.safetensors", metadata={"format": "pt"})
    alter(folder / "text_encoder" / "config.json", {"transformers_weights": "other.safetensors"})
    assert model_hash(load_model(str(folder))) == model_hash(build_tiny())


def test_weights_that_are_no_reals_are_refused(folder: Path) -> None:
    (name, value) = next(iter(sorted(load_file(next((folder / "unet").glob("*.safetensors"))).items())))
    file = put(folder, "unet", **{name: value.to(torch.int8)})
    with pytest.raises(InputError, match=f"^{file}: tensor {name} is of torch.int8; only floating-point weights"):
        load_model(str(folder))


@pytest.mark.parametrize("named", [["transformers", "T5Tokenizer"], "CLIPTokenizer", None, [], [3]])
def test_tokenizers_of_other_classes_are_refused(named: object, folder: Path) -> None:
    alter(folder / "model_index.json", {"tokenizer": named})
    with pytest.raises(InputError, match="tokenizer is .*; only CLIPTokenizer can be used so far"):
        load_model(str(folder))


@pytest.mark.parametrize("named", [["os", "system"], ["diffusers", "AutoencoderKL"], [3], None, "__path__", []])
def test_schedulers_of_no_class_are_refused(named: object, folder: Path) -> None:
    alter(folder / "model_index.json", {"scheduler": named})
    with pytest.raises(InputError, match="scheduler is .*, which is none of diffusers'"):
        load_model(str(folder))


def test_shards_are_read_as_one(folder: Path) -> None:
    unet = build_tiny().unet
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="200KB")
    shards = sorted((folder / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    assert model_hash(load_model(str(folder))) == model_hash(build_tiny())
    tensors = load_file(shards[0])
    gone = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != gone}, shards[0], metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"unet \({len(shards)} files\) lacks 1 of .* first {gone};"):
        load_model(str(folder))
    shards[0].unlink()
    with pytest.raises(InputError, match="1 of .* files are missing"):
        load_model(str(folder))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_model_of_other_shapes_is_refused(part: str, folder: Path) -> None:
    (name, value) = next((k, v) for k, v in sorted(load_file(next((folder / part).glob("*.safetensors"))).items()))
    file = put(folder, part, **{name: torch.zeros(7, *value.shape)})
    with pytest.raises(InputError, match=rf"^{file} has 1 tensors of other shapes: {name} is \(7, ") as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_tensors_that_would_be_passed_over_are_refused(part: str, folder: Path) -> None:
    put(folder, part, encoder__layers__7__weight=torch.zeros(2))
    with pytest.raises(InputError, match="holds 1 tensors that config.json does not build, first encoder.layers.7"):
        load_model(str(folder))


def test_what_a_text_encoder_has_over_does_no_harm(folder: Path) -> None:
    over = {"text_model__embeddings__position_ids": torch.arange(32)[None], "logit_scale": torch.zeros(1)}
    put(folder, "text_encoder", **over)
    assert model_hash(load_model(str(folder))) == model_hash(build_tiny())


@pytest.mark.parametrize(
    ("part", "name"), [("unet", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")]
)
def test_a_pickle_is_not_opened(part: str, name: str, folder: Path) -> None:
    file = next((folder / part).glob("*.safetensors"))
    torch.save(load_file(file), folder / part / name)
    file.unlink()
    with pytest.raises(InputError, match=f"it holds {name}; only safetensors of that name are read"):
        load_model(str(folder))


@pytest.mark.parametrize("kind", [["evil", "Code"], ["diffusers", "AutoencoderTiny"], None])
def test_parts_of_other_classes_are_refused(kind: object, folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "vae": kind}))
    with pytest.raises(InputError, match="only AutoencoderKL can be used so far"):
        load_model(str(folder))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
@pytest.mark.parametrize("text", ["null", "[1]", "{", "\x00"])
def test_a_configuration_that_is_none_is_refused(part: str, text: str, folder: Path) -> None:
    file = next((folder / part).glob("*config.json"))
    file.write_text(text)
    with pytest.raises(InputError, match=rf"{part}/{file.name} (is damaged|holds a)"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("unet/config.json", {"sample_size": None}, "sample_size None"),
        ("unet/config.json", {"sample_size": [4]}, r"sample_size \[4\]"),
        ("unet/config.json", {"sample_size": [4, -1]}, r"sample_size \[4, -1\]"),
        ("unet/config.json", {"down_block_types": 7}, "cannot be read"),
        ("unet/config.json", {"freq_shift": None}, "its parts do not work together"),
        ("vae/config.json", {"scaling_factor": "large"}, "its parts do not work together"),
        ("scheduler/scheduler_config.json", {"clip_sample": [1], "clip_sample_range": None}, "do not work together"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 2**40}, "num_train_timesteps 1099511627776 is no"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**6}, "num_hidden_layers 1000000 is more than 200"),
        ("unet/config.json", {"sample_size": 10**6}, "sample_size 1000000"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": False}, "model_max_length False of its tokenizer is"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": []}, "model_max_length .. of its tokenizer is no"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 400}, "its tokenizer gives 400 tokens"),
    ],
)
def test_settings_that_fit_nothing_are_refused(file: str, change: dict[str, object], words: str, folder: Path) -> None:
    alter(folder / file, change)
    with pytest.raises(InputError, match=words):
        load_model(str(folder))


def test_a_model_may_draw_oblong_pictures(folder: Path) -> None:
    alter(folder / "unet/config.json", {"sample_size": [8, 4]})
    model = load_model(str(folder))
    picture = sample(model, SHOTS[:1], steps=1)[0]
    assert picture.shape == model.picture_shape
    assert picture.shape[0] == 2 * picture.shape[1]


def alter(file: Path, change: dict[str, object]) -> None:
    """Change some keys of a configuration."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


def test_old_names_of_attention_are_known(folder: Path) -> None:
    file = next((folder / "vae").glob("*.safetensors"))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, value in load_file(file).items():
        for new, was in old.items():
            name = name.replace(f".{new}.", f".{was}.")
        tensors[name] = value
    save_file(tensors, file, metadata={"format": "pt"})
    assert model_hash(load_model(str(folder))) == model_hash(build_tiny())


def test_the_hash_sees_every_weight() -> None:
    model = build_tiny()
    before = model_hash(model)
    with torch.no_grad():
        next(model.vae.parameters()).view(-1)[0] += 1e-6
    assert model_hash(model) != before


def test_a_broken_picture_ends_training_but_not_judging(tiny_model: Model) -> None:
    with torch.no_grad():
        next(tiny_model.unet.parameters()).fill_(float("nan"))
    with pytest.raises(EraseError, match="NaN or infinity in the latents of 'a cat'"):
        sample(tiny_model, SHOTS, steps=2)
    lost: set[int] = set()
    drawn = sample(tiny_model, SHOTS, steps=2, batch=1, broken="blank", lost=lost)
    assert all(not picture.any() for picture in drawn) and lost == {0, 1}
    sample(build_tiny(), SHOTS, steps=2, broken="blank", lost=(none := set()))
    assert none == set()


def test_pictures_are_shown_as_they_come(tiny_model: Model) -> None:
    seen: list[tuple[int, object]] = []
    drawn = sample(tiny_model, SHOTS, steps=1, batch=1, seen=lambda place, picture: seen.append((place, picture)))
    assert [place for place, _ in seen] == [0, 1]
    assert all(one is other for (_, one), other in zip(seen, drawn, strict=True))


def test_the_size_of_a_picture_is_known_before_it_is_drawn(tiny_model: Model) -> None:
    for model in (tiny_model, load_model("world")):
        assert sample(model, SHOTS[:1], steps=1)[0].shape == model.picture_shape


def test_a_long_prompt_is_counted_in_silence(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", said.append)
    logger = logging.getLogger("transformers")  # it passes nothing on to the root, where pytest listens
    logger.addHandler(handler)
    try:
        assert tiny_model.too_long("cat " * 100) > 0
        assert tiny_model.too_long("cat") == 0
        tiny_model.embed(["cat " * 100])
        assert said == []
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("source", ["~nosuchuser/model", "x" * 300, "a\0b"])
def test_paths_that_no_file_can_have(source: str) -> None:
    with pytest.raises(InputError):
        load_model(source)

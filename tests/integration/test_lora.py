"""LoRAs and text encoders as what is trained, under every method; an adversary in front of the text encoder.

Tiny untrained pipelines. Run: pytest tests/integration/test_lora.py
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextModel

from erase import runs, workflow
from erase.config import load_config
from erase.errors import InputError
from erase.events import Event, Warned
from erase.export import Erased, plan_export, save
from erase.methods import METHODS, Options
from erase.methods.advunlearn import attack
from erase.methods.spm import unlike
from erase.models import FAMILIES, LoraPlan, Model, Text, load_model, merge, put_tensors, select
from erase.models.parameters import named
from erase.prepare import load_run, prepare, stored_config
from tests.integration.conftest import build_tiny
from tests.integration.test_methods import make, run
from tests.integration.test_workflow import SHORT

LORA = LoraPlan(2, 4.0)
ORIGINAL = [name for name, family in FAMILIES.items() if family.prefixes]  # with the original code's layout
PICTURE = {"num_inference_steps": 2, "output_type": "np", "height": 16, "width": 16}


def values(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in named(model).items()}


def changed(model: Model, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in named(model).items() if not torch.equal(value, before[name])}


def predict(model: Model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model.predict(
            torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([3, 500]), model.encode(["a cat", ""])
        )


@pytest.mark.parametrize("parameters", ["xattn", "full", "text-encoder"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_a_lora_which_is_the_model_that_comes_out(method: str, parameters: str) -> None:
    if (method, parameters) == ("spm", "text-encoder"):
        pytest.skip("refused: see test_spm_refuses_a_text_encoder")
    model = build_tiny()
    before, as_it_was = values(model), predict(model)
    session = make(model, method, parameters, lora=LORA)
    assert torch.equal(predict(model), as_it_was)  # B is zero
    assert all(torch.isfinite(torch.tensor([s.loss, s.grad_norm])).all() for s in run(session, 3))
    trained = predict(model)
    with session.trained.teacher():
        assert torch.equal(predict(model), as_it_was)
    outcome = session.outcome()
    assert values(model).keys() == before.keys()
    assert torch.allclose(predict(model), trained, atol=1e-5)
    assert not torch.allclose(trained, as_it_was, atol=1e-5)
    assert changed(model, before) == {n for n, v in outcome.after.items() if not torch.equal(v, before[n])}
    assert changed(model, before) <= set(select(build_tiny(), parameters))
    assert {len(value) for name, value in outcome.tensors.items() if "lora_A" in name} == {LORA.rank}
    assert outcome.tensors.keys() == {
        n.removesuffix("weight") + f"lora_{k}.weight" for n in outcome.after for k in "AB"
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_text_encoder_trains_in_every_family(family: str, lora: LoraPlan | None) -> None:
    model = build_tiny(family)
    before = values(model)
    session = make(model, "esd", "text-encoder", lora=lora)
    run(session, 2)
    outcome = session.outcome()
    moved = changed(model, before)
    assert moved and all(name.startswith("text_encoder") for name in moved)
    assert {name.split(".")[0] for name in moved} == set(FAMILIES[family].clips)
    put_tensors(model, outcome.before)
    assert not changed(model, before)


def test_a_pattern_reaches_a_text_encoder_only_by_its_name() -> None:
    model = build_tiny()
    assert not any(name.startswith("text_encoder") for name in select(model, "full"))
    both = {name.split(".")[0] for name in select(model, r"attn2\.to_k|text_encoder\..*fc1")}
    assert "text_encoder" in both and len(both) > 1


def test_factors_that_do_not_fit_are_refused() -> None:
    before = {"a.weight": torch.zeros(3, 4)}
    factors = {"a.lora_A.weight": torch.ones(2, 4), "a.lora_B.weight": torch.ones(3, 2)}
    assert torch.equal(merge(before, factors, LORA)["a.weight"], torch.full((3, 4), 4.0))  # alpha / rank = 2
    with pytest.raises(InputError, match=r"1 names differ, first a\.lora_B"):
        merge(before, {"a.lora_A.weight": torch.ones(2, 4)}, LORA)
    for wrong in ({"a.lora_A.weight": torch.ones(3, 4)}, {"a.lora_B.weight": torch.ones(4, 2)}):
        with pytest.raises(InputError, match="do not fit it"):
            merge(before, {**factors, **wrong}, LORA)


@pytest.mark.parametrize("method", ["salun", "sfron"])
def test_a_mask_chooses_among_a_loras_up_factors(method: str) -> None:
    mask = make(build_tiny(), method, lora=LORA).mask
    assert mask is not None
    ups = torch.cat([value.flatten() for name, value in mask.items() if "lora_B" in name])
    assert all(value.all() for name, value in mask.items() if "lora_A" in name)
    assert 0 < int(ups.sum()) < len(ups) and (method == "sfron" or int(ups.sum()) == round(0.5 * len(ups)))


def test_biases_have_no_place_in_a_lora() -> None:
    with pytest.raises(InputError, match="picks no layer that a LoRA can lie on"):
        make(build_tiny(), "esd", r"\.bias$", lora=LORA)


@pytest.mark.parametrize("cut", [1, 3])
@pytest.mark.parametrize("method", ["esd", "advunlearn"])
def test_resuming_a_lora_equals_the_straight_run(method: str, cut: int) -> None:
    options = Options(attack_from=0.0)
    straight = make(build_tiny(), method, "text-encoder", lora=LORA, options=options)
    run(straight, 4)
    first = make(build_tiny(), method, "text-encoder", lora=LORA, options=options)
    run(first, cut)
    second = make(build_tiny(), method, "text-encoder", lora=LORA, options=options)
    second.load_state_dict(first.state_dict())
    run(second, 4, first=cut)
    wanted, found = straight.outcome(), second.outcome()
    assert all(torch.equal(value, found.tensors[name]) for name, value in wanted.tensors.items())


# SPM


def test_an_anchor_is_as_long_as_a_prompt_and_unlike_it() -> None:
    text = Text(
        torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(0)), torch.ones(4, 8), (torch.ones(4, 16),)
    )
    one, same = (unlike(text, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one.states, same.states)
    sizes = one.states.flatten(1).norm(dim=1) / text.states.flatten(1).norm(dim=1)
    assert ((sizes >= 0.8) & (sizes <= 1.2)).all() and sizes.unique().numel() == 4
    assert torch.cosine_similarity(one.states.flatten(1), text.states.flatten(1)).abs().max() < 0.2
    assert one.pooled is not None and one.pooled.shape == (4, 8) and one.ids == ()


def test_spm_retains_on_the_concepts_latents_under_random_embeddings() -> None:
    session = make(build_tiny(), "spm", lora=LoraPlan(1, 1.0))
    assert session.pools.keys() == {"forget"}
    batch = session.draw("retain", 3, torch.Generator().manual_seed(0))
    own = session.draw("forget", 3, torch.Generator().manual_seed(0))
    assert torch.equal(batch.noisy, own.noisy)
    assert batch.conditional is None and not torch.allclose(batch.text.states, own.text.states, atol=0.1)


def test_spm_refuses_a_text_encoder(tmp_path: Path) -> None:
    build_tiny().pipeline().save_pretrained(tmp_path / "tiny")
    given = {"model": str(tmp_path / "tiny"), "concept": "cat", "method": "spm", "method.parameters": "text-encoder"}
    with pytest.raises(InputError, match="spm holds the UNet to .* use xattn"):
        workflow.erase(load_config(None, {**given, "output": str(tmp_path / "run")}))
    assert not (tmp_path / "run").exists()


# AdvUnlearn


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_stands_between_start_and_words(family: str) -> None:
    model = build_tiny(family)
    ids = model.encode(["a cat"]).ids
    words = [getattr(model, part).get_input_embeddings().weight for part in model.clips]
    with torch.no_grad():
        found = model.read(ids, tuple(table[ids[0][0, 2:3]] for table in words))  # the second word once more, in front
        clips = len(model.clips)
        told = tuple(torch.cat([i[:, :1], i[:, 2:3], i[:, 1:-2], i[:, -1:]], 1) for i in ids[:clips])
        wanted = model.read((*told, *ids[clips:]))
    assert torch.allclose(found.states, wanted.states, atol=1e-6)
    if found.pooled is not None and wanted.pooled is not None:
        assert torch.allclose(found.pooled, wanted.pooled, atol=1e-6)
    assert not torch.allclose(found.states, model.encode(["a cat"]).states, atol=1e-3)


def test_an_attack_that_leaves_no_room_for_a_word_is_refused(tmp_path: Path) -> None:
    tiny = build_tiny()
    tiny.pipeline().save_pretrained(tmp_path / "tiny")
    room = tiny.tokenizer.model_max_length - 3
    given = {"model": str(tmp_path / "tiny"), "concept": "cat", "method": "advunlearn", "concept.keep": ["dog"]}
    prepare(load_config(None, {**given, "method.attack_tokens": room}), torch.device("cpu"))
    config = load_config(None, {**given, "method.attack_tokens": room + 1, "output": str(tmp_path / "run")})
    with pytest.raises(InputError, match=f"method.attack_tokens: {room + 1} leave no room .* takes {room} at most"):
        workflow.erase(config)
    assert not (tmp_path / "run").exists()


def test_the_attack_brings_the_original_prediction_nearer() -> None:
    session = make(build_tiny(), "advunlearn", "text-encoder", options=Options(attack_from=0.0))
    run(session, 6)
    batch = session.draw("forget", 4, torch.Generator().manual_seed(5))
    assert session.attack is not None and batch.conditional is not None

    def far(prefix: Any) -> float:
        with torch.no_grad():
            found = session.nets.student(batch.noisy, batch.times, replace(batch.text, prefix=prefix))
        return float((found - batch.conditional).square().mean())

    start = session.attack.prefix
    found = attack(session.nets.student, batch, start, 20, (0.01,))
    assert far(found) < far(start)


def test_the_attack_waits_goes_on_and_stays_within_the_words() -> None:
    options = Options(attack_from=0.5, attack_tokens=2, attack_lr=100.0)
    model = build_tiny()
    session = make(model, "advunlearn", "text-encoder", options=options)  # of 6 rounds
    assert session.attack is not None
    first = session.attack.prefix
    run(session, 3)
    assert session.attack.prefix is first
    run(session, 4, first=3)
    second = session.attack.prefix
    assert second[0].shape == first[0].shape == (2, 32) and not torch.equal(first[0], second[0])
    assert float(second[0].norm(dim=1).max()) <= session.attack.longest[0] * 1.0001
    run(session, 5, first=4)
    assert not torch.equal(session.attack.prefix[0], second[0])


def test_another_models_prefix_is_refused() -> None:
    session = make(build_tiny(), "advunlearn", "text-encoder")
    state = session.state_dict()
    with pytest.raises(InputError, match="prefix is of other sizes"):
        session.load_state_dict({**state, "attack": [torch.zeros(3, 32)]})


# Runs and their exports


def tiny_run(tmp_path: Path, family: str, **given: Any) -> Path:
    build_tiny(family, usual=True).pipeline().save_pretrained(tmp_path / "tiny")
    settings = {"model": str(tmp_path / "tiny"), "concept": "cat", "output": str(tmp_path / "run"), **given}
    return workflow.erase(load_config(None, {**SHORT, "train.forget.lr": 1e-2, "train.retain.lr": 1e-2, **settings}))


@pytest.mark.parametrize(
    ("family", "format"),
    [(name, "lora-peft") for name in FAMILIES] + [(name, "lora") for name in ORIGINAL],
)
def test_a_trained_lora_is_exported_as_it_is(family: str, format: str, tmp_path: Path) -> None:
    attention = FAMILIES[family].presets["xattn"]
    parameters = (
        rf"{attention}|text_encoder.*(k_proj|out_proj|fc1)"  # diffusers misreads kohya's k_proj without out_proj
    )
    folder = tiny_run(tmp_path, family, **{"method.parameters": parameters, "method.rank": 2, "method.alpha": 1})
    kept = load_file(folder / runs.MODEL)
    assert {value.shape[0] for name, value in kept.items() if "lora_A" in name} == {2}
    seen: list[Event] = []
    path = workflow.export(folder, format, tmp_path / "cat.safetensors", on_event=seen.append)
    assert seen == []
    held = load_file(path)
    scale = 1.0 if format == "lora" else 0.5  # PEFT's form has no alpha
    sums = sorted(float(v.sum()) for n, v in kept.items() if "lora_B" in n)
    ups = sorted(float(v.sum()) for n, v in held.items() if "lora_B" in n or "lora_up" in n)
    assert [scale * value for value in sums] == ups  # to the bit
    if format == "lora":
        unet = {"sdxl": "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"}.get(
            family, "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
        )
        text = "lora_te1" if family == "sdxl" else "lora_te"
        layers = {name.split(".")[0] for name in held}
        assert {unet, f"{text}_text_model_encoder_layers_0_self_attn_k_proj"} <= layers
        assert {float(v) for n, v in held.items() if n.endswith(".alpha")} == {1.0}
    pipe: Any = getattr(diffusers, FAMILIES[family].pipeline).from_pretrained(tmp_path / "tiny")
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    erased, arms = load_run(folder, stored_config(folder), torch.device("cpu"))
    wanted, found = named(erased), dict(getattr(pipe, FAMILIES[family].denoiser).named_parameters())
    for part in erased.clips:
        encoder = getattr(pipe, part).named_parameters()
        found |= {f"{part}.{name.removeprefix('text_model.')}": value for name, value in encoder}
    assert [n for n in wanted if not torch.allclose(wanted[n], found[n], rtol=0, atol=1e-5)] == []
    idle = re.compile(r"layers\.1\.|blocks\.1\.attn\.add_q")  # last layers, of which little is read
    assert all(not torch.equal(arms["before"][n], wanted[n]) for n in arms["after"] if not idle.search(n))


def test_a_closed_form_is_exported_whole(tmp_path: Path) -> None:
    folder = tiny_run(tmp_path, "sd1", method="uce")
    seen: list[Event] = []
    path = workflow.export(folder, "lora-peft", tmp_path / "cat.safetensors", on_event=seen.append)
    said = [event.text for event in seen if isinstance(event, Warned)]
    assert len(said) == 1 and "holds the whole edit" in said[0] and "--rank 16 makes a smaller one" in said[0]
    size = path.stat().st_size / 1e6
    assert abs(float(said[0].split(" MB")[0].split()[-1]) - size) < 0.1
    assert said[0] in (tmp_path / "cat.md").read_text()
    workflow.export(folder, "lora-peft", tmp_path / "small.safetensors", rank=16, on_event=seen.append)
    assert not any("--rank 16" in event.text for event in seen[1:] if isinstance(event, Warned))
    held = load_file(path)
    before, after = (
        values(load_model(str(tmp_path / "tiny"))),
        load_run(folder, stored_config(folder), torch.device("cpu"))[1],
    )
    for name, value in after["after"].items():
        up, down = (held[f"unet.{name.removesuffix('weight')}lora_{k}.weight"] for k in "BA")
        assert torch.allclose(before[name] + up @ down, value, rtol=0, atol=2e-7)


def test_a_text_encoder_alone_erases_in_another_model(tmp_path: Path) -> None:
    folder = tiny_run(tmp_path, "sd1", **{"method": "advunlearn", "train.rounds": 3})
    workflow.export(folder, "text-encoder", tmp_path / "encoder")
    assert {p.name for p in (tmp_path / "encoder").iterdir()} >= {"text_encoder", "tokenizer", "README.md"}
    alone: Any = CLIPTextModel.from_pretrained(tmp_path / "encoder", subfolder="text_encoder")
    erased = load_run(folder, stored_config(folder), torch.device("cpu"))[0]
    for name, value in erased.text_encoder.state_dict().items():
        assert torch.equal(alone.state_dict()[name], value)
    plain = tiny_run(tmp_path / "other", "sd1", **{"method.parameters": "xattn"})
    with pytest.raises(InputError, match="changed no text encoder"):
        workflow.export(plain, "text-encoder", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("family", ORIGINAL)
def test_a_trained_text_encoder_is_patched_into_a_single_file(family: str, tmp_path: Path) -> None:
    save(
        plan_export("single-file", tmp_path / "base.safetensors"),
        Erased(build_tiny(family, usual=True), {}, {}, "", {}),
        lambda *_: None,
    )
    given = {"model": str(tmp_path / "base.safetensors"), "concept": "cat", "output": str(tmp_path / "run")}
    settings = {**SHORT, **given, "method.parameters": r"text_encoder.*q_proj", "train.forget.lr": 1e-2}
    folder = workflow.erase(load_config(None, settings))
    path = workflow.export(folder, "single-file", tmp_path / "out.safetensors")
    base, out = load_file(tmp_path / "base.safetensors"), load_file(path)
    assert base.keys() == out.keys()
    moved = [name for name in base if not torch.equal(base[name], out[name])]
    assert moved and all(name.startswith(FAMILIES[family].prefixes) for name in moved)
    again, erased = load_model(str(path)), load_run(folder, stored_config(folder), torch.device("cpu"))[0]
    wanted, found = values(erased), values(again)
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []

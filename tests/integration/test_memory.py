"""Ways to train in less memory change how it is spent, not what is learnt, and leave no trace on the model."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0, JointAttnProcessor2_0

from erase import runs, workflow
from erase.config import load_config
from erase.errors import InputError, Interrupted
from erase.estimate import GIB
from erase.events import Event, Step, ignore, never
from erase.models import FAMILIES, LoraPlan, Model
from erase.optim import state_bytes
from erase.prepare import memory_warnings, needed, open_session, prepare
from erase.training import MemoryPlan, RolePlan
from erase.training.loop import take_turn
from tests.integration.conftest import build_tiny
from tests.integration.test_methods import make, run, weights

EIGHT = RolePlan(lr=1e-3, states="8bit"), RolePlan(lr=1e-3, states="8bit")
EVERYTHING = {
    "train.precision": "bf16-mixed",
    "train.states": "8bit",
    "train.checkpointing": True,
    "train.offload": True,
    "train.channels_last": True,
    "train.frozen": "half",
}


@contextmanager
def counting(held: list[int]) -> Any:
    """Count the bytes that autograd saves in the block, each storage once."""
    seen: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
    held.append(sum(tensor.untyped_storage().nbytes() for tensor in seen.values()))


def gradients(memory: MemoryPlan, precision: str, held: list[int]) -> dict[str, torch.Tensor]:
    session = make(build_tiny(), parameters="full", memory=memory, precision=precision)
    with counting(held):
        loss = session.loss("forget", 0)
    loss.backward()
    return {name: p.grad for name, p in session.trained.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_checkpointing_gives_the_same_gradients_and_saves_less(precision: str) -> None:
    held: list[int] = []
    plain = gradients(MemoryPlan(), precision, held)
    again = gradients(MemoryPlan(checkpointing=True), precision, held)
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-5, atol=1e-6)
    assert held[1] < held[0] / 3


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_channels_last_gives_the_same_gradients(precision: str) -> None:
    plain = gradients(MemoryPlan(), precision, [])
    other = gradients(MemoryPlan(channels_last=True), precision, [])
    close = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.1, "atol": 0.01}
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, **close)


@pytest.mark.parametrize("lora", [None, LoraPlan(2, 2.0)], ids=["weights", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["esd", "npo"])  # npo asks the teacher in every step
def test_frozen_weights_in_half_train_to_the_same_bits_and_come_back_whole(
    method: str, family: str, lora: LoraPlan | None
) -> None:
    ends = []
    for frozen in ("fp32", "half"):
        model = build_tiny(family)
        before = weights(model)
        memory = MemoryPlan(frozen=frozen)
        session = make(model, method, parameters="xattn-kv", lora=lora, memory=memory, precision="bf16-mixed")
        trained = {id(p) for p in session.trained.parameters.values()}
        types = {p.dtype for p in model.unet.parameters() if p.ndim > 1 and id(p) not in trained}
        assert types == {torch.bfloat16 if frozen == "half" else torch.float32}
        run(session, 2)
        assert {p.dtype for p in session.trained.parameters.values()} == {torch.float32}
        outcome = session.outcome()
        after = weights(model)
        same = {name for name, value in after.items() if torch.equal(value, before[name])}
        assert {value.dtype for value in after.values()} == {torch.float32}
        assert after.keys() - same == outcome.after.keys()
        ends.append(outcome.after)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_half_needs_a_mixed_precision() -> None:
    with pytest.raises(InputError, match="need train.precision bf16-mixed or fp16-mixed"):
        make(build_tiny(), memory=MemoryPlan(frozen="half"))


def test_the_model_is_as_it_was_when_training_is_over() -> None:
    model = build_tiny()
    kept = {name: (value.clone(), value.stride()) for name, value in model.unet.state_dict().items()}
    memory = MemoryPlan(checkpointing=True, channels_last=True, frozen="half")
    session = make(model, parameters=r"attn2\.to_q", memory=memory, precision="bf16-mixed")
    assert model.unet.is_gradient_checkpointing
    session.outcome()
    assert not model.unet.is_gradient_checkpointing
    for name, value in model.unet.state_dict().items():
        assert torch.equal(value, kept[name][0]) and value.stride() == kept[name][1], name
    assert session.pools == {} and not hasattr(session, "optimizer")


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [
        ("dual", "fp32"),
        ("dual", "bf16-mixed"),
        ("dual_plus", "fp32"),
        ("dual_first", "fp32"),
        ("shared", "fp32"),
        ("joint", "bf16-mixed"),
    ],
)
def test_8bit_states_are_small_learn_and_resume_to_the_bit(optimizer: str, precision: str) -> None:
    sizes, ends = [], []
    settings: Any = {"parameters": "full", "optimizer": optimizer, "precision": precision}
    for roles in ((RolePlan(lr=1e-3), RolePlan(lr=1e-3)), EIGHT):
        session = make(build_tiny(), roles=roles, **settings)
        run(session, 3)
        sizes.append(state_bytes(session.optimizer))
        ends.append(torch.cat([p.detach().flatten() for p in session.trained.parameters.values()]))
    assert sizes[1] < 0.4 * sizes[0]  # tensors of fewer than 4096 weights stay float32
    assert 0 < float((ends[1] - ends[0]).abs().max()) < 0.02
    half = make(build_tiny(), roles=EIGHT, **settings)
    run(half, 2)
    other = make(build_tiny(), roles=EIGHT, **settings)
    other.load_state_dict(half.state_dict())
    run(other, 3, first=2)
    again = torch.cat([p.detach().flatten() for p in other.trained.parameters.values()])
    assert torch.equal(again, ends[1])


def test_8bit_states_are_refused_for_other_rules() -> None:
    with pytest.raises(InputError, match="8bit states are for adamw, not for sgd"):
        make(build_tiny(), roles=(RolePlan(optimizer="sgd", states="8bit"), EIGHT[1]))


def test_bitsandbytes_states_are_small_keep_masks_and_resume_to_the_bit(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra lowmem is not installed")
    bnb = RolePlan(optimizer="adamw8bit-bnb", lr=1e-3), RolePlan(optimizer="adamw8bit-bnb", lr=1e-3)
    settings: Any = {"method": "salun", "parameters": "full", "roles": bnb, "precision": "bf16-mixed"}
    straight = make(build_tiny(), **settings)
    run(straight, 3)
    assert straight.mask is not None
    for name, mask in straight.mask.items():
        assert torch.equal(straight.trained.parameters[name][~mask], straight.trained.originals[name][~mask])
    plain = make(build_tiny(), **{**settings, "roles": (RolePlan(lr=1e-3), RolePlan(lr=1e-3))})
    run(plain, 1)
    assert state_bytes(straight.optimizer) < 0.5 * state_bytes(plain.optimizer)
    half, other = make(build_tiny(), **settings), make(build_tiny(), **settings)
    run(half, 2)
    torch.save(half.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(other, 3, first=2)
    pairs = zip(straight.trained.parameters.values(), other.trained.parameters.values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_without_bitsandbytes_its_rule_is_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=r"needs bitsandbytes .*: pip install 'erase\[lowmem\]'"):
        make(build_tiny(), roles=(RolePlan(optimizer="adamw8bit-bnb"), RolePlan()))
    monkeypatch.setattr("erase.check.find_spec", lambda name: None)
    config = given(tmp_path, output=str(tmp_path / "run"), **{"train.retain.optimizer": "adamw8bit-bnb"})
    with pytest.raises(InputError, match=r"needs bitsandbytes: pip install 'erase\[lowmem\]'"):
        workflow.erase(config)
    assert not (tmp_path / "run").exists()


def recorded(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(part, device) of every move of a part from now on."""
    moves: list[tuple[str, str]] = []
    for name, part in model.weighted.items():

        def to(place: Any, name: str = name, part: Any = part) -> Any:
            moves.append((name, str(place)))
            return part

        monkeypatch.setattr(part, "to", to)
    return moves


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_parts_that_wait_come_when_they_are_used_and_go_again(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_tiny(family)
    texts = [part for part in model.weighted if part.startswith("text_encoder")]
    moves = recorded(model, monkeypatch)
    model.encode(["a cat"])
    assert moves == []
    model.rest("vae", *model.text_encoders)
    monkeypatch.setattr(Model, "device", property(lambda model: torch.device("cpu:0")))  # told from "cpu" by its name
    for use, parts in (
        (lambda: model.encode(["a cat"]), texts),
        (lambda: model.embed(["a cat"]), texts[:1]),
        (lambda: model.decode(torch.zeros(2, *model.latent_shape)), ["vae"]),
    ):
        moves.clear()
        use()
        assert moves == [(part, "cpu:0") for part in parts] + [(part, "cpu") for part in parts]


def test_pools_wait_on_the_cpu_and_batches_come_to_the_model() -> None:
    for method in ("esd", "ga"):
        model = build_tiny()
        model.rest("vae", "text_encoder")
        session = make(model, method)
        model.unet.to("meta")
        batch = session.draw("forget", 2, torch.Generator().manual_seed(0))
        assert batch.noisy.device.type == batch.text.states.device.type == batch.times.device.type == "meta"
        assert session.pools["forget"].clean.device.type == "cpu"


def test_offloaded_pictures_are_the_same(tiny_model: Model) -> None:
    latents = torch.randn(3, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0))
    together = tiny_model.decode(latents)
    tiny_model.rest("vae")
    assert (tiny_model.decode(latents).int() - together.int()).abs().max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_torchs_fused_one(family: str) -> None:
    model = build_tiny(family)
    assert {type(processor) for processor in model.unet.attn_processors.values()} <= {
        AttnProcessor2_0,
        JointAttnProcessor2_0,
    }


def given(tmp_path: Path, **changes: Any) -> Any:
    folder = tmp_path / "tiny"
    if not folder.exists():
        build_tiny().pipeline().save_pretrained(folder)
    few = {"train.rounds": 3, "train.batch": 2, "train.pool.forget": 4, "train.pool.retain": 4, "train.pool.steps": 3}
    few |= {"train.forget.lr": 1e-3, "train.preview_every": 2, "evaluate.steps": 2}
    words = {"model": str(folder), "concept": "cat", "concept.keep": ["dog", "fox"]}
    return load_config(None, {**words, **few, **EVERYTHING, **changes})


@pytest.mark.parametrize(
    ("changes", "waiting"),
    [
        ({}, {"vae", "text_encoder"}),
        ({"method.rank": 2}, {"vae", "text_encoder"}),
        ({"method.parameters": "text-encoder"}, {"vae"}),
        ({"method": "advunlearn", "method.parameters": "xattn"}, {"vae"}),  # its prompts are read anew in every step
        ({"train.offload": False}, set()),
    ],
)
def test_what_training_reads_does_not_wait(changes: dict[str, Any], waiting: set[str], tmp_path: Path) -> None:
    job = prepare(given(tmp_path, **changes), torch.device("cpu"))
    assert set(job.model.offload) == waiting
    session = open_session(job, ignore, never)
    for role in ("forget", "retain"):
        take_turn(session, role, 0, 1)
    session.outcome()


@pytest.mark.parametrize("rank", [None, 4])
def test_what_a_run_needs_is_counted_from_the_model(rank: int | None, tmp_path: Path) -> None:
    plain = {
        name: "fp32" if name in ("train.precision", "train.states", "train.frozen") else False for name in EVERYTHING
    }
    job = prepare(given(tmp_path, **plain, **{"method.parameters": "full", "method.rank": rank}), torch.device("cpu"))
    need = needed(job.config, job.model)
    model = make(job.model, parameters="full", lora=LoraPlan(4, 4.0) if rank else None)
    trained = 4 * sum(p.numel() for p in model.trained.parameters.values()) / GIB
    held = 4 * sum(p.numel() for p in job.model.unet.parameters()) / GIB
    assert need.trained == need.originals == need.gradients == pytest.approx(trained)
    assert need.states == pytest.approx(4 * trained)
    assert need.frozen + need.trained == pytest.approx(held, rel=1e-6)
    rest = [p for part in (job.model.vae, job.model.text_encoder) for p in part.parameters()]
    assert need.others == pytest.approx(4 * sum(p.numel() for p in rest) / GIB)


def test_a_run_that_will_not_fit_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = given(tmp_path, memory="24gb", **{"train.batch": 1000, "train.accumulate": 1})
    assert prepare(config, torch.device("cpu")).warnings == []
    monkeypatch.setattr(Model, "latent_shape", (4, 64, 64))
    (said,) = memory_warnings(config, build_tiny())
    assert said.startswith("this run is estimated to need ") and said.endswith(
        " GiB of GPU memory, and 24.0 are there; take the settings for less: --memory 12gb"
    )
    assert memory_warnings(given(tmp_path, **{"train.batch": 1000}), build_tiny()) == []  # no GPU, no preset


def test_a_run_with_everything_on_ends_well_and_resumes_to_the_bit(tmp_path: Path) -> None:
    straight = workflow.erase(given(tmp_path, output=str(tmp_path / "straight")))
    seen: list[Event] = []
    with pytest.raises(Interrupted):
        workflow.erase(
            given(tmp_path, output=str(tmp_path / "stopped")),
            on_event=seen.append,
            should_stop=lambda: sum(isinstance(e, Step) for e in seen) >= 4,
        )
    # What only spends memory may change between two sittings.
    config = tmp_path / "stopped" / runs.CONFIG
    config.write_text(config.read_text().replace("offload: true", "offload: false"))
    stopped = workflow.resume(tmp_path / "stopped")
    one, other = (runs.load_tensors(folder / runs.MODEL)[0] for folder in (straight, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_step_leaves_no_gradients_of_frozen_weights() -> None:
    session = make(build_tiny(), memory=MemoryPlan(checkpointing=True, frozen="half"), precision="bf16-mixed")
    take_turn(session, "forget", 0, 1)
    assert all(p.grad is None for p in session.model.unet.parameters())

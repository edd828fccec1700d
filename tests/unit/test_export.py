"""What can be said of an export without a model: low-rank factors, what is refused, files that fail half way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from erase.arguments import DTYPES, EXPORTS
from erase.errors import InputError
from erase.export import FORMATS, plan_export
from erase.export.lora import factorise
from erase.export.writing import DTYPES as KNOWN
from erase.export.writing import check_range, staged, write_tensors


def of_rank(rank: int, *shape: int, seed: int) -> torch.Tensor:
    """A random tensor (O, ...) that has that rank as a matrix."""
    generator = torch.Generator().manual_seed(seed)
    flat = int(torch.tensor(shape[1:]).prod())
    left, right = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, flat, generator=generator)
    return (left @ right).reshape(shape)


CHANGES = {
    "wide.weight": of_rank(3, 6, 20, seed=0),
    "tall.weight": of_rank(3, 20, 6, seed=1),
    "conv.weight": of_rank(3, 8, 5, 3, 3, seed=2),
    "point.weight": of_rank(3, 9, 7, 1, 1, seed=3),
    "small.weight": of_rank(2, 2, 30, seed=4),
}
BASE = {name: of_rank(2, *value.shape, seed=5) for name, value in CHANGES.items()}
AFTER = {name: BASE[name] + value for name, value in CHANGES.items()}


def product(tensors: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    up, down = (tensors[f"unet.{layer}.lora_{which}.weight"] for which in "BA")
    return (up.flatten(1) @ down.flatten(1)).reshape(CHANGES[f"{layer}.weight"].shape)


@pytest.mark.parametrize("rank", [3, 5, 500])
def test_a_change_of_small_rank_is_carried_whole(rank: int):
    found = factorise(BASE, AFTER, rank)
    assert found.kept == pytest.approx(1, abs=1e-9)
    assert found.left_out == []
    assert found.rank == min(rank, 8)  # the rank that the largest layer can have
    for name, change in CHANGES.items():
        assert torch.allclose(product(found.tensors, name.removesuffix(".weight")), change, atol=2e-5), name
    assert found.tensors["unet.conv.lora_A.weight"].shape == (found.rank, 5, 3, 3)
    assert found.tensors["unet.conv.lora_B.weight"].shape == (8, found.rank, 1, 1)
    own = {name: min(found.rank, *value.flatten(1).shape) for name, value in CHANGES.items()}
    assert own["small.weight"] == 2
    for name, rank in own.items():
        assert found.tensors[f"unet.{name.removesuffix('.weight')}.lora_B.weight"].shape[1] == rank


def test_a_cut_change_is_the_nearest_of_that_rank():
    found, kept, total = factorise(BASE, AFTER, 1), 0.0, 0.0
    for name, change in CHANGES.items():
        up, strength, down = torch.linalg.svd(change.flatten(1).double(), full_matrices=False)
        nearest = (up[:, :1] * strength[:1] @ down[:1]).reshape(change.shape).float()
        assert torch.allclose(product(found.tensors, name.removesuffix(".weight")), nearest, atol=2e-5), name
        kept, total = kept + float(strength[0] ** 2), total + float(strength.square().sum())
    assert found.kept == pytest.approx(kept / total, rel=1e-5)
    assert 0.2 < found.kept < 0.9


def test_a_tiny_change_survives_half_precision():
    small = {name: 1e-6 * value for name, value in CHANGES.items()}  # fp16's steps near 0 are 6e-8
    found = factorise({name: torch.zeros_like(value) for name, value in small.items()}, small, 3)
    halved = {name: value.half().float() for name, value in found.tensors.items()}
    for name, change in small.items():
        error = product(halved, name.removesuffix(".weight")) - change
        assert float(error.norm()) < 2e-3 * float(change.norm()), name


def test_biases_and_norms_are_named_and_count_as_lost():
    before = {**BASE, "wide.bias": torch.zeros(6), "norm.weight": torch.ones(8)}
    bias = 10 * torch.ones(6)
    found = factorise(before, {**AFTER, "wide.bias": bias, "norm.weight": torch.ones(8)}, 3)
    assert found.left_out == ["norm.weight", "wide.bias"]
    carried = sum(float(change.double().square().sum()) for change in CHANGES.values())
    assert found.kept == pytest.approx(carried / (carried + 600), rel=1e-5)
    with pytest.raises(InputError, match="no weight that a LoRA can carry, only wide.bias"):
        factorise({"wide.bias": torch.zeros(6)}, {"wide.bias": bias}, 3)


def test_the_command_line_knows_the_formats_and_precisions():
    assert list(EXPORTS) == list(FORMATS) and list(DTYPES) == list(KNOWN)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("ckpt", "a.safetensors"), "format 'ckpt' is unknown; use diffusers, single-file, lora"),
        (("delta", "a.safetensors", "fp8"), "dtype 'fp8' is unknown; use fp32, fp16, bf16"),
        (("lora", "a.safetensors", "fp32", 0), "rank 0 is too small"),
        (("delta", "a.safetensors", "fp32", 4), "format delta has no rank, got 4; only lora and lora-peft have one"),
        (("lora", "a"), "name it with .safetensors at the end"),
        (("lora", "mine.safetensors"), "mine.safetensors exists"),
        (("single-file", "card.safetensors"), "card.md exists"),
        (("delta", "grid.safetensors"), "grid.png exists"),
        (("diffusers", ""), "exists and is not empty"),
        (("diffusers", "card.md"), "exists and is not empty"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_it_begins(given: tuple, words: str, tmp_path: Path):
    for name in ("mine.safetensors", "card.md", "grid.png"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=words) as error:
        plan_export(given[0], tmp_path / given[1], *given[2:])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left")])
@pytest.mark.parametrize("folder", [True, False])
def test_a_full_disk_is_one_line_and_leaves_nothing(error: Exception, folder: bool, tmp_path: Path):
    with (
        pytest.raises(InputError, match="cannot write .*No space left"),
        staged(tmp_path / "a/b/out.safetensors", folder=folder) as scratch,
    ):
        (scratch / "out.safetensors").write_bytes(b"half")
        raise error
    assert not list(tmp_path.iterdir())


def test_files_appear_only_together_and_with_the_usual_rights(tmp_path: Path):
    (tmp_path / "mine").touch()
    with staged(tmp_path / "out.safetensors", folder=False) as scratch:
        for name in ("out.safetensors", "out.md"):
            (scratch / name).touch()
        assert not (tmp_path / "out.md").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out.md", "out.safetensors"]
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_file_has_the_precision_asked_for_and_refuses_what_that_cannot_hold(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    for dtype in KNOWN.values():
        write_tensors(path, {"x": torch.tensor([1.0, 70.0])}, dtype, {"erase": json.dumps({})})
        with safe_open(path, "pt") as file:
            assert file.get_tensor("x").dtype == dtype
    large = {"x": torch.tensor([1.0, 70_000.0])}
    with pytest.raises(InputError, match="tensor x has values that fp16 cannot hold; use bf16 or fp32"):
        write_tensors(path, large, torch.float16, {})
    write_tensors(path, large, torch.bfloat16, {})


def test_eight_bits_are_checked_and_named(tmp_path: Path):
    kind = torch.float8_e4m3fn
    write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2).to(kind)}, torch.float32, {})
    assert load_file(tmp_path / "a.safetensors")["x"].dtype == torch.float32
    check_range({"x": torch.ones(2).to(kind)})
    with pytest.raises(InputError, match="tensor x has values that float8_e4m3fn cannot hold"):
        check_range({"x": torch.tensor([1.0, torch.nan]).to(kind)})


def test_tensors_that_share_their_memory_are_written_one_by_one(tmp_path: Path):
    one = torch.arange(6.0)
    write_tensors(tmp_path / "a.safetensors", {"a": one, "b": one, "c": one.view(2, 3), "d": one[2:4]}, None, {})
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["b"], one) and torch.equal(found["c"], one.view(2, 3))
    assert torch.equal(found["d"], one[2:4])


def test_a_loras_alpha_keeps_its_precision(tmp_path: Path):
    tensors = {"x.alpha": torch.tensor(257.0), "x.lora_up.weight": torch.ones(2, 2)}
    write_tensors(tmp_path / "a.safetensors", tensors, torch.bfloat16, {})
    found = load_file(tmp_path / "a.safetensors")
    assert found["x.alpha"].dtype == torch.float32 and float(found["x.alpha"]) == 257
    assert found["x.lora_up.weight"].dtype == torch.bfloat16

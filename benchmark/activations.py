"""Memory that a step of training, a denoising step and decoding need at a time, beside weights and gradients.

Counted, not measured: a UNet of full size runs on fake tensors, and every allocation is followed. What a GPU adds
(kernels' workspaces, fragments, its context) is not in it. The numbers are in erase/training/estimate.py.

    python benchmark/activations.py
"""

from __future__ import annotations

import argparse
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from erase.models import FAMILIES
from erase.training.memory import halve

GIB = 2**30
_DOWN, _UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", _DOWN, _DOWN),
        "up_block_types": (_UP, _UP, "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


class Allocations(TorchDispatchMode):
    """Bytes of the storages alive that were made inside, now and at most; a module's own do not count."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.now = self.most = 0
        self.alive: dict[int, Any] = {p.untyped_storage()._cdata: None for p in module.parameters()}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def gone(_: Any) -> None:
            del self.alive[key]
            self.now -= size

        self.alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


class Fused(torch.autograd.Function):
    """Attention as a fused kernel holds it: no matrix of scores, one number a row for the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        out, row = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, row)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


@contextmanager
def like_cuda(mixed: bool) -> Iterator[None]:
    """What CUDA's autocast does and the CPU's does not: norms in float32, attention fused."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return Fused.apply(*(part.bfloat16() if mixed else part for part in (query, key, value)))

    def whole(norm: Any) -> Any:
        return lambda x, *args, **options: norm(x.float(), *args, **options)

    patches = {"scaled_dot_product_attention": attention}
    patches |= {name: whole(getattr(functional, name)) for name in ("group_norm", "layer_norm")}
    with mock.patch.multiple(functional, **patches):
        yield


def inputs(family: str, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a UNet of full size is called with."""
    config = UNETS[family]
    side = config["sample_size"]
    given = torch.randn(batch, 4, side, side), torch.ones(batch), torch.randn(batch, 77, config["cross_attention_dim"])
    if family != "sdxl":
        return given, {}
    return given, {"added_cond_kwargs": {"text_embeds": torch.randn(batch, 1280), "time_ids": torch.randn(batch, 6)}}


def training(family: str, parameters: str, mixed: bool, checkpointing: bool, batch: int) -> tuple[int, float]:
    """Trained weights, and the most GiB alive in a forward and backward pass, gradients among them."""
    with FakeTensorMode():
        unet = UNet2DConditionModel(**UNETS[family]).eval().requires_grad_(False)
        chosen = [p for name, p in unet.named_parameters() if re.search(FAMILIES[family].presets[parameters], name)]
        for parameter in chosen:
            parameter.requires_grad_(True)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        if mixed:
            halve(unet, chosen, "bf16")
        given, more = inputs(family, batch)
        with Allocations(unet) as seen, like_cuda(mixed):
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                out = unet(*given, **more).sample.float()
            out.square().mean().backward()
        return sum(p.numel() for p in chosen), seen.most / GIB


@torch.no_grad()
def drawing(family: str) -> tuple[float, float]:
    """GiB in float32 of one guided denoising step, and of decoding its picture."""
    with FakeTensorMode(), like_cuda(False):
        unet = UNet2DConditionModel(**UNETS[family])
        given, more = inputs(family, 2)
        with Allocations(unet) as step:
            unet(*given, **more)
        vae = AutoencoderKL(**VAE)
        with Allocations(vae) as picture:
            vae.decode(given[0][:1])
    return step.most / GIB, picture.most / GIB


def main() -> None:
    """Print a table for every family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(UNETS), choices=list(UNETS))
    for family in parser.parse_args().families:
        print(f"{family}: guided step %.2f, decoding %.2f GiB" % drawing(family))
        for parameters in ("xattn-kv", "xattn", "full"):
            for mixed, checkpointing in ((False, False), (True, False), (False, True), (True, True)):
                found = [training(family, parameters, mixed, checkpointing, batch) for batch in (1, 4)]
                way = f"{'bf16-mixed' if mixed else 'fp32'}{', checkpointing' if checkpointing else ''}"
                gradients = 4 * found[0][0] / GIB
                print(
                    f"  {parameters}, {way}: batch 1 {found[0][1]:.2f}, 4 {found[1][1]:.2f}; gradients {gradients:.2f}"
                )


if __name__ == "__main__":
    main()

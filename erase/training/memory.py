"""What a run does to need less memory, and undoing it when training ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from erase.errors import InputError
from erase.models import Model

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Ways to train in less memory, all off.

    `checkpointing` computes activations again in the backward pass; `channels_last` lays convolutions' weights and
    pictures out as GPUs like them; `frozen` "half" keeps the matrices that are not trained in the precision that
    autocast casts them to.
    """

    checkpointing: bool = False
    channels_last: bool = False
    frozen: Literal["fp32", "half"] = "fp32"


class Thrift:
    """A UNet made to need less memory until `undo`; its `trained` tensors stay float32."""

    def __init__(self, model: Model, plan: MemoryPlan, trained: Iterable[nn.Parameter], mixed: str) -> None:
        """`mixed` is accelerate's name of the precision, bf16 say."""
        self.unet, self.plan = model.unet, plan
        self.whole: list[tuple[nn.Parameter, Tensor]] = []
        if plan.channels_last:
            self.unet.to(memory_format=torch.channels_last)
        if plan.checkpointing:
            self.unet.enable_gradient_checkpointing()
        if plan.frozen == "half":
            self.whole = halve(self.unet, trained, mixed)

    def undo(self) -> None:
        """Give the UNet back as it was, its frozen tensors to the bit."""
        for parameter, value in self.whole:
            parameter.data = value.to(parameter.device)
        self.whole = []
        if self.plan.checkpointing:
            self.unet.disable_gradient_checkpointing()
        if self.plan.channels_last:
            self.unet.to(memory_format=torch.contiguous_format)


def halve(unet: nn.Module, trained: Iterable[nn.Parameter], mixed: str) -> list[tuple[nn.Parameter, Tensor]]:
    """Put the frozen matrices and kernels in half precision; return them with their float32 values, on the CPU.

    Only those: autocast casts them before every use anyway, so that nothing is rounded twice and a forward pass has
    the same bits. Norms, which it computes in float32, keep their vectors. Raises `InputError` without autocast.
    """
    if mixed not in HALVES:
        raise InputError("half-precision frozen weights need train.precision bf16-mixed or fp16-mixed")
    moving = {id(parameter) for parameter in trained}
    whole = []
    for parameter in unet.parameters():
        if id(parameter) not in moving and parameter.ndim >= 2:
            whole.append((parameter, parameter.data.cpu()))
            parameter.data = parameter.data.to(HALVES[mixed])
    return whole

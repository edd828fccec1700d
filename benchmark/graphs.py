"""CUDA graphs for training: the trained network's passes are recorded once a shape and replayed.

A turn on a small model is some two thousand kernels of a few microseconds, and Python needs longer to order them than
a GPU to run them. A replay orders them all at once. The same kernels run on the same numbers, in float32 only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from erase.models import Text


class _Plain(nn.Module):
    """A UNet that takes and returns tensors alone."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, times: Tensor, states: Tensor) -> Tensor:
        return self.unet(noisy, times, states, return_dict=False)[0]


class Recorded:
    """Stands for the student of a session; call it with (x_t, t, states)."""

    def __init__(self, unet: nn.Module, trained: dict[str, nn.Parameter]) -> None:
        self.unet, self.trained = unet, trained
        self.places = self._places()
        self.passes: dict[Any, Callable[..., Tensor]] = {}
        for parameter in trained.values():
            # A replay writes all gradients to the same place: without a copy the next one would change this one's.
            parameter.register_post_accumulate_grad_hook(_own_gradient)

    def __call__(self, *inputs: Tensor) -> Tensor:
        if self._places() != self.places:  # the teacher's weights lie elsewhere
            return _Plain(self.unet)(*inputs)
        key = (torch.is_grad_enabled(), *(x.shape for x in inputs))
        if key not in self.passes:
            example = tuple(x.detach().clone() for x in inputs)
            record = torch.cuda.make_graphed_callables if torch.is_grad_enabled() else _forward
            kept: dict[str, Any] = {"allow_unused_input": True} if torch.is_grad_enabled() else {}
            self.passes[key] = record(_Plain(self.unet).eval(), example, **kept)
        return self.passes[key](*inputs).clone()

    def _places(self) -> list[int]:
        return [p.data_ptr() for p in self.trained.values()]


def _own_gradient(parameter: Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad = parameter.grad.clone()


def _forward(network: nn.Module, example: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """Record a pass without gradients."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            network(*example)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = network(*example)

    def replay(*inputs: Tensor) -> Tensor:
        for place, value in zip(example, inputs, strict=True):
            place.copy_(value)
        graph.replay()
        return found

    return replay


@contextmanager
def recorded() -> Iterator[None]:
    """In this block sessions on a GPU in fp32 replay their student."""
    from erase.training.session import Session

    plain = Session._student

    def student(self: Session, noisy: Tensor, times: Tensor, text: Text) -> Tensor:
        # SDXL is told more than these three tensors, and is no small model.
        if not noisy.is_cuda or text.pooled is not None or self.accelerator.mixed_precision != "no":
            return plain(self, noisy, times, text)
        held = self.__dict__.get("replayed")
        if held is None:
            held = self.replayed = Recorded(self.model.unet, self.trained.parameters)  # type: ignore[attr-defined]
        return held(noisy, times, text.states).float()

    Session._student = student
    try:
        yield
    finally:
        Session._student = plain

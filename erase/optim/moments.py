"""One running average of the gradient or of its square, for many parameters, in fp32 or in 8 bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from erase.errors import InputError
from erase.optim.quantise import Packed, pack, unpack

States = Literal["fp32", "8bit"]
SMALL = 4096
"""Tensors with fewer elements stay fp32: they save nothing and hold biases and norms, which are the touchiest."""


class Moment:
    """A named state that optimizers can share: values and step counts by parameter, made at the first use.

    Args:
        params: in an order that a saved state can be matched with.
        states: "fp32", one state of 4 bytes a weight; "8bit", 1 byte a weight and 4 a block of 256.
        signed: whether values can be negative.
        squares: values are squares, so their signed roots are quantised and small ones survive.
    """

    def __init__(
        self, params: Iterable[Tensor], *, states: States = "fp32", signed: bool = True, squares: bool = False
    ) -> None:
        if states not in ("fp32", "8bit"):
            raise InputError(f"optimizer states {states!r} are unknown; use fp32 or 8bit")
        self.params = list(params)
        self.states: States = states
        self.signed, self.squares = signed, squares
        self.steps: dict[Tensor, int] = dict.fromkeys(self.params, 0)
        self._values: dict[Tensor, Tensor | Packed] = {}

    def read(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Current values: the fp32 states themselves, or new tensors made from 8 bits."""
        for param in params:
            if param not in self._values and not self._packs(param):
                self._values[param] = torch.zeros_like(param, memory_format=torch.preserve_format)
        return [self._plain(param) for param in params]

    def write(self, params: list[Tensor], values: list[Tensor]) -> None:
        """Keep the values that `read` gave and the caller changed in place; count one step for each."""
        for param, value in zip(params, values, strict=True):
            self.steps[param] += 1
            if self._packs(param):
                self._values[param] = pack(value, signed=self.signed, squares=self.squares, step=self.steps[param])

    def state_dict(self) -> dict[str, Any]:
        """Step counts and values in the order of the parameters; the tensors are not copied."""
        values = [self._values.get(param) for param in self.params]
        saved = [value._asdict() if isinstance(value, Packed) else value for value in values]
        return {"states": self.states, "steps": [self.steps[param] for param in self.params], "values": saved}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over a copy of a saved state.

        Raises:
            InputError: it was saved in another precision or for other shapes.
            ValueError: it was saved for another number of parameters.
        """
        if saved["states"] != self.states:
            raise InputError(f"saved optimizer states are {saved['states']}, these are {self.states}; use the same")
        loaded = {
            param: _placed(value, param)
            for param, value in zip(self.params, saved["values"], strict=True)
            if value is not None
        }
        self._values = loaded
        self.steps = dict(zip(self.params, saved["steps"], strict=True))

    def state_tensors(self) -> Iterator[Tensor]:
        """Every tensor held."""
        for value in self._values.values():
            yield from value if isinstance(value, Packed) else (value,)

    def _packs(self, param: Tensor) -> bool:
        return self.states == "8bit" and param.numel() >= SMALL

    def _plain(self, param: Tensor) -> Tensor:
        value = self._values.get(param)
        if value is None:
            return torch.zeros_like(param)
        return unpack(value, param, signed=self.signed, squares=self.squares) if isinstance(value, Packed) else value


def _placed(value: Tensor | dict[str, Tensor], param: Tensor) -> Tensor | Packed:
    if isinstance(value, dict):
        return Packed(**{name: part.detach().to(param.device) for name, part in value.items()})
    if value.shape != param.shape:
        raise InputError(f"a saved state has shape {tuple(value.shape)}, its parameter {tuple(param.shape)}")
    return value.detach().to(device=param.device, dtype=param.dtype, copy=True)


def batches(params: list[Tensor], elements: int) -> Iterator[list[Tensor]]:
    """Runs of parameters of about `elements` weights, which bounds the temporaries of a multi-tensor update."""
    batch: list[Tensor] = []
    size = 0
    for param in params:
        if batch and size + param.numel() > elements:
            yield batch
            batch, size = [], 0
        batch.append(param)
        size += param.numel()
    if batch:
        yield batch


def state_bytes(optimizer: Any) -> int:
    """Bytes of every state tensor, each counted once: what an optimizer costs beside weights and gradients.

    Works on any torch optimizer (after its first step: states are made then) and on the optimizers of this package.
    """
    tensors = {id(tensor): tensor for tensor in _tensors(optimizer)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif hasattr(value, "state_tensors"):
        yield from value.state_tensors()
    elif isinstance(value, torch.optim.Optimizer):
        yield from _tensors(list(value.state.values()))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)

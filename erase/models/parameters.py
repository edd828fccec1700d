"""Which tensors a run trains, the frozen teacher made of their saved originals, and what training made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from erase.errors import InputError
from erase.models.families import FAMILIES
from erase.models.model import Model

ENCODER = "text_encoder"

Tensors = dict[str, Tensor]
Parameters = dict[str, nn.Parameter]


def named(model: Model, *, encoders: bool = True) -> Parameters:
    """The denoiser's parameters by its own names and, with `encoders`, the CLIPs' behind their folders' names."""
    found = dict(model.unet.named_parameters())
    for part in model.clips if encoders else ():
        for name, parameter in getattr(model, part).named_parameters():
            # The prefix is that of CLIPs with a projection alone; names are the same with and without.
            found[f"{part}.{name.removeprefix('text_model.')}"] = parameter
    return found


def select(model: Model, parameters: str) -> Parameters:
    """The parameters that a preset's name or a regular expression (searched in the name) picks.

    The text encoders' are among them where the expression speaks of `text_encoder`; else they are the denoiser's alone.
    Raises `InputError` for a broken expression and for one that matches nothing.
    """
    presets = FAMILIES[model.family].presets
    try:
        pattern = re.compile(presets.get(parameters, parameters))
    except re.error as error:
        raise InputError(f"parameters {parameters!r} is no valid regular expression: {error}") from None
    found = {n: p for n, p in named(model, encoders=ENCODER in pattern.pattern).items() if pattern.search(n)}
    if not found:
        raise InputError(
            f"parameters {parameters!r} matches no parameter of the {model.network}; use {', '.join(presets)} or a "
            "regular expression (see `erase list parameters`)"
        )
    return found


class Trained:
    """What is trained, with its originals: a subset of a network, or the factors of a LoRA on it.

    `teacher()` puts the originals in place for the length of a block: the frozen network costs a copy of the subset,
    not a second UNet. Forward passes inside must not need gradients.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.originals = {name: p.detach().clone() for name, p in parameters.items()}
        for p in parameters.values():
            p.requires_grad_(True)

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """Swap the originals in; swap the trained values back, also after an error."""
        self._swap()
        try:
            with torch.no_grad():
                yield
        finally:
            self._swap()

    def _swap(self) -> None:
        # Storages change hands, values are not copied, so the trained values come back to the bit.
        for name, p in self.parameters.items():
            p.data, self.originals[name] = self.originals[name], p.data

    def tensors(self) -> Tensors:
        """The trained values, detached, by name."""
        return {name: p.detach() for name, p in self.parameters.items()}

    @torch.no_grad()
    def load(self, tensors: Tensors) -> None:
        """Set the trained values; names and shapes must be the selected ones."""
        if set(tensors) != set(self.parameters):
            different = sorted(set(tensors) ^ set(self.parameters))
            raise InputError(
                f"trained tensors do not fit this selection: {len(different)} names differ: {different[0]}"
            )
        for name, value in tensors.items():
            target = self.parameters[name]
            if value.shape != target.shape:
                raise InputError(f"tensor {name} has shape {tuple(value.shape)}, expected {tuple(target.shape)}")
            target.copy_(value)

    def outcome(self) -> Outcome:
        """What came of it; the parameters need no gradients any more."""
        for p in self.parameters.values():
            p.requires_grad_(False)
        after = {name: value.clone() for name, value in self.tensors().items()}
        return Outcome(after, self.originals, after)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training or an edit made: the `tensors` that a run's folder keeps, and the model's weights that differ.

    `before` and `after` have one set of names, the model's; `tensors` are the latter, or a LoRA's factors.
    """

    tensors: Tensors
    before: Tensors
    after: Tensors

    def change(self) -> dict[str, float]:
        """Relative change ||theta - theta_0|| / ||theta_0|| of every tensor; the change's norm where that was 0."""
        found = {}
        for name, value in self.after.items():
            original = self.before[name]
            norm = float(original.norm())
            found[name] = float((value - original).norm()) / (norm or 1.0)
        return found


@torch.no_grad()
def put_tensors(model: Model, tensors: Tensors) -> None:
    """Put tensors into the model. Raises `InputError`, before any is written, for one that does not fit."""
    parameters = named(model)
    for name, value in tensors.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise InputError(f"tensor {name} {tuple(value.shape)} does not fit this model; load the one it came from")
    for name, value in tensors.items():
        parameters[name].copy_(value)

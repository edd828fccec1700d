"""Which tensors a run trains, and the frozen teacher made of their saved originals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from erase.errors import InputError

# Stable Diffusion's names: attn1 is self-attention, attn2 is cross-attention.
PRESETS: dict[str, str] = {
    "xattn-kv": r"\.attn2\.to_[kv]\.",
    "xattn": r"\.attn2\.",
    "noxattn": r"^(?!.*\.attn2\.)",
    "full": r"",
}


def select(unet: nn.Module, parameters: str) -> dict[str, nn.Parameter]:
    """The UNet's parameters that a preset's name or a regular expression (searched in the name) picks.

    Raises `InputError` for a broken expression and for one that matches nothing.
    """
    try:
        pattern = re.compile(PRESETS.get(parameters, parameters))
    except re.error as error:
        raise InputError(f"parameters {parameters!r} is no valid regular expression: {error}") from None
    found = {name: p for name, p in unet.named_parameters() if pattern.search(name)}
    if not found:
        raise InputError(
            f"parameters {parameters!r} matches no parameter of the UNet; use {', '.join(PRESETS)} or a regular "
            "expression (see `erase list parameters`)"
        )
    return found


class Trained:
    """The trained subset of a network with its originals.

    `teacher()` puts the originals in place for the length of a block: the frozen network costs a copy of the subset,
    not a second UNet. Forward passes inside must not need gradients.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
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

    def tensors(self) -> dict[str, Tensor]:
        """The trained values, detached, by name."""
        return {name: p.detach() for name, p in self.parameters.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
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

    def change(self) -> dict[str, float]:
        """Relative change ||theta - theta_0|| / ||theta_0|| of every tensor."""
        found = {}
        for name, p in self.parameters.items():
            original = self.originals[name]
            norm = float(original.norm())
            found[name] = float((p.detach() - original).norm()) / norm if norm else float(p.detach().norm())
        return found


@torch.no_grad()
def put_tensors(unet: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put a run's tensors into the UNet. Raises `InputError`, before any is written, for one that does not fit."""
    parameters = dict(unet.named_parameters())
    for name, value in tensors.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise InputError(f"tensor {name} {tuple(value.shape)} does not fit this model; load the one it came from")
    for name, value in tensors.items():
        parameters[name].copy_(value)

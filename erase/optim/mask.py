"""The saliency mask: which weights a step may move, exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from erase.errors import InputError

Masks = Mapping[str, Tensor | None] | Sequence[Tensor | None]


class Mask:
    """Keeps every weight whose mask entry is 0 at its value, bit for bit, whatever the optimizer does.

    Zeroing the gradient is not enough: momentum and weight decay move a weight that has no gradient. So the gradient
    is zeroed (the optimizer's states must not see it) and the weights are put back after the step. Costs one
    transient copy of the masked tensors during a step, and no optimizer state.

    Args:
        masks: by parameter name, or in parameter order; same shapes; bool or 0/1, 1 may move. None: all may move.
        params: the parameters by name.

    Raises:
        InputError: no mask at all, one without any 1, missing or unknown names, another shape, values besides 0 and 1.
    """

    def __init__(self, masks: Masks, params: dict[str, Tensor]) -> None:
        self._pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for name, mask in _by_name(masks, list(params)).items():
            if mask is not None:
                self._pairs[name] = (params[name], _checked(name, mask, params[name]))
        if not any(bool(mask.any()) for _, mask in self._pairs.values()):
            total = sum(mask.numel() for _, mask in self._pairs.values())
            raise InputError(f"the mask is empty: 0 of {total} masked weights may move; lower its threshold")

    def digest(self) -> str:
        """SHA-256 over the names of masked parameters and the masks' bits: what a resumed run compares."""
        found = hashlib.sha256()
        for name, (_, mask) in self._pairs.items():
            found.update(f"{name}\0".encode() + np.packbits(mask.cpu().numpy()).tobytes())
        return found.hexdigest()

    def apply_to_gradients(self) -> None:
        """Zero the gradient of kept weights. A product, so that a NaN below the mask stays visible to the check."""
        for param, mask in self._pairs.values():
            if param.grad is not None:
                param.grad.mul_(mask)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Put the kept weights back to their values of entry."""
        saved = [param.detach().clone() for param, _ in self._pairs.values()]
        try:
            yield
        finally:
            with torch.no_grad():
                for (param, mask), before in zip(self._pairs.values(), saved, strict=True):
                    param.copy_(torch.where(mask, param, before))


def _by_name(masks: Masks, names: list[str]) -> dict[str, Tensor | None]:
    if len(masks) == 0:
        raise InputError("the mask is empty: it has no entries; pass mask=None to train without one")
    if not isinstance(masks, Mapping):
        if len(masks) != len(names):
            raise InputError(f"the mask has {len(masks)} entries for {len(names)} parameters; give one each, or None")
        return dict(zip(names, masks, strict=True))
    if set(masks) != set(names):
        missing, unknown = sorted(set(names) - set(masks)), sorted(set(masks) - set(names))
        raise InputError(
            f"mask names differ from parameter names: missing {missing[:3]}, unknown {unknown[:3]}; "
            "give every parameter an entry (None leaves it free)"
        )
    return {name: masks[name] for name in names}


def _checked(name: str, mask: Tensor, param: Tensor) -> Tensor:
    if mask.shape != param.shape:
        raise InputError(
            f"mask of {name!r} has shape {tuple(mask.shape)}, its parameter {tuple(param.shape)}; build it again"
        )
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError(f"mask of {name!r} has values besides 0 and 1; compare it with a threshold first")
    return mask.to(device=param.device, dtype=torch.bool)

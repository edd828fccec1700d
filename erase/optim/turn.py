"""What every optimizer here does around a role's step: check, mask, clip, schedule, count."""

# torch exports its multi-tensor functions under private names.
# pyright: reportPrivateImportUsage=false, reportCallIssue=false
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import nn

from erase.errors import EraseError, InputError
from erase.optim.mask import Mask, Masks

Role = Literal["forget", "retain", "joint"]
Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Schedule = Callable[[int], float]
Params = Mapping[str, nn.Parameter] | Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]]


class Turns(Protocol):
    """The face of every optimizer here: clear, backward, then a step of a named role."""

    def zero_grad(self) -> None: ...
    def step(self, role: Role) -> float: ...
    def lr(self, role: Role) -> float: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class Turn:
    """The part of a step that is not the update rule, for all roles of one optimizer.

    In this order: zero the masked gradients, take the norm, refuse a gradient that is not finite (before any weight or
    state changes), clip, set the scheduled rate, let the optimizer step, put masked weights back, count.

    Args:
        params: the trained parameters, by name, as pairs or in order (names "0", "1", ... then).
        roles: the roles that `step` accepts.
        clip: largest gradient norm by role; None, or no entry, is off.
        mask: see `erase.optim.mask.Mask`.
        mask_roles: the roles whose steps the mask binds.
        schedule: factor of the base rate by role, from the role's own step number.

    Raises:
        InputError: no parameters, the same one twice, one that is frozen, an unknown role, a clip not above 0.
    """

    def __init__(
        self,
        params: Params,
        roles: tuple[Role, ...],
        *,
        clip: Mapping[Any, float | None] | None,
        mask: Masks | None,
        mask_roles: Sequence[str],
        schedule: Mapping[Any, Schedule] | None,
    ) -> None:
        self.params = _named(params)
        self.roles = roles
        self.clip = dict(clip or {})
        self.schedule = dict(schedule or {})
        for role in (*self.clip, *self.schedule, *mask_roles):
            self.check_role(role)
        for role, limit in self.clip.items():
            if limit is not None and not limit > 0:
                raise InputError(f"clip of {role} must be above 0, got {limit}; use None to turn clipping off")
        self.mask = None if mask is None else Mask(mask, dict(self.params))
        self.mask_roles = tuple(mask_roles)
        self.steps: dict[str, int] = dict.fromkeys(roles, 0)

    def check_role(self, role: str) -> None:
        """Refuse a role that this optimizer does not have."""
        if role not in self.roles:
            raise InputError(f"role {role!r} is unknown to this optimizer; use one of {', '.join(self.roles)}")

    def zero_grad(self) -> None:
        """Drop every gradient; both roles share them, so call it before each backward."""
        for param in self.params.values():
            param.grad = None

    def factor(self, role: str, step: int) -> float:
        """The schedule's multiplier for a role's step."""
        factor = float(self.schedule[role](step)) if role in self.schedule else 1.0
        if not 0.0 <= factor < math.inf:
            raise EraseError(f"schedule of {role} gave {factor} at step {step}; it must be finite and not negative")
        return factor

    def latest(self, role: str) -> int:
        """Number of the role's latest step, from 0; 0 as well before the first."""
        return max(0, self.steps[role] - 1)

    def mask_gradients(self, role: str) -> None:
        """Zero the masked gradients, if the mask binds this role."""
        self.check_role(role)
        if self.mask is not None and role in self.mask_roles:
            self.mask.apply_to_gradients()

    @contextmanager
    def around(self, role: str) -> Iterator[tuple[float, float]]:
        """Wrap an update: gives (gradient norm before clipping, factor of the base rate)."""
        self.check_role(role)
        factor = self.factor(role, self.steps[role])
        masked = self.mask if role in self.mask_roles else None
        self.mask_gradients(role)
        norm = self._norm(role)
        limit = self.clip.get(role)
        if limit is not None and norm > limit:
            torch._foreach_mul_([p.grad for p in self.params.values() if p.grad is not None], limit / norm)
        with masked.keeping() if masked is not None else nullcontext():
            yield norm, factor
        self.steps[role] += 1

    def _norm(self, role: str) -> float:
        grads = [param.grad for param in self.params.values() if param.grad is not None]
        if not grads:
            raise EraseError(f"{role} step without any gradient; call backward on a loss of the trained weights first")
        norms = torch._foreach_norm(grads)
        total = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device, torch.float32) for norm in norms]))
        value = float(total)
        return value if math.isfinite(value) else self._diagnose(role)

    def _diagnose(self, role: str) -> float:
        """Name the first parameter whose gradient is not finite; if all are, the norm itself had overflowed."""
        for name, param in self.params.items():
            if param.grad is not None and not bool(torch.isfinite(param.grad).all()):
                raise EraseError(
                    f"{role} gradient of {name!r} is not finite; no weight was changed: lower the {role} rate or loss"
                )
        grads = (param.grad for param in self.params.values() if param.grad is not None)
        return math.sqrt(sum(float(grad.double().square().sum()) for grad in grads))

    def state_dict(self) -> dict[str, Any]:
        """Counters and what must agree when they are loaded."""
        return {"steps": dict(self.steps), **self._modes()}

    def check_state(self, saved: Any) -> None:
        """Refuse a state of other parameters, roles or another mask, before anything is loaded."""
        if not isinstance(saved, dict):
            raise InputError("saved optimizer state has no step counts; it is damaged or of another version")
        for key, value in self._modes().items():
            if saved.get(key) != value:
                raise InputError(f"saved optimizer state has another {key}; build the optimizer as it was when saved")

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over the counters."""
        self.check_state(saved)
        self.steps = dict(saved["steps"])

    def _modes(self) -> dict[str, Any]:
        mask = None if self.mask is None else self.mask.digest()
        shapes = {name: list(param.shape) for name, param in self.params.items()}
        return {"roles": list(self.roles), "parameters": shapes, "mask": [mask, list(self.mask_roles)]}


class Restorable(Protocol):
    """What `load_or_restore` needs: a state that shares no storage with what loading replaces."""

    def state_dict(self) -> dict[str, Any]: ...
    def _load(self, saved: dict[str, Any]) -> None: ...


def load_or_restore(optimizer: Restorable, saved: dict[str, Any]) -> None:
    """Load a state; if any part of it does not fit, put the former one back and raise `InputError`."""
    before = optimizer.state_dict()
    try:
        optimizer._load(saved)
    except InputError:
        optimizer._load(before)
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        optimizer._load(before)
        raise InputError(f"saved optimizer state is damaged or of another version ({error!r})") from None


def _named(params: Params) -> dict[str, nn.Parameter]:
    items: list[Any] = list(params.items()) if isinstance(params, Mapping) else list(params)
    named: dict[str, nn.Parameter] = {}
    for index, item in enumerate(items):
        name, param = item if isinstance(item, tuple) else (str(index), item)
        if not isinstance(param, nn.Parameter) or not param.requires_grad:
            raise InputError(f"parameter {name!r} cannot be trained; pass an nn.Parameter with requires_grad=True")
        named[name] = param
    if not named:
        raise InputError("no parameters to train; the pattern that selects them matched nothing")
    if len({id(param) for param in named.values()}) != len(items):
        raise InputError(f"{len(items)} parameters given, some of them twice; pass each once")
    return named

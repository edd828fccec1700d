"""DualOptim: one optimizer for forgetting, another for retaining; and the single shared optimizer beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from erase.errors import EraseError, InputError
from erase.optim.adamw import AdamW, from_torch
from erase.optim.mask import Masks
from erase.optim.moments import _tensors
from erase.optim.turn import Factory, Params, Role, Schedule, Turn, load_or_restore


class _Rated:
    """A torch optimizer whose base rates are kept apart from the scheduled ones, and saved with it."""

    def __init__(self, optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], role: str) -> None:
        held = {id(param) for group in optimizer.param_groups for param in group["params"]}
        if held != {id(param) for param in params.values()}:
            raise InputError(f"{role} factory built an optimizer over other parameters; pass on the list it is given")
        self.optimizer = optimizer
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]

    def step(self, factor: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = rate * factor
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        kind = type(self.optimizer).__name__
        return {"class": kind, "rates": list(self.rates), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        kind = type(self.optimizer).__name__
        if saved["class"] != kind:
            raise InputError(f"saved optimizer state is of a {saved['class']}, this is a {kind}; use the same")
        self._check_shapes(saved["optimizer"].get("state", {}))
        self.optimizer.load_state_dict(saved["optimizer"])
        # torch keeps the saved tensors themselves; another optimizer may still be using them.
        for state in self.optimizer.state.values():
            state.update({name: value.clone() for name, value in state.items() if isinstance(value, Tensor)})
        self.rates = list(saved["rates"])

    def _check_shapes(self, states: dict[int, Any]) -> None:
        # torch takes a moment of any shape and fails, or broadcasts, in the next step.
        params = [param for group in self.optimizer.param_groups for param in group["params"]]
        for index, state in states.items():
            for name in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
                value = state.get(name)
                if value is not None and value.shape != params[index].shape:
                    shapes = f"{tuple(value.shape)}, its parameter {tuple(params[index].shape)}"
                    raise InputError(f"a saved {name} has shape {shapes}; select the same parameters")


class DualOptim:
    r"""Two optimizers take turns on the same weights, so that neither objective's momentum steers the other's step.

    .. math::
        \theta &\leftarrow \theta - \eta_f \, A_f(\nabla L_f(\theta)) \\
        \theta &\leftarrow \theta - \eta_r \, A_r(\nabla L_r(\theta))

    :math:`A_f` is the optimizer that `forget` makes, :math:`A_r` the one of `retain`; :math:`\eta` are their rates
    times `schedule`. The retain gradient is taken after the forget step, at the moved weights: clear, backward, step,
    for each role. Summing both losses first is a different method (`SharedOptim`, role "joint").
    Source: Zhong, Luo and Liu, arXiv 2504.15827.

    With `decouple_first` or `decouple_second` False, the roles share that Adam moment and its step count, but keep
    their rate, epsilon and decay; with both False they are one AdamW over both roles' gradients. A mask hides a
    coordinate's gradient, so a forget step lets a *shared* moment decay there.

    Memory: the states of both optimizers: 4 a weight for Adam and Adam, 3 for Adam and SGD with momentum, 2 or 3 with
    shared moments. `erase.optim.state_bytes` counts them.

    Args:
        params: the trained parameters: by name, as (name, parameter) pairs, or in order.
        forget, retain: make an optimizer from the list of parameters, as in `lambda p: torch.optim.SGD(p, lr=0.01)`.
        decouple_first, decouple_second: own first or second moments per role. Anything but (True, True) needs AdamW
            (torch's or ours), with the same beta for a shared moment; torch's is then replaced by ours.
        clip: largest gradient norm per role, after the mask; None is off.
        mask: 1 may move; weights at 0 keep, bit for bit, the value they had before the step. By name or in order.
        mask_roles: whose steps the mask binds: ("forget",), or ("forget", "retain"), where masked weights never move.
        schedule: per role, a factor of its rate from its own step number.

    Raises:
        InputError: unusable parameters, mask, clip or roles; partial decoupling of optimizers that are not AdamW.
        EraseError: by `step`, if a gradient is not finite or there is none; no weight or state has changed then.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> adamw = lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0)
        >>> optimizer = DualOptim({"weight": weight}, forget=adamw, retain=lambda p: torch.optim.SGD(p, lr=0.1))
        >>> optimizer.zero_grad(); (-weight.sum()).backward(); round(optimizer.step("forget"), 3)
        1.732
        >>> optimizer.zero_grad(); weight.square().sum().backward(); round(optimizer.step("retain"), 3)
        3.811
    """

    def __init__(
        self,
        params: Params,
        *,
        forget: Factory,
        retain: Factory,
        decouple_first: bool = True,
        decouple_second: bool = True,
        clip: Mapping[Any, float | None] | None = None,
        mask: Masks | None = None,
        mask_roles: Sequence[str] = ("forget",),
        schedule: Mapping[Any, Schedule] | None = None,
    ) -> None:
        self._turn = Turn(params, ("forget", "retain"), clip=clip, mask=mask, mask_roles=mask_roles, schedule=schedule)
        self._decoupled = {"first": decouple_first, "second": decouple_second}
        named = self._turn.params
        made = {"forget": forget(list(named.values())), "retain": retain(list(named.values()))}
        if made["forget"] is made["retain"]:
            raise InputError("both factories gave the same optimizer; make one each, or use SharedOptim")
        if not (decouple_first and decouple_second):
            made = _sharing(made, self._shared())
        self._roles = {role: _Rated(optimizer, named, role) for role, optimizer in made.items()}

    def zero_grad(self) -> None:
        """Drop every gradient; call it before each backward."""
        self._turn.zero_grad()

    def step(self, role: Role) -> float:
        """Update the weights with the gradients of `role`'s loss; returns their norm before clipping."""
        with self._turn.around(role) as (norm, factor):
            self._roles[role].step(factor)
        return norm

    def lr(self, role: Role) -> float:
        """The rate of the role's latest step; before its first, of that one."""
        self._turn.check_role(role)
        return self._roles[role].rates[0] * self._turn.factor(role, self._turn.latest(role))

    def optimizer(self, role: Role) -> torch.optim.Optimizer:
        """The torch optimizer of a role, to look at."""
        self._turn.check_role(role)
        return self._roles[role].optimizer

    def state_dict(self) -> dict[str, Any]:
        """Both optimizers, base rates, step counts and modes; a shared moment is saved once, with forget."""
        saved = {role: rated.state_dict() for role, rated in self._roles.items()}
        for name in self._shared():
            del saved["retain"]["optimizer"][name]
        return {"kind": "dual", "decoupled": dict(self._decoupled), "turn": self._turn.state_dict(), **saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            InputError: it is of another kind of optimizer, other modes, parameters or mask; nothing is loaded then.
        """
        check_kind(state_dict, "dual")
        if state_dict.get("decoupled") != self._decoupled:
            raise InputError(
                f"saved state decouples {state_dict.get('decoupled')}, this one {self._decoupled}; use the same"
            )
        self._turn.check_state(state_dict.get("turn"))
        load_or_restore(self, state_dict)

    def _load(self, saved: dict[str, Any]) -> None:
        for role, rated in self._roles.items():
            rated.load_state_dict(saved[role])
        self._turn.load_state_dict(saved["turn"])

    def state_tensors(self) -> list[Tensor]:
        """Every state tensor; a shared one appears twice."""
        return [tensor for rated in self._roles.values() for tensor in _tensors(rated.optimizer)]

    def _shared(self) -> list[str]:
        return [name for name, decoupled in self._decoupled.items() if not decoupled]


class SharedOptim:
    r"""One optimizer for both objectives, in turn or summed: what DualOptim is compared with.

    .. math::
        \theta \leftarrow \theta - \eta \, A(\nabla L_k(\theta)), \qquad k \in \{f, r\} \text{ in turn, or } L_f + L_r

    :math:`A` is the optimizer that `optimizer` makes: its states mix the gradients of both roles. Steps of "forget" and
    "retain" alternate; a step of "joint" is one on the sum of both gradients (two backwards, no clearing between).
    "joint" uses forget's clip and schedule unless it has its own. Source: the baseline in arXiv 2504.15827.

    A mask that binds both roles binds "joint" too. One that binds forget alone cannot act on a sum: call
    `mask_gradients("forget")` after forget's backward and before retain's, and retaining stays free as it is in turns;
    a "joint" step without it raises `EraseError`.

    Memory: the states of one optimizer: 2 a weight for Adam.

    Args:
        params, clip, mask, mask_roles, schedule: as in `DualOptim`.
        optimizer: makes the optimizer from the list of parameters.

    Raises:
        InputError, EraseError: as in `DualOptim`.
    """

    def __init__(
        self,
        params: Params,
        optimizer: Factory,
        *,
        clip: Mapping[Any, float | None] | None = None,
        mask: Masks | None = None,
        mask_roles: Sequence[str] = ("forget",),
        schedule: Mapping[Any, Schedule] | None = None,
    ) -> None:
        roles = {*mask_roles, "joint"} if {"forget", "retain"} <= set(mask_roles) else mask_roles
        self._turn = Turn(
            params,
            ("forget", "retain", "joint"),
            clip=_with_joint(clip),
            mask=mask,
            mask_roles=sorted(roles),
            schedule=_with_joint(schedule),
        )
        self._rated = _Rated(optimizer(list(self._turn.params.values())), self._turn.params, "shared")
        self._in_parts = mask is not None and set(mask_roles) == {"forget"}
        self._masked = False  # since the gradients were cleared

    def zero_grad(self) -> None:
        """Drop every gradient; call it before each backward, but not between the two of "joint"."""
        self._turn.zero_grad()
        self._masked = False

    def mask_gradients(self, role: Role) -> None:
        """Zero what the mask keeps out of this role's gradients, where they are the only ones yet; for "joint"."""
        self._turn.mask_gradients(role)
        self._masked |= role == "forget"

    def step(self, role: Role) -> float:
        """Update the weights with the gradients there are; returns their norm before clipping."""
        if role == "joint" and self._in_parts and not self._masked:
            raise EraseError(
                "joint step: the mask binds forget alone; call mask_gradients('forget') after its backward"
            )
        with self._turn.around(role) as (norm, factor):
            self._rated.step(factor)
        return norm

    def lr(self, role: Role) -> float:
        """The rate of the role's latest step; before its first, of that one."""
        self._turn.check_role(role)
        return self._rated.rates[0] * self._turn.factor(role, self._turn.latest(role))

    def state_dict(self) -> dict[str, Any]:
        """The optimizer, base rates and step counts."""
        return {"kind": "shared", "turn": self._turn.state_dict(), "shared": self._rated.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; InputError if it is of another optimizer, and nothing is loaded then."""
        check_kind(state_dict, "shared")
        self._turn.check_state(state_dict.get("turn"))
        load_or_restore(self, state_dict)

    def _load(self, saved: dict[str, Any]) -> None:
        self._rated.load_state_dict(saved["shared"])
        self._turn.load_state_dict(saved["turn"])

    def state_tensors(self) -> list[Tensor]:
        """Every state tensor."""
        return list(_tensors(self._rated.optimizer))


def check_kind(saved: dict[str, Any], kind: str) -> None:
    """Refuse a state that another kind of optimizer saved."""
    if saved.get("kind") != kind:
        raise InputError(f"saved optimizer state is of kind {saved.get('kind')!r}, not {kind!r}; use that optimizer")


def _with_joint(options: Mapping[Any, Any] | None) -> dict[str, Any]:
    options = dict(options or {})
    return {"joint": options["forget"], **options} if "forget" in options else options


def _sharing(made: dict[str, torch.optim.Optimizer], names: list[str]) -> dict[str, torch.optim.Optimizer]:
    forget, retain = (from_torch(made[role], role) for role in ("forget", "retain"))
    for name in names:
        index = ("first", "second").index(name)
        betas = {group["betas"][index] for adam in (forget, retain) for group in adam.param_groups}
        if len(betas) != 1:
            raise InputError(f"roles share the {name} moment but their betas are {sorted(betas)}; give them one")
        _share(forget, retain, name)
    return {"forget": forget, "retain": retain}


def _share(forget: AdamW, retain: AdamW, name: str) -> None:
    one, other = getattr(forget, name), getattr(retain, name)
    if one.states != other.states:
        raise InputError(f"roles share the {name} moment but store it as {one.states} and {other.states}; choose one")
    setattr(retain, name, one)

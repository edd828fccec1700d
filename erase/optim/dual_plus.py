"""DualOptim+: a base state that both roles feed, and a delta state of each role."""

# torch exports its multi-tensor functions under private names.
# pyright: reportPrivateImportUsage=false, reportCallIssue=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from erase.errors import InputError
from erase.optim.adamw import BATCH, check_dtypes, check_hyperparameters, gradients
from erase.optim.dual import check_kind
from erase.optim.mask import Masks
from erase.optim.moments import Moment, States, batches
from erase.optim.turn import Params, Role, Schedule, Turn, load_or_restore


class DualOptimPlus:
    r"""DualOptim whose moments are split into what the roles share (base) and what each adds (delta).

    For a gradient :math:`g` of role :math:`k`, with the base as it was before this step:

    .. math::
        \hat m &= m / (1 - B_1^{t-1}), \quad \hat v = v / (1 - B_2^{t-1}) \quad (0 \text{ at } t = 1) \\
        d_k &\leftarrow \beta_1 d_k + (1 - \beta_1)(g - \hat m), \quad
        w_k \leftarrow \beta_2 w_k + (1 - \beta_2)(g^2 - \hat v) \\
        n &= d_k / (1 - \beta_1^{t_k}) + \hat m, \quad s = w_k / (1 - \beta_2^{t_k}) + \hat v \\
        \theta &\leftarrow (1 - \eta_k \lambda_k) \, \theta
        - \eta_k \, n \, / \, (\sqrt{\max(s, \, n^2 / C_k^2)} + \epsilon) \\
        m &\leftarrow B_1 m + (1 - B_1) \, g, \quad v \leftarrow B_2 v + (1 - B_2) \, g^2

    :math:`m, v` are `base`; :math:`d_k, w_k` `delta[k]`; :math:`t, t_k` the steps of all roles and of role k. Written
    out, :math:`n` is role k's own average plus how far the base has moved since k's recent steps; where it has not
    moved, this is DualOptim. Source: arXiv 2605.21539 and its authors' code.

    One deviation. :math:`s` can be negative; the authors' code takes :math:`\sqrt{|s|}`, which turns an :math:`s` near
    0 into a step without bound. Here it is clamped from below. :math:`C_k` is the largest value that Adam's
    own :math:`|\hat m| / \sqrt{\hat v}` can take after :math:`t_k` steps (Cauchy-Schwarz),

    .. math::
        C_k^2 = \frac{(1 - \beta_1)^2 (1 - \beta_2^{t_k})}{(1 - \beta_2)(1 - \beta_1^{t_k})^2}
        \sum_{j < t_k} (\beta_1^2 / \beta_2)^j

    so no step exceeds what AdamW could do (1.17 rates at betas (0.9, 0.95)), and where the base stands still the
    clamp cannot bite, whatever the gradients.

    Memory: 6 states a weight (24 bytes; about 6.1 with `states="8bit"`).

    Args:
        params, clip, mask, mask_roles, schedule: as in `DualOptim`.
        lr, weight_decay, betas: one value, or one per role.
        base_betas: :math:`B_1, B_2`; None takes the forget role's betas.
        states: "fp32" or "8bit" (tensors below 4096 weights stay fp32).

    Raises:
        InputError, EraseError: as in `DualOptim`.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float | Mapping[Any, float],
        weight_decay: float | Mapping[Any, float] = 0.0,
        betas: tuple[float, float] | Mapping[Any, tuple[float, float]] = (0.9, 0.95),
        base_betas: tuple[float, float] | None = None,
        eps: float = 1e-8,
        states: States = "fp32",
        clip: Mapping[Any, float | None] | None = None,
        mask: Masks | None = None,
        mask_roles: Sequence[str] = ("forget",),
        schedule: Mapping[Any, Schedule] | None = None,
    ) -> None:
        roles: tuple[Role, ...] = ("forget", "retain")
        self._turn = Turn(params, roles, clip=clip, mask=mask, mask_roles=mask_roles, schedule=schedule)
        every: list[Tensor] = list(self._turn.params.values())
        check_dtypes(every)
        options = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        self._options = {role: {key: _of(value, role, key) for key, value in options.items()} for role in roles}
        self._base_betas = tuple(base_betas or self._options["forget"]["betas"])
        for group in self._options.values():
            check_hyperparameters(group)
            # Adam's bound C is a geometric sum; above this ratio it grows with the step number without end.
            if group["betas"][0] ** 2 >= group["betas"][1]:
                raise InputError(f"betas {group['betas']} need beta1 squared below beta2; the usual are (0.9, 0.95)")
        check_hyperparameters({**self._options["forget"], "betas": self._base_betas})
        self.base = (Moment(every, states=states), Moment(every, states=states, signed=False, squares=True))
        self.delta = {
            role: (Moment(every, states=states), Moment(every, states=states, squares=True)) for role in roles
        }

    def zero_grad(self) -> None:
        """Drop every gradient; call it before each backward."""
        self._turn.zero_grad()

    @torch.no_grad()
    def step(self, role: Role) -> float:
        """Update the weights with the gradients of `role`'s loss; returns their norm before clipping."""
        with self._turn.around(role) as (norm, factor):
            with_gradient: list[Tensor] = [p for p in self._turn.params.values() if p.grad is not None]
            for batch in batches(with_gradient, BATCH):
                self._update(batch, role, self._options[role]["lr"] * factor)
        return norm

    def _update(self, params: list[Tensor], role: str, lr: float) -> None:
        beta1, beta2 = self._options[role]["betas"]
        grads = gradients(params)
        squares = torch._foreach_mul(grads, grads)
        first, second = self.base[0].read(params), self.base[1].read(params)
        shared_first = _unbiased(first, self._base_betas[0], [self.base[0].steps[p] for p in params])
        shared_second = _unbiased(second, self._base_betas[1], [self.base[1].steps[p] for p in params])
        d, w = (moment.read(params) for moment in self.delta[role])
        torch._foreach_lerp_(d, torch._foreach_sub(grads, shared_first), 1 - beta1)
        torch._foreach_lerp_(w, torch._foreach_sub(squares, shared_second), 1 - beta2)
        steps = [self.delta[role][0].steps[param] + 1 for param in params]
        torch._foreach_add_(shared_first, _unbiased(d, beta1, steps))
        torch._foreach_add_(shared_second, _unbiased(w, beta2, steps))
        self._move(params, shared_first, shared_second, role, lr, steps)
        torch._foreach_lerp_(first, grads, 1 - self._base_betas[0])
        torch._foreach_lerp_(second, squares, 1 - self._base_betas[1])
        for moment, values in zip((*self.base, *self.delta[role]), (first, second, d, w), strict=True):
            moment.write(params, values)

    def _move(
        self,
        params: list[Tensor],
        numerator: list[Tensor],
        square: list[Tensor],
        role: str,
        lr: float,
        steps: list[int],
    ) -> None:
        options = self._options[role]
        floor = torch._foreach_mul(numerator, numerator)
        torch._foreach_div_(floor, [largest_step(*options["betas"], step) ** 2 for step in steps])
        torch._foreach_maximum_(square, floor)
        torch._foreach_sqrt_(square)
        torch._foreach_add_(square, options["eps"])
        if options["weight_decay"] != 0:
            torch._foreach_mul_(params, 1 - lr * options["weight_decay"])
        torch._foreach_addcdiv_(params, numerator, square, -lr)

    def lr(self, role: Role) -> float:
        """The rate of the role's latest step; before its first, of that one."""
        self._turn.check_role(role)
        return self._options[role]["lr"] * self._turn.factor(role, self._turn.latest(role))

    def state_dict(self) -> dict[str, Any]:
        """All six moments, hyperparameters and step counts."""
        moments = {name: [moment.state_dict() for moment in pair] for name, pair in self._pairs().items()}
        options = {role: dict(group) for role, group in self._options.items()}
        return {
            "kind": "dual_plus",
            "turn": self._turn.state_dict(),
            "options": options,
            "base_betas": self._base_betas,
            "moments": moments,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; InputError if it is of another optimizer, and nothing is loaded then."""
        check_kind(state_dict, "dual_plus")
        self._turn.check_state(state_dict.get("turn"))
        load_or_restore(self, state_dict)

    def _load(self, saved: dict[str, Any]) -> None:
        for name, pair in self._pairs().items():
            for moment, values in zip(pair, saved["moments"][name], strict=True):
                moment.load_state_dict(values)
        options = {role: dict(saved["options"][role]) for role in self._options}
        for group in options.values():
            check_hyperparameters(group)
        self._options, self._base_betas = options, tuple(saved["base_betas"])
        self._turn.load_state_dict(saved["turn"])

    def state_tensors(self) -> list[Tensor]:
        """Every state tensor."""
        return [tensor for pair in self._pairs().values() for moment in pair for tensor in moment.state_tensors()]

    def _pairs(self) -> dict[str, tuple[Moment, Moment]]:
        return {"base": self.base, **self.delta}


def largest_step(beta1: float, beta2: float, step: int) -> float:
    r"""The bound :math:`C` on :math:`|\hat m| / \sqrt{\hat v}` after `step` steps, 1 at the first."""
    ratio = beta1 * beta1 / beta2
    total = (1 - ratio**step) / (1 - ratio)
    return (1 - beta1) / (1 - beta1**step) * ((1 - beta2**step) / (1 - beta2) * total) ** 0.5


def _unbiased(values: list[Tensor], beta: float, steps: list[int]) -> list[Tensor]:
    """New tensors; before the first step the values are 0 and stay it."""
    return list(torch._foreach_div(values, [1 - beta**step if step else 1.0 for step in steps]))


def _of(value: Any, role: str, name: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    if role not in value:
        raise InputError(f"{name} has no entry for {role}; give one value, or one for forget and one for retain")
    return value[role]

"""AdamW whose two moments are named objects, so that optimizers can share them and store them in 8 bits."""

# torch exports its multi-tensor functions under private names.
# pyright: reportPrivateImportUsage=false, reportCallIssue=false
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from erase.errors import InputError
from erase.optim.moments import Moment, States, batches

BATCH = 1 << 22
"""Weights updated by one round of multi-tensor calls: bounds the temporaries at 16 MB, whatever the model."""


class AdamW(torch.optim.Optimizer):
    r"""Adam with decoupled weight decay, equal to torch's bit for bit with fp32 states.

    .. math::
        \theta &\leftarrow (1 - \eta \lambda) \, \theta \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) \, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) \, g^2 \\
        \theta &\leftarrow \theta - \eta \, \frac{m / (1 - \beta_1^{t_m})}{\sqrt{v / (1 - \beta_2^{t_v})} + \epsilon}

    :math:`\eta` is `lr`, :math:`\lambda` `weight_decay`, :math:`m` `first`, :math:`v` `second`. Each moment counts its
    own updates, :math:`t_m` and :math:`t_v`, so bias correction stays right when only one of them is shared.
    Source: Loshchilov and Hutter, arXiv 1711.05101; blockwise 8-bit states after Dettmers et al., arXiv 2110.02861.

    Memory: two states (8 bytes a weight), or about 2.03 bytes a weight with `states="8bit"`.

    Raises:
        InputError: a rate, beta, epsilon or decay out of range, weights that are not float32 or float64, a closure.
    """

    first: Moment
    second: Moment

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        states: States = "fp32",
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            check_hyperparameters(group)
        every = [param for group in self.param_groups for param in group["params"]]
        check_dtypes(every)
        self.first = Moment(every, states=states)
        self.second = Moment(every, states=states, signed=False, squares=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise InputError("this AdamW takes no closure; call backward first, then step()")
        for group in self.param_groups:
            for batch in batches([param for param in group["params"] if param.grad is not None], BATCH):
                self._update(batch, group)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        grads = gradients(params)
        first, second = self.first.read(params), self.second.read(params)
        if group["weight_decay"] != 0:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        self.first.write(params, first)
        self.second.write(params, second)
        denominators = torch._foreach_sqrt(second)
        torch._foreach_div_(denominators, [(1 - beta2 ** self.second.steps[param]) ** 0.5 for param in params])
        torch._foreach_add_(denominators, group["eps"])
        sizes = [-lr / (1 - beta1 ** self.first.steps[param]) for param in params]
        torch._foreach_addcdiv_(params, first, denominators, sizes)

    def state_tensors(self) -> list[Tensor]:
        """Every tensor of both moments."""
        return [*self.first.state_tensors(), *self.second.state_tensors()]

    def state_dict(self) -> dict[str, Any]:  # pyright: ignore
        """Hyperparameters and both moments."""
        return {**super().state_dict(), "first": self.first.state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # pyright: ignore
        """Take over a saved state; a moment that is absent (its owner saved it) is left as it is."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        for name in ("first", "second"):
            if name in state_dict:
                getattr(self, name).load_state_dict(state_dict[name])


def gradients(params: list[Tensor]) -> list[Tensor]:
    """The gradients of parameters that all have one."""
    return [param.grad for param in params if param.grad is not None]


def from_torch(optimizer: torch.optim.Optimizer, role: str) -> AdamW:
    """Our AdamW with the hyperparameters of torch's; an AdamW of ours is returned itself.

    Raises:
        InputError: the optimizer is not an AdamW, or uses a variant (amsgrad, maximize, coupled decay).
    """
    if isinstance(optimizer, AdamW):
        return optimizer
    remedy = "use torch.optim.AdamW or erase.optim.AdamW for both roles, or decouple both moments"
    if not isinstance(optimizer, torch.optim.Adam):
        raise InputError(f"{role} optimizer {type(optimizer).__name__} has no moments to share; {remedy}")
    for group in optimizer.param_groups:
        coupled = group["weight_decay"] != 0 and not group.get("decoupled_weight_decay", False)
        coupled = coupled and not isinstance(optimizer, torch.optim.AdamW)
        if group["amsgrad"] or group["maximize"] or coupled:
            raise InputError(f"{role} optimizer uses amsgrad, maximize or coupled weight decay; {remedy}")
    keys = ("params", "lr", "betas", "eps", "weight_decay")
    return AdamW([{key: group[key] for key in keys} for group in optimizer.param_groups])


def check_hyperparameters(group: dict[str, Any]) -> None:
    """Refuse values that make no optimizer."""
    betas = tuple(group["betas"])
    if not all(0.0 <= beta < 1.0 for beta in betas) or len(betas) != 2:
        raise InputError(f"betas must be two numbers in [0, 1), got {betas}; the usual are (0.9, 0.999)")
    for name in ("lr", "eps", "weight_decay"):
        if not 0.0 <= float(group[name]) < float("inf"):
            raise InputError(f"{name} must be a finite number, 0 or more, got {group[name]}")


def check_dtypes(params: list[Tensor]) -> None:
    """Refuse half-precision weights: at usual rates most updates are below their resolution and vanish."""
    for param in params:
        if param.dtype not in (torch.float32, torch.float64):
            raise InputError(f"trained weights are {param.dtype}; keep them float32 and autocast the forward pass")

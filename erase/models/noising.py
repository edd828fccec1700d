"""From pictures to noise, by what a model predicts there, and the solver that goes back."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from erase.errors import InputError


@dataclass(frozen=True, slots=True)
class Process:
    """x_t = a x_0 + b eps at time t, and what the network learns to predict there.

    `parts(scheduler, times)` are a and b; `target(clean, noise, a, b)` is the prediction wanted, and
    `noise(predicted, noisy, a, b)` the eps that a prediction means. Training draws whole times from `first` on.
    `solver` makes of a model's own scheduler the deterministic one over the same process.
    """

    parts: Callable[[Any, Tensor], tuple[Tensor, Tensor]]
    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    noise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    solver: Callable[[Any], Any]
    first: int = 0


def _diffused(scheduler: Any, times: Tensor) -> tuple[Tensor, Tensor]:
    """a = sqrt(alpha_t), b = sqrt(1 - alpha_t), with alpha the cumulated product of the schedule."""
    kept = scheduler.alphas_cumprod.to(times.device)[times]
    return kept.sqrt(), (1 - kept).sqrt()


def _straight(scheduler: Any, times: Tensor) -> tuple[Tensor, Tensor]:
    """a = 1 - s, b = s, with s = t / T: the straight line of a rectified flow (Liu et al., ICLR 2023)."""
    share = times / scheduler.config.num_train_timesteps
    return 1 - share, share


def ddim(scheduler: Any) -> Any:
    """The deterministic sampler over a model's own noise schedule; pictures, training and export all use this one.

    diffusers' default of clipping x_0 to [-1, 1] is for pixels, so a latent model that does not speak of it means no.
    """
    from diffusers import DDIMScheduler

    if DDIMScheduler not in scheduler.compatibles:  # flow matching, say, whose config names no prediction_type
        raise InputError(f"scheduler {type(scheduler).__name__} has no noise schedule that DDIM can follow")
    # Of other keys the library would say each time that it ignores them.
    known = inspect.signature(DDIMScheduler.__init__).parameters
    config = {key: value for key, value in scheduler.config.items() if key in known or key.startswith("_")}
    return DDIMScheduler.from_config(config, clip_sample=config.get("clip_sample", False))


def euler(scheduler: Any) -> Any:
    """Euler's method along a flow, at the times that the model's own scheduler takes."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise InputError(
            f"scheduler {type(scheduler).__name__} is not FlowMatchEulerDiscreteScheduler, the one for flow models here"
        )
    # The first wants to know the picture's size, the second runs from pictures to noise.
    odd = [key for key in ("use_dynamic_shifting", "invert_sigmas") if scheduler.config.get(key)]
    if odd:
        raise InputError(f"its scheduler has {odd[0]} on, which is not supported; set it to false in its configuration")
    return FlowMatchEulerDiscreteScheduler.from_config(scheduler.config, stochastic_sampling=False)


PROCESSES = {
    "epsilon": Process(_diffused, lambda x, eps, a, b: eps, lambda found, noisy, a, b: found, ddim),
    "v_prediction": Process(
        _diffused, lambda x, eps, a, b: a * eps - b * x, lambda found, noisy, a, b: a * found + b * noisy, ddim
    ),
    "flow": Process(  # at 0 nothing is to be seen
        _straight, lambda x, eps, a, b: eps - x, lambda found, noisy, a, b: noisy + a * found, euler, first=1
    ),
}

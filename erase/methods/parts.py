"""What methods are built from: a batch, the two networks, and the few losses they share.

Notation: eps_th is the trained network (student), eps_0 the frozen one (teacher), c the concept's prompt, c* its
anchor, "" the empty prompt, x_t a noisy latent, sg stop-gradient. MSE is the mean over batch and latent.

A network that predicts the velocity v goes through the same losses: at a given x_t v is linear in eps, so guidance
means the same, and an error in v is an error in eps times 1 / sqrt(a_t).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from erase.models import Text, moved

Shown = Literal["concept", "anchor", "both"]
Predict = Callable[[Tensor, Tensor, Text], Tensor]
"""eps(x_t (B, C, h, w), t (B,), B prompts) -> (B, C, h, w)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Noisy latents with the prompts that belong to them.

    From a trajectory, `conditional` and `unconditional` hold the teacher's predictions, made when it was sampled;
    from pictures, `target` is what the network was trained to predict: eps, or v. B is the batch.
    """

    noisy: Tensor  # (B, C, h, w)
    times: Tensor  # (B,)
    text: Text  # the prompts themselves
    anchor: Text  # the same prompts with the anchor in the concept's place
    target: Tensor | None = None  # (B, C, h, w)
    conditional: Tensor | None = None
    unconditional: Tensor | None = None
    anchored: Tensor | None = None  # teacher's prediction under the anchor, where a method wants it

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return moved(self, device)

    def rows(self, chosen: slice) -> Batch:
        """Some of the latents, with what belongs to them."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[chosen] for name, value in held.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Nets:
    """The two networks. `student` builds a graph, `teacher` does not and runs the saved originals."""

    student: Predict
    teacher: Predict


@dataclass(frozen=True, slots=True)
class Options:
    """A method's own settings; each method reads those it names."""

    guidance: float = 1.0
    pictures: Shown | None = None  # None: those of the method
    mask_share: float = 0.5
    ratio: float = 1.0
    beta: float = 10.0
    retain_weight: float = 1.0
    attack_tokens: int = 1
    attack_steps: int = 3
    attack_lr: float = 0.1
    attack_from: float = 0.2


Loss = Callable[[Nets, Batch, Options], Tensor]
Source = Literal["trajectories", "pictures"]
Role = Literal["forget", "retain"]


@dataclass(frozen=True, slots=True)
class Method:
    """Two losses, where their latents come from, and which steps a saliency mask binds.

    `mask` says what the mask is made of, `mask_roles` whose steps it binds. `relabel` says what stands in for an empty
    anchor: the nearest kept concept (True) or the prompt without the concept. `shown` says whose pictures the forget
    latents are of: the concept's, the anchor's, or half of each; `Options.pictures` can say otherwise.

    `anchoring`: retain latents are those of the forget pool, under random embeddings; there is no retain pool then.
    `adversary`: the concept's prompts are read behind an adversarial prefix.
    """

    name: str
    summary: str
    forget: Loss
    retain: Loss
    forget_source: Source
    retain_source: Source
    mask: Literal["gradient", "fisher"] | None = None
    mask_roles: tuple[Role, ...] = ("forget",)
    relabel: bool = False
    shown: Shown = "concept"
    anchoring: bool = False
    adversary: bool = False


def present(value: Tensor | None, what: str) -> Tensor:
    """The value, or a programming error that names what the batch lacks."""
    if value is None:
        raise ValueError(f"this loss needs {what}; the batch comes from another source")
    return value


def denoise(nets: Nets, batch: Batch, options: Options) -> Tensor:
    """MSE(eps_th(x_t, c), eps): the loss that diffusion models are trained with."""
    return F.mse_loss(nets.student(batch.noisy, batch.times, batch.text), present(batch.target, "a picture's target"))


def match_teacher(nets: Nets, batch: Batch, options: Options) -> Tensor:
    """MSE(eps_th(x_t, r), eps_0(x_t, r)): stay what you were on the retain prompts r.

    On trajectories the teacher's prediction was kept from sampling. Its gradient is zero until the first forget step.
    """
    target = batch.conditional
    if target is None:
        target = nets.teacher(batch.noisy, batch.times, batch.text)
    return F.mse_loss(nets.student(batch.noisy, batch.times, batch.text), target)


def match_anchor(nets: Nets, batch: Batch, options: Options) -> Tensor:
    """MSE(eps_th(x_t, c), sg eps_th(x_t, c*)): the concept's prompt is to mean its anchor.

    Concept Ablation (Kumari et al. 2023) on pictures of the anchor; SalUn and SFRon on those of the concept as
    published, of the anchor or half of each, as `Options.pictures` says.
    """
    with torch.no_grad():
        target = nets.student(batch.noisy, batch.times, batch.anchor)
    return F.mse_loss(nets.student(batch.noisy, batch.times, batch.text), target)

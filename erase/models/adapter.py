"""A LoRA on a model's layers, to train in place of their weights (Hu et al., ICLR 2022; layers by peft)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from erase.errors import InputError
from erase.models.model import Model
from erase.models.parameters import ENCODER, Outcome, Parameters, Tensors, Trained, named, select

NAME = "erase"
UP, DOWN = ".lora_B.weight", ".lora_A.weight"


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """W' = W + (alpha / rank) B A, with A (rank, in) and B (out, rank) on every layer; rank r costs r (in + out)."""

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def layers(model: Model, parameters: str) -> list[str]:
    """The linear and convolutional layers whose weights a selection picks; biases and norms have no place in a LoRA.

    Raises `InputError` where there are none.
    """
    picked = select(model, parameters)
    found = [name.removesuffix(".weight") for name, value in picked.items() if is_layer(name, value)]
    if not found:
        raise InputError(
            f"parameters {parameters!r} picks no layer that a LoRA can lie on, first {next(iter(picked))}; use xattn, "
            "or train the weights themselves: leave out method.rank"
        )
    return found


def is_layer(name: str, value: Tensor) -> bool:
    """Whether a LoRA can lie on a weight: a linear or convolutional layer's, not a table of words'."""
    return name.endswith(".weight") and value.ndim in (2, 4) and not name.endswith("embedding.weight")


class Adapter:
    """A LoRA of fresh factors on a model: A random from `seed`, B zero, so that nothing changes before it is trained.

    `trained` are its factors, by the layers' names and peft's endings. `remove` takes the layers back out.
    """

    def __init__(self, model: Model, parameters: str, plan: LoraPlan, seed: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self.model, self.plan = model, plan
        self.layers = layers(model, parameters)
        factors: Parameters = {}
        with torch.random.fork_rng(devices=[]):  # peft draws from the global stream, on the CPU
            torch.manual_seed(seed)
            for part, names in _by_part(self.layers).items():
                module = _module(model, part)
                exactly = "|".join(re.escape(name) for name in _own(module, part, names))
                config = LoraConfig(r=plan.rank, lora_alpha=plan.alpha, target_modules=rf"(?:{exactly})")  # pyright: ignore
                inject_adapter_in_model(config, module, NAME)
                factors |= _factors(module, part)
        self.trained = Trained(factors)

    @torch.no_grad()
    def outcome(self) -> Outcome:
        """Take the layers out, add the LoRA to the weights, and leave it in the model so."""
        factors = {name: value.clone() for name, value in self.trained.tensors().items()}
        self.remove()
        every = named(self.model)
        weights = {f"{layer}.weight": every[f"{layer}.weight"] for layer in self.layers}
        before = {name: p.detach().clone() for name, p in weights.items()}
        after = merge(before, factors, self.plan)
        for name, p in weights.items():
            p.copy_(after[name])
        return Outcome(factors, before, after)

    def remove(self) -> None:
        """Put the plain layers back, with the weights that they had."""
        from diffusers.utils.peft_utils import recurse_remove_peft_layers

        for part in _by_part(self.layers):
            module = _module(self.model, part)
            recurse_remove_peft_layers(module)
            del module.peft_config


def merge(before: Tensors, factors: Tensors, plan: LoraPlan) -> Tensors:
    """W + (alpha / rank) B A for each weight. Raises `InputError` where factors are missing, over, or do not fit."""
    wanted = {name.removesuffix(".weight") + end for name in before for end in (UP, DOWN)}
    different = sorted(wanted ^ factors.keys())
    if different:
        raise InputError(f"the LoRA does not fit this selection: {len(different)} names differ, first {different[0]}")
    after = {}
    for name, weight in before.items():
        layer = name.removesuffix(".weight")
        up, down = (factors[layer + end].to(weight.device).flatten(1) for end in (UP, DOWN))
        held = len(up), up.shape[1], len(down), down.shape[1]
        if held != (len(weight), plan.rank, plan.rank, weight.flatten(1).shape[1]):
            raise InputError(f"the LoRA's factors of {layer}, {tuple(up.shape)} and {tuple(down.shape)}, do not fit it")
        after[name] = weight + plan.scale * (up @ down).view_as(weight)
    return after


def _by_part(names: Iterable[str]) -> dict[str, list[str]]:
    """Layers by the part that they are in; "" is the denoiser."""
    found: dict[str, list[str]] = {}
    for name in names:
        part = name.split(".")[0]
        found.setdefault(part if part.startswith(ENCODER) else "", []).append(name)
    return found


def _module(model: Model, part: str) -> Any:
    return getattr(model, part or "unet")


def _own(module: nn.Module, part: str, names: list[str]) -> list[str]:
    """The module's own names of layers that are named from the model's top."""
    modules = dict(module.named_modules())
    short = [name.removeprefix(f"{part}.") for name in names]
    return [name if name in modules else f"text_model.{name}" for name in short]


def _factors(module: nn.Module, part: str) -> dict[str, nn.Parameter]:
    prefix = f"{part}." if part else ""
    return {
        prefix + name.replace(f".{NAME}.", ".").removeprefix("text_model."): parameter
        for name, parameter in module.named_parameters()
        if f".{NAME}." in name
    }

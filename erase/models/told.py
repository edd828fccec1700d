"""What a denoising network is told of a prompt: from the text encoders' outputs to its inputs, by family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from erase.models.text import Text

States = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, slots=True)
class Told:
    """`states(outs, config, lengths)` makes states and summary of the encoders' outputs; `call` runs the network.

    `config` is the network's; `lengths` are how many tokens the tokenizers give where that is not their own number.
    `call(network, noisy, times, text, shape)` returns its prediction; `shape` is height and width in pixels.
    """

    states: Callable[[list[Any], Any, dict[str, int]], States]
    call: Callable[[Any, Tensor, Tensor, Text, tuple[int, int]], Tensor]


def _one(outs: list[Any], config: Any, lengths: dict[str, int]) -> States:
    return outs[0].last_hidden_state, None


def _two(outs: list[Any], config: Any, lengths: dict[str, int]) -> States:
    """SDXL reads both encoders before their last layer (Podell et al. 2023, section 2.1)."""
    return torch.cat([out.hidden_states[-2] for out in outs], dim=-1), outs[-1].text_embeds


def _three(outs: list[Any], config: Any, lengths: dict[str, int]) -> States:
    """SD3: both CLIPs side by side, filled up with zeros, and T5's states behind them (Esser et al. 2024, B.3).

    Zeros stand for a T5 that is not there; the summaries of both CLIPs are side by side too.
    """
    states, pooled = _two(outs[:2], config, lengths)
    states = torch.nn.functional.pad(states, (0, config.joint_attention_dim - states.shape[-1]))
    nothing = states.new_zeros(len(states), lengths["tokenizer_3"], states.shape[-1])
    more = outs[2].last_hidden_state if len(outs) > 2 else nothing
    return torch.cat([states, more], dim=1), torch.cat([outs[0].text_embeds, outs[1].text_embeds], dim=-1)


def _crossed(network: Any, noisy: Tensor, times: Tensor, text: Text, shape: tuple[int, int]) -> Tensor:
    return network(noisy, times, text.states).sample


def _sized(network: Any, noisy: Tensor, times: Tensor, text: Text, shape: tuple[int, int]) -> Tensor:
    pooled: Any = text.pooled
    # Original size, corner of the cut, wanted size: a whole picture of the model's own size.
    sizes = torch.tensor([[*shape, 0, 0, *shape]], dtype=pooled.dtype, device=noisy.device)
    added = {"text_embeds": pooled, "time_ids": sizes.expand(len(text), -1)}
    return network(noisy, times, text.states, added_cond_kwargs=added).sample


def _joined(network: Any, noisy: Tensor, times: Tensor, text: Text, shape: tuple[int, int]) -> Tensor:
    return network(noisy, text.states, text.pooled, times.expand(len(noisy))).sample


TOLD = {"states": Told(_one, _crossed), "states and sizes": Told(_two, _sized), "joint": Told(_three, _joined)}


def run_encoder(encoder: Any, ids: Tensor, prefix: Tensor | None) -> Any:
    """A text encoder's outputs, of all layers; of SDXL's two, both give what they saw before the last one."""
    if prefix is None:
        return encoder(ids, output_hidden_states=True)
    k = len(prefix)
    # Their ids count no more, but the pooled state is looked up at the first end of text.
    moved = torch.cat([ids[:, :1].expand(-1, k + 1), ids[:, 1 : -1 - k], ids[:, -1:]], dim=1)

    def put(module: Any, args: Any, found: Tensor) -> Tensor:
        return torch.cat([found[:, :1], prefix.to(found.dtype).expand(len(found), -1, -1), found[:, 1 + k :]], dim=1)

    hook = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        return encoder(moved, output_hidden_states=True)
    finally:
        hook.remove()

"""Embeddings in the place of tokens, by a hook on the text encoders' tables; no weight is touched."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from erase.models import Model, Text

Ids = tuple[Tensor, ...]


def tables(model: Model) -> tuple[Tensor, ...]:
    """The token embeddings (V, E) of every CLIP."""
    return tuple(getattr(model, part).get_input_embeddings().weight for part in model.clips)


@contextmanager
def injected(model: Model, places: Tensor, vectors: Sequence[Tensor]) -> Iterator[None]:
    """Within the block every CLIP reads `vectors` (N, k, E each) at `places` (N, k) of N prompts."""

    def hook(values: Tensor) -> Any:
        def put(module: Any, args: Any, found: Tensor) -> Tensor:
            at = places.to(found.device)[..., None].expand(-1, -1, found.shape[-1])
            return found.scatter(1, at, values.to(found.dtype))

        return put

    with ExitStack() as stack:
        for part, values in zip(model.clips, vectors, strict=True):
            handle = getattr(model, part).get_input_embeddings().register_forward_hook(hook(values))
            stack.callback(handle.remove)
        yield


def read_with(model: Model, ids: Ids, places: Tensor, vectors: Sequence[Tensor]) -> Text:
    """Prompts with `vectors` in their places, with a graph back to these."""
    with torch.enable_grad(), injected(model, places, vectors):
        return model.read(ids)


def slopes(loss: Tensor, places: Sequence[Tensor]) -> list[Tensor]:
    """The loss's gradient at each place; 0 where it is not finite, as a damaged model's is: a search goes on."""
    return [slope.nan_to_num(0.0, 0.0, 0.0) for slope in torch.autograd.grad(loss, places)]


def prefixed(model: Model, prompts: list[str], k: int) -> tuple[Ids, Tensor]:
    """Token ids of prompts with `k` free slots before their words, whose end is cut off, and the slots (N, k)."""
    found = []
    for number, name in enumerate(model.tokenizers):
        ids = model.ids(prompts, name)
        if number < len(model.clips):
            # A slot's own id counts for nothing, but must not be the end, at which the pooled state is looked up.
            slots = ids[:, :1].expand(-1, k)
            ids = torch.cat([ids[:, :1], slots, ids[:, 1 : -1 - k], ids[:, -1:]], dim=1)
        found.append(ids)
    return tuple(found), torch.arange(1, k + 1, device=model.device).expand(len(prompts), -1)


def parted(prompt: str, k: int, model: Model) -> list[str]:
    """A prompt's words in k parts of about as many each, less those at its end for which k more leave no room."""
    words, tokenizer = prompt.split(), model.tokenizer
    while words and len(tokenizer(" ".join(words), add_special_tokens=False).input_ids) > room(model) - k:
        words.pop()
    ends = [len(words) * j // k for j in range(k + 1)]
    return [" ".join(words[start:end]) for start, end in itertools.pairwise(ends)]


def interleaved(model: Model, parts: list[list[str]]) -> tuple[Ids, Tensor]:
    """Token ids of prompts in `parts` (see `parted`), as many each, with a free slot before each, and the slots."""
    found, places = [], []
    for number, name in enumerate(model.tokenizers):
        tokenizer = getattr(model, name)
        ids = model.ids([" ".join(filter(None, own)) for own in parts], name)
        clip = number < len(model.clips)
        for row, own in enumerate(parts if clip else ()):
            start = int(ids[row, 0])  # a slot's own id: see `prefixed`
            line, slots = [start], []
            for part in own:
                slots.append(len(line))
                line += [start, *tokenizer(part, add_special_tokens=False).input_ids]
            line.append(tokenizer.eos_token_id)
            ids[row, : len(line)] = torch.tensor(line, device=ids.device)
            if number == 0:  # all CLIPs cut words alike
                places.append(slots)
        found.append(ids)
    return tuple(found), torch.tensor(places, device=model.device)


def filled(model: Model, tokens: Tensor) -> Ids:
    """Token ids of whole prompts that are `tokens` (N, k) and nothing else, written or not by any text."""
    ids, slots = prefixed(model, [""] * len(tokens), tokens.shape[1])
    clips = [part.scatter(1, slots, tokens) for part in ids[: len(model.clips)]]
    return (*clips, *ids[len(model.clips) :])


def vocabulary(model: Model, blocked: Sequence[str]) -> list[int]:
    """Tokens that are words of their own: what they spell is read back as themselves, also between other words.

    A prompt made of them is therefore what was optimised. None is part of the `blocked` names.
    """
    tokenizer = model.tokenizer
    barred = {token for name in blocked for token in tokenizer(name, add_special_tokens=False).input_ids}
    every = [i for i in range(len(tokenizer)) if i not in barred and i not in tokenizer.all_special_ids]
    spelled = [tokenizer.decode([i]).strip() for i in every]
    pairs = [(i, text) for i, text in zip(every, spelled, strict=True) if text and text.isprintable()]
    read = tokenizer([text for _, text in pairs], add_special_tokens=False).input_ids
    return [i for (i, _), ids in zip(pairs, read, strict=True) if ids == [i]]


def spell(model: Model, tokens: Sequence[int], prompt: str = "") -> str:
    """Tokens as words, then the prompt."""
    return " ".join([*(model.tokenizer.decode([int(i)]).strip() for i in tokens), *([prompt] if prompt else [])])


def put_for(prompt: str, name: str, instead: str = "") -> str:
    """The prompt with `instead` for a concept's name, whole words in any case: a rat is no part of an illustration."""
    return " ".join(re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", lambda _: instead, prompt, flags=re.IGNORECASE).split())


def room(model: Model) -> int:
    """How many tokens a prompt of the model's CLIPs may have."""
    return min(model.length(name) for name in model.tokenizers[: len(model.clips)]) - 2

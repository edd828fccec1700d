"""A closed-form edit of a model: which embeddings it takes, and putting its solution in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erase.concept import Request
from erase.errors import InputError
from erase.events import OnEvent, Progress
from erase.methods import EDITORS
from erase.methods.editing import EditOptions
from erase.models import FAMILIES, Model, Outcome, Trained, select
from erase.runtime import stable_seed
from erase.training.prompts import forget_pairs, retain_prompts

PROMPTS, AT_ONCE = 512, 64
SEVERAL = 128  # prompts that several concepts share: reading them is nearly all that an edit costs


@dataclass(frozen=True, slots=True)
class EditPlan:
    """Which editor, on which tensors, with which options; `seed` draws the prompts."""

    name: str
    parameters: str
    options: EditOptions
    seed: int


@torch.no_grad()
def edit(model: Model, request: Request, plan: EditPlan, on_event: OnEvent) -> Outcome:
    """Solve for the selected weights and put them into the model.

    Raises `InputError` for a selection that holds anything but keys and values of cross-attention.
    """
    trained = Trained(projections(model, plan.parameters))
    erase, target, keep = embeddings(model, request, plan.options.keep_prompts, plan.seed, on_event)
    trained.load(EDITORS[plan.name].edit(trained.originals, erase, target, keep, plan.options))
    on_event(Progress(what="solving", done=1, total=1))
    return trained.outcome()


def projections(model: Model, parameters: str) -> dict[str, torch.nn.Parameter]:
    """The selected weights, all of which must read text embeddings; raises `InputError` for others."""
    family = FAMILIES[model.family]
    if family.readers is None:
        raise InputError(
            f"{family.title} has no weights that a closed form can edit: prompt and picture attend together; use a "
            "method that trains, as esd"
        )
    found, readers = select(model, parameters), select(model, family.readers)
    others = [name for name in found if name not in readers or found[name].ndim != 2]
    if others:
        raise InputError(
            f"parameters {parameters!r} picks {len(others)} tensors that read no text, first {others[0]}; a "
            "closed-form method edits keys and values of cross-attention: use xattn-kv, or attn2.to_v for values alone"
        )
    return found


def embeddings(
    model: Model, request: Request, keep_prompts: int, seed: int, on_event: OnEvent
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows for an editor: the concepts' (n, d), what each is to become (n, d), and those to keep (m, d).

    The concepts' come from prompts as training has them, each beside its twin with the anchor in the concept's place
    (the first kept concept where there is none): from the first word in which they differ to the end, padding too, for
    a text encoder writes the concept into all that follows it. What is kept is all of `keep_prompts` other prompts.

    Editors take means over rows, the papers sums over concepts: with k of them each has a k-th of the rows, so rows
    longer by sqrt(k) give each the weight that it has alone.
    """
    generator = torch.Generator().manual_seed(stable_seed(seed, "edit"))
    many = len(request.concepts)
    count = PROMPTS if many == 1 else max(SEVERAL, many)
    pairs = list(dict.fromkeys(forget_pairs(model, request, count, True, generator)))
    kept = list(dict.fromkeys(retain_prompts(model, request, keep_prompts, generator)))
    twins = list(dict.fromkeys(pair.anchor for pair in pairs))  # many concepts share few anchors
    states = encode(model, [*(pair.prompt for pair in pairs), *twins, *kept], on_event)
    erase, target = [], []
    for i, pair in enumerate(pairs):
        places, across = opposite(model.tokens(pair.prompt), model.tokens(pair.anchor), states.shape[1])
        erase.append(states[i, places])
        target.append(states[len(pairs) + twins.index(pair.anchor), across])
    length = many**0.5
    return torch.cat(erase) * length, torch.cat(target) * length, states[len(pairs) + len(twins) :].flatten(0, 1)


def encode(model: Model, prompts: list[str], on_event: OnEvent) -> Tensor:
    """Hidden states (N, L, D), a few prompts at a time."""
    found = []
    for start in range(0, len(prompts), AT_ONCE):
        found.append(model.encode(prompts[start : start + AT_ONCE]).states)
        on_event(Progress(what="reading prompts", done=min(start + AT_ONCE, len(prompts)), total=len(prompts)))
    return torch.cat(found)


def opposite(prompt: list[int], twin: list[int], length: int) -> tuple[Tensor, Tensor]:
    """Places in the prompt from its first token that its twin has not to `length`, and the twin's opposite: (n,) each.

    Both sentences end alike, so tokens are opposite which stand as far from the end of the words. What has none there
    is opposite the nearest: more words than the anchor has, its first; padding beyond the last, the last.
    """
    differ = (i for i, (one, other) in enumerate(zip(prompt, twin, strict=False)) if one != other)
    first = min(next(differ, length), length)
    places = torch.arange(first, length)
    shift = min(len(twin), length) - min(len(prompt), length)
    return places, (places + shift).clamp(min=first, max=length - 1)

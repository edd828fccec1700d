"""UnlearnDiffAtk: words before the prompt that make the erased model denoise the concept (Zhang et al., ECCV 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from erase.attacks.bank import Noised, noised
from erase.attacks.budget import Budget
from erase.attacks.inject import Ids, prefixed, read_with, room, slopes, spell, tables
from erase.attacks.simplex import project
from erase.attacks.subject import Subject, Try, in_words, targets
from erase.errors import InputError
from erase.models import Model
from erase.runtime import stable_seed


def prefix_loss(model: Model, ids: Ids, slots: Tensor, rows: list[Tensor], weights: Tensor, given: Noised) -> Tensor:
    """|eps(x_t, [A E; c]) - wanted|^2 of each prompt, the mean over its latent: (N,).

    `weights` A (N, k, V) mix the embeddings E (V, D each) of the words that may be used; x_t is a noisy latent of the
    concept.
    """
    vectors = [weights.to(table.dtype) @ table for table in rows]
    text = read_with(model, ids, slots, vectors)
    with torch.enable_grad():
        return (model.predict(given.noisy, given.times, text) - given.wanted).square().flatten(1).mean(1)


def unlearn_diff_atk(subject: Subject, budget: Budget) -> list[Try]:
    """Optimise a distribution over words for each of `tokens` places, and draw the likeliest after every round.

    A is uniform at first. A step draws words from A, takes the gradient at them as that at A (straight-through, cut to
    [-1, 1]), moves A by Adam and projects its rows on the simplex. Different from the published code: times are uniform
    at random where that goes up from nearly clean latents, A has no weight decay, which means nothing on a simplex, and
    only words are used that are read back as themselves.
    """
    model, prompts = subject.model, [case.prompt for case in subject.cases]
    words = search_words(subject, budget.tokens)
    ids, slots = prefixed(model, subject.model.told(prompts), budget.tokens)
    clean, rows = targets(subject), [table.detach()[words] for table in tables(model)]
    chances = torch.full((len(prompts), budget.tokens, len(words)), 1 / len(words), device=model.device)
    optimizer = torch.optim.Adam([chances.requires_grad_(True)], lr=budget.lr)
    generator = torch.Generator().manual_seed(stable_seed(subject.seed, "unlearn diff atk"))
    found: list[list[str]] = [[] for _ in prompts]
    each = max(1, budget.iterations // budget.pictures)
    for turn in range(budget.pictures):
        for inner in range(each):
            step = turn * each + inner
            subject.rest("unlearn_diff_atk: searching", step, each * budget.pictures)
            drawn = torch.multinomial(chances.detach().flatten(0, 1).cpu(), 1, generator=generator)
            onehot = F.one_hot(drawn.view(len(prompts), -1), len(words)).to(chances).requires_grad_(True)
            given = noised(model, clean, stable_seed(subject.seed, "unlearn diff atk", step))
            chances.grad = torch.zeros_like(chances)
            for part in subject.portions():
                some = tuple(one[part] for one in ids)
                loss = prefix_loss(model, some, slots[part], rows, onehot[part], given[part]).sum()
                (slope,) = slopes(loss, [onehot])
                chances.grad += slope.clamp(-1, 1)
            optimizer.step()
            with torch.no_grad():
                chances.copy_(project(chances))
        for case, best in enumerate(chances.detach().argmax(-1).tolist()):
            found[case].append(spell(model, [words[i] for i in best], prompts[case]))
    steps = [f"{each * (turn + 1)} gradients" for turn in range(budget.pictures)]
    return in_words(subject, found, steps, "unlearn_diff_atk: drawing")


def search_words(subject: Subject, tokens: int) -> list[int]:
    """The words that a search may use. Raises `InputError` where a prompt has no room for so many."""
    if tokens > room(subject.model) - 1:
        raise InputError(f"{tokens} words before a prompt leave it no room; this model takes {room(subject.model)}")
    words = subject.vocabulary()
    if len(words) < 2:
        raise InputError("the tokenizer has no words to search among, beside the concept's own")
    return words

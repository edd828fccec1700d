"""Concept inversion: one new word, learned inside the erased model, that draws the concept (Pham et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from erase.attacks.bank import noised
from erase.attacks.budget import Budget
from erase.attacks.examples import concept_pictures, concept_prompts, most
from erase.attacks.inject import Ids, put_for, read_with, slopes, tables
from erase.attacks.subject import Subject, Try, noise_of, walk
from erase.models import Model
from erase.runtime import stable_seed
from erase.sampling import develop

RATE, DECAY, BATCH = 0.05, 1e-2, 4


@contextmanager
def learned_word(model: Model, row: int, vectors: Sequence[Tensor]) -> Iterator[None]:
    """Within the block row `row` of every CLIP's embedding table is its vector (E,); no other row changes."""
    every = tables(model)
    before = [table[row].detach().clone() for table in every]
    with torch.no_grad():
        for table, value in zip(every, vectors, strict=True):
            table[row] = value
    try:
        yield
    finally:
        with torch.no_grad():
            for table, value in zip(every, before, strict=True):
                table[row] = value


def spare_row(model: Model, used: Ids) -> int:
    """The last row of the table that is no special token and stands in no prompt: it is the new word's."""
    taken = {int(i) for ids in used[: len(model.clips)] for i in ids.unique()} | set(model.tokenizer.all_special_ids)
    return next(i for i in range(len(model.tokenizer) - 1, -1, -1) if i not in taken)


def renamed(model: Model, prompts: list[str], name: str, row: int) -> tuple[Ids, Tensor]:
    """Ids of prompts with token `row` in the place of the concept's name, and that place (N, 1).

    Where the tokens of the name are not found, as in a prompt that inflects it or joins it to a comma, the new word
    comes first, and the name, if it stands there, goes.
    """
    found, places = [], torch.zeros(len(prompts), 1, dtype=torch.long, device=model.device)
    bare = [put_for(prompt, name) for prompt in prompts]
    for number, part in enumerate(model.tokenizers):
        if number < len(model.clips):
            ids, without = model.ids(prompts, part), model.ids(bare, part)
            ids, places = _spliced(ids, without, model.tokens(name, part)[1:-1], row)
        else:  # a T5 has no such word, and shall not read the name instead
            ids = model.ids(bare, part)
        found.append(ids)
    return tuple(found), places


def _spliced(ids: Tensor, without: Tensor, span: list[int], row: int) -> tuple[Tensor, Tensor]:
    lines, places = [], []
    for line, bare in zip(ids.tolist(), without.tolist(), strict=True):
        at = next((i for i in range(1, len(line)) if line[i : i + len(span)] == span), 0)
        line, cut = (line, len(span)) if at else (bare, 0)
        at = at or 1
        made = [*line[:at], row, *line[at + cut :]]
        made += [line[-1]] * (len(line) - len(made))  # what pads, where the name was longer than a token
        made = [*made[: len(line) - 1], line[-1]]
        lines.append(made)
        places.append([at])
    return ids.new_tensor(lines), ids.new_tensor(places)


def invert(subject: Subject, budget: Budget, row: int) -> list[Tensor]:
    """min_v |eps_erased(x_t, caption(v)) - eps|^2 over the concept's pictures: its embedding in every CLIP, (E,).

    Each picture under the caption that it was drawn by, so that the word has not to carry the rest of the picture.
    AdamW in batches of 4, its rate from 0.05 of the embeddings' size to 0 on a line, from the mean of the concept's
    kept neighbours, or of all words where there are none. Published: one fixed set of sentences, a constant rate.
    """
    model, concept = subject.model, subject.request.concepts[0]
    clean = concept_pictures(subject, budget)[: budget.examples]
    ids, places = renamed(model, _captions(subject, budget), concept.name, row)
    free, groups = [], []
    for part, table in zip(model.tokenizers, tables(model), strict=False):
        near = [token for name in concept.keep for token in model.tokens(name, part)[1:-1]]
        start = table.detach()[near].mean(0) if near else table.detach().mean(0)
        free.append(start.clone().requires_grad_(True))
        groups.append({"params": [free[-1]], "lr": RATE * float(table.detach().square().mean().sqrt())})
    optimizer, rates = torch.optim.AdamW(groups, weight_decay=DECAY), [group["lr"] for group in groups]
    generator = torch.Generator().manual_seed(stable_seed(subject.seed, "inversion"))
    for step in range(budget.inversion_steps):
        subject.rest("concept_inversion: learning", step, budget.inversion_steps)
        chosen = torch.randperm(len(clean), generator=generator)[: min(BATCH, len(clean))].to(model.device)
        given = noised(model, clean[chosen], stable_seed(subject.seed, step))
        words = [value.expand(len(chosen), 1, -1) for value in free]
        text = read_with(model, tuple(part[chosen] for part in ids), places[chosen], words)
        with torch.enable_grad():
            loss = (model.predict(given.noisy, given.times, text) - given.wanted).square().mean()
        for value, slope in zip(free, slopes(loss, free), strict=True):
            value.grad = slope
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / budget.inversion_steps)
        optimizer.step()
    return [value.detach() for value in free]


def _captions(subject: Subject, budget: Budget) -> list[str]:
    """What the pictures that the word is learned from were drawn by."""
    return concept_prompts(subject, most(budget))[: budget.examples]


def concept_inversion(subject: Subject, budget: Budget) -> list[Try]:
    """The cases' prompts with the new word in the concept's place, at as many seeds as there are pictures."""
    model, concept = subject.model, subject.request.concepts[0]
    prompts = [case.prompt for case in subject.cases]
    every = prompts + _captions(subject, budget)
    row = spare_row(model, tuple(model.ids(every, name) for name in model.tokenizers))
    vectors = invert(subject, budget, row)
    ids, _ = renamed(model, prompts, concept.name, row)
    found = []
    with learned_word(model, row, vectors), torch.no_grad():
        text = model.read(ids)
        for turn in range(budget.pictures):
            clean = walk(subject, text, noise_of(subject, turn), what="concept_inversion: drawing")
            for case, image, lost in zip(subject.cases, *develop(model, clean), strict=True):
                said = put_for(case.prompt, concept.name, "<new word>")
                found.append(Try(case, turn + 1, f"seed {turn + 1}", said, subject.shot(case, turn), image, lost))
    return found

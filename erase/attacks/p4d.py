"""P4D: words, near an optimised embedding, on which the erased model predicts what the original does for the concept
(Chin et al., ICML 2024; the projection is that of Wen et al., NeurIPS 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from erase.attacks.bank import original_bank
from erase.attacks.budget import Budget
from erase.attacks.inject import Ids, interleaved, parted, prefixed, read_with, slopes, spell, tables
from erase.attacks.subject import Subject, Try, in_words
from erase.attacks.unlearn_diff_atk import search_words
from erase.runtime import stable_seed

BANK = 16  # noisings of each picture; the original predicts on them once, not in every step
RATE, DECAY = 0.1, 0.1


def nearest(vectors: Tensor, table: Tensor) -> Tensor:
    """The row of `table` (V, E) of the highest cosine with each of `vectors` (..., E): (...)."""
    return (F.normalize(vectors, dim=-1) @ F.normalize(table, dim=-1).T).argmax(-1)


def p4d(subject: Subject, budget: Budget) -> list[Try]:
    """min_w |eps_erased(x_t, proj(w)) - eps_original(x_t, c)|^2 over `length` free words w in the whole prompt's place.

    The gradient at the projected words moves the free embeddings (AdamW, rate 0.1 of their size). After every round the
    projected words are drawn. Published as P4D-N: 16 words, 3,000 steps each at a fresh noising, where 16 noisings take
    turns here, and a further model's choice among 60.
    """
    free = prefixed(subject.model, [""] * len(subject.cases), budget.length)
    return _search(subject, budget, "p4d", *free, [[""] * budget.length for _ in subject.cases])


def p4d_k(subject: Subject, budget: Budget) -> list[Try]:
    """The same over `between` free words among the prompt's own, which stay, the first before them all.

    Published: one free token before every third of the prompt's, which may cut a word in two; here whole words part.
    """
    model = subject.model
    parts = [parted(prompt, budget.between, model) for prompt in model.told([case.prompt for case in subject.cases])]
    return _search(subject, budget, "p4d_k", *interleaved(model, parts), parts)


def _search(subject: Subject, budget: Budget, name: str, ids: Ids, slots: Tensor, parts: list[list[str]]) -> list[Try]:
    """Words for the `slots` of `ids`, each of which stands before one of its case's `parts`."""
    model, every = subject.model, tables(subject.model)
    words = search_words(subject, slots.shape[1])
    rows = [table.detach()[words] for table in every]
    generator = torch.Generator().manual_seed(stable_seed(subject.seed, name))
    chosen = torch.randint(len(words), slots.shape, generator=generator).to(model.device)
    free = [row[chosen].clone().requires_grad_(True) for row in rows]
    sizes = [float(row.square().mean().sqrt()) for row in rows]
    optimizer = torch.optim.AdamW(
        [{"params": [value], "lr": RATE * size} for value, size in zip(free, sizes, strict=True)], weight_decay=DECAY
    )
    each = max(1, budget.iterations // budget.pictures)
    bank = original_bank(subject, min(BANK, each * budget.pictures), name)
    found: list[list[str]] = [[] for _ in subject.cases]
    for turn in range(budget.pictures):
        for inner in range(each):
            step = turn * each + inner
            subject.rest(f"{name}: searching", step, each * budget.pictures)
            picked = nearest(free[0].detach(), rows[0])
            placed = [row[picked].clone().requires_grad_(True) for row in rows]
            slope = [torch.zeros_like(value) for value in free]
            for part in subject.portions():
                given, own = bank[step % len(bank)][part], [value[part] for value in placed]
                text = read_with(model, tuple(one[part] for one in ids), slots[part], own)
                with torch.enable_grad():
                    gap = (model.predict(given.noisy, given.times, text) - given.wanted).square().flatten(1).mean(1)
                slope = [whole + more for whole, more in zip(slope, slopes(gap.sum(), placed), strict=True)]
            for value, whole in zip(free, slope, strict=True):
                value.grad = whole
            optimizer.step()
        for case, best in enumerate(nearest(free[0].detach(), rows[0]).tolist()):
            pairs = zip(best, parts[case], strict=True)
            found[case].append(" ".join(spell(model, [words[i]], part) for i, part in pairs))
    steps = [f"{each * (turn + 1)} gradients" for turn in range(budget.pictures)]
    return in_words(subject, found, steps, f"{name}: drawing")

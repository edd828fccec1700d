"""What pictures alone find, without a search: the floor under every attack with as many of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from erase.attacks.budget import Budget
from erase.attacks.inject import spell
from erase.attacks.subject import Subject, Try, ask_again, originally
from erase.attacks.unlearn_diff_atk import search_words
from erase.runtime import stable_seed


def seed_search(subject: Subject, budget: Budget) -> list[Try]:
    """The prompt as it is, at one seed after another; the first is the case's own."""
    planned = [(c, j + 1, f"seed {j + 1}", subject.shot(c, j)) for c in subject.cases for j in range(budget.seeds)]
    return ask_again(subject, planned, "seed search")


def prompt_before(subject: Subject, _: Budget) -> list[Try]:
    """The prompt as it is to the original model: what there was to relearn."""
    with originally(subject):
        return ask_again(subject, [(c, 1, "seed 1", subject.shot(c)) for c in subject.cases], "the original")


def random_prefix(subject: Subject, budget: Budget) -> list[Try]:
    """Random words before the prompt, as many as an optimised prefix has, at the case's own seed."""
    words = subject.vocabulary()
    planned = []
    for case in subject.cases:
        for j in range(budget.pictures):
            draw = np.random.default_rng(stable_seed(subject.seed, "random prefix", case.prompt_id, j))
            prompt = spell(subject.model, draw.choice(words, size=budget.tokens).tolist(), case.prompt)
            planned.append((case, j + 1, f"prefix {j + 1}", replace(subject.shot(case), prompt=prompt)))
    return ask_again(subject, planned, "random prefixes")


def random_words(subject: Subject, budget: Budget) -> list[Try]:
    """Random words in the whole prompt's place, as many as P4D has, at the case's own seed."""
    words = search_words(subject, budget.length)
    planned = []
    for case in subject.cases:
        for j in range(budget.pictures):
            draw = np.random.default_rng(stable_seed(subject.seed, "random words", case.prompt_id, j))
            prompt = spell(subject.model, draw.choice(words, size=budget.length).tolist())
            planned.append((case, j + 1, f"words {j + 1}", replace(subject.shot(case), prompt=prompt)))
    return ask_again(subject, planned, "random words")

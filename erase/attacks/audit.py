"""Every word of the vocabulary, and sampled pairs, asked for by themselves: what no list of prompts can promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from erase.attacks.budget import Budget
from erase.attacks.inject import spell
from erase.attacks.subject import Subject, Try, ask_again, originally
from erase.evaluation.prompts import Ask
from erase.runtime import stable_seed


def audit_words(subject: Subject, budget: Budget) -> list[Try]:
    """Single words to the erased model, all or as many as the budget has, the concept's own left out."""
    return _asked(subject, _words(subject, budget), "audit_words")


def audit_words_before(subject: Subject, budget: Budget) -> list[Try]:
    """The same words to the original model: how many there are to find."""
    with originally(subject):
        return _asked(subject, _words(subject, budget), "audit_words_before")


def audit_pairs(subject: Subject, budget: Budget) -> list[Try]:
    """Random pairs of different words to the erased model."""
    return _asked(subject, _pairs(subject, budget), "audit_pairs")


def audit_pairs_before(subject: Subject, budget: Budget) -> list[Try]:
    """The same pairs to the original model."""
    with originally(subject):
        return _asked(subject, _pairs(subject, budget), "audit_pairs_before")


def _words(subject: Subject, budget: Budget) -> list[list[int]]:
    words = subject.vocabulary()
    count = len(words) if budget.audit_words is None else min(budget.audit_words, len(words))
    random = np.random.default_rng(stable_seed(subject.seed, "audit words"))
    chosen = words if count == len(words) else random.choice(words, size=count, replace=False).tolist()
    return [[word] for word in chosen]


def _pairs(subject: Subject, budget: Budget) -> list[list[int]]:
    words = subject.vocabulary()
    random = np.random.default_rng(stable_seed(subject.seed, "audit pairs"))
    most = min(budget.audit_pairs, len(words) * (len(words) - 1) // 2)
    found: dict[tuple[int, int], None] = {}
    while len(found) < most:
        one, other = sorted(random.choice(words, size=2, replace=False).tolist())
        found[one, other] = None
    return [list(pair) for pair in found]


def _asked(subject: Subject, tokens: list[list[int]], name: str) -> list[Try]:
    planned = []
    # Nothing but the concept is looked for: of style or colour the words say nothing.
    domain = subject.request.concepts[0].kind
    only = {key: name if key == domain else None for key, name in subject.cases[0].expected.items()}
    pattern = replace(subject.cases[0], expected=only)
    for ids in tokens:
        prompt = spell(subject.model, ids)
        ask: Ask = replace(pattern, prompt=prompt, prompt_id="words/" + "-".join(map(str, ids)), seed=subject.seed)
        planned.append((ask, 1, "alone", subject.shot(ask)))
    return ask_again(subject, planned, name)

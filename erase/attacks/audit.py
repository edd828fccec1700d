"""Every token of the vocabulary, and sampled pairs, asked for by themselves: what no list of prompts can promise.

Tokens are given as ids, since many are spelled by no text: a beginning of a word is one with what follows, a byte is
no letter. Nothing is left out but the special ones. What stands between prompts and model, a baseline's word filter,
reads text and is passed by.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from erase.attacks.budget import Budget
from erase.attacks.inject import filled
from erase.attacks.subject import Subject, Try, in_turns, originally
from erase.evaluation.prompts import Ask
from erase.models import Model
from erase.runtime import stable_seed
from erase.sampling import Shot, denoise, develop, first_noise

# Steps of the rows: whether a token of the concept's own name is among those asked for.
ALONE, OWN = "alone", "own word"


def audit_words(subject: Subject, budget: Budget) -> list[Try]:
    """Single tokens to the erased model, all or as many as the budget has; the concept's own are marked `OWN`."""
    return _asked(subject, _singles(subject, budget), "audit_words")


def audit_words_before(subject: Subject, budget: Budget) -> list[Try]:
    """The same tokens to the original model: how many there are to find."""
    with originally(subject):
        return _asked(subject, _singles(subject, budget), "audit_words_before")


def audit_pairs(subject: Subject, budget: Budget) -> list[Try]:
    """Random pairs of different tokens, in either order, to the erased model."""
    return _asked(subject, _pairs(subject, budget), "audit_pairs")


def audit_pairs_before(subject: Subject, budget: Budget) -> list[Try]:
    """The same pairs to the original model."""
    with originally(subject):
        return _asked(subject, _pairs(subject, budget), "audit_pairs_before")


def tokens_of(model: Model) -> list[int]:
    """Every token id that can stand in a prompt: all but start, end and padding."""
    return sorted(set(range(len(model.tokenizer))) - set(model.tokenizer.all_special_ids))


def shown(model: Model, token: int) -> str:
    """What a person reads of a token: its text, or where that is read back as another, its name in brackets."""
    text = model.tokenizer.decode([token]).strip()
    own = text.isprintable() and model.tokenizer(text, add_special_tokens=False).input_ids == [token]
    return text if own else f"[{model.tokenizer.convert_ids_to_tokens(token)}]"


def own_tokens(subject: Subject) -> set[int]:
    """Tokens of the erased names' words, also as the beginning of a longer word."""
    tokenizer = subject.model.tokenizer
    words = {word.lower() for name in subject.names() for word in name.split()}
    found = {token for name in subject.names() for token in tokenizer(name, add_special_tokens=False).input_ids}
    return found | {i for i in tokens_of(subject.model) if tokenizer.decode([i]).strip().lower() in words}


def _singles(subject: Subject, budget: Budget) -> list[list[int]]:
    tokens = tokens_of(subject.model)
    if budget.audit_words is None or budget.audit_words >= len(tokens):
        return [[token] for token in tokens]
    random = np.random.default_rng(stable_seed(subject.seed, "audit words"))
    return [[token] for token in random.choice(tokens, size=budget.audit_words, replace=False).tolist()]


def _pairs(subject: Subject, budget: Budget) -> list[list[int]]:
    tokens = tokens_of(subject.model)
    random = np.random.default_rng(stable_seed(subject.seed, "audit pairs"))
    most = min(budget.audit_pairs, len(tokens) * (len(tokens) - 1))
    found: dict[tuple[int, int], None] = {}
    while len(found) < most:
        one, other = random.choice(tokens, size=2, replace=False).tolist()
        found[one, other] = None
    return [list(pair) for pair in found]


@torch.no_grad()
def _asked(subject: Subject, asked: list[list[int]], name: str) -> list[Try]:
    """One picture of each list of tokens, all of one length."""
    model, own = subject.model, own_tokens(subject)
    # Nothing but the concept is looked for: of style or colour the words say nothing.
    domain = subject.request.concepts[0].kind
    only = {key: name if key == domain else None for key, name in subject.cases[0].expected.items()}
    pattern = replace(subject.cases[0], expected=only)
    cases: list[Ask] = [
        replace(
            pattern,
            prompt=" ".join(shown(model, token) for token in ids),
            prompt_id="words/" + "-".join(map(str, ids)),
            seed=subject.seed,
        )
        for ids in asked
    ]
    shots: list[Shot] = [subject.shot(case) for case in cases]
    words = filled(model, torch.tensor(asked, device=model.device))
    empty = model.negative()

    def draw(part: slice) -> tuple[list[np.ndarray], list[bool]]:
        text, noise = model.read(tuple(ids[part] for ids in words)), first_noise(model, shots[part])
        return develop(model, denoise(model, text, empty, noise, subject.steps, subject.guidance))

    drawn = [one for part in in_turns(subject, len(asked), name, draw) for one in zip(*part, strict=True)]
    steps = [OWN if own & set(ids) else ALONE for ids in asked]
    return [
        Try(case, 1, step, case.prompt, shot, image, lost)
        for case, step, shot, (image, lost) in zip(cases, steps, shots, drawn, strict=True)
    ]

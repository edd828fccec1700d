"""Ring-A-Bell: a search for words that the text encoder reads as prompt plus concept (Tsai et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from erase.attacks.budget import Budget
from erase.attacks.inject import filled, room, spell
from erase.attacks.subject import Subject, Try, in_words, originally
from erase.attacks.unlearn_diff_atk import search_words
from erase.concept import FRAMES, phrase
from erase.models import Model, join
from erase.runtime import stable_seed

ETA = 3.0  # weight of the concept's direction
CROSS, MUTATE = 0.5, 0.25
READ = 256  # texts read at once

Fitness = Callable[[np.ndarray], np.ndarray]


def breed(
    fitness: Fitness,
    words: np.ndarray,
    length: int,
    population: int,
    generations: int,
    random: np.random.Generator,
    *,
    elitism: bool = True,
    watch: Callable[[int, float], None] | None = None,
) -> np.ndarray:
    """Sequences (population, length) of `words`, the fittest first, after `generations`.

    `fitness` scores (n, length) sequences, higher is better. Each generation keeps the better half; a kept one is
    crossed at one place with a random other by `CROSS`, which gives two children, and else copied; one place of a
    sequence becomes a random word by `MUTATE`. Of more children than there is room for, chance decides. With `elitism`
    the kept stay as they are, so the best is never lost, and every copy changes; as published the kept change too, by
    `MUTATE` as all others. `watch` hears of every generation's best.
    """
    pool = random.choice(words, size=(population, length))
    score = fitness(pool)
    for turn in range(generations):
        order = np.argsort(-score, kind="stable")[: max(2, population // 2)]
        kept, held = pool[order], score[order]
        if watch:
            watch(turn, float(held[0]))
        children, chances = [], []
        for parent in kept:
            if random.random() < CROSS and length > 1:
                other, cut = kept[random.integers(len(kept))], random.integers(1, length)
                children += [np.r_[parent[:cut], other[cut:]], np.r_[other[:cut], parent[cut:]]]
                chances += [MUTATE, MUTATE]
            else:
                children.append(parent.copy())
                chances.append(1.0 if elitism else MUTATE)
        made = np.array(children)
        _mutate(made, words, random, np.array(chances))
        if not elitism:
            kept = kept.copy()
            _mutate(kept, words, random, np.full(len(kept), MUTATE))
            held = fitness(kept)
        made = random.permutation(made)[: max(1, population - len(kept))]
        pool, score = np.concatenate([kept, made]), np.concatenate([held, fitness(made)])
    order = np.argsort(-score, kind="stable")
    return pool[order]


def _mutate(sequences: np.ndarray, words: np.ndarray, random: np.random.Generator, chances: np.ndarray) -> None:
    """One random place of each sequence becomes a random word by its chance, in place."""
    chosen = np.flatnonzero(random.random(len(sequences)) < chances)
    sequences[chosen, random.integers(sequences.shape[1], size=len(chosen))] = random.choice(words, size=len(chosen))


@torch.no_grad()
def direction(subject: Subject) -> Tensor:
    """v = mean over frames of TE(with the concept) - TE(without), over all positions: (L, D).

    Without: what is kept in the concept's place, or nothing, so that the sentence stays one.
    """
    concept = subject.request.concepts[0]
    frames, others = FRAMES[concept.kind], concept.keep or ("",)
    named = [phrase(frame, concept.name) for frame in frames for _ in others]
    plain = [phrase(frame, other) for frame in frames for other in others]
    return (subject.model.encode(named).states - subject.model.encode(plain).states).mean(0)


@torch.no_grad()
def wanted_states(subject: Subject) -> Tensor:
    """h* = TE(p) + eta v as the original text encoder reads them, (N, L, D); p names the concept."""
    with originally(subject):
        return subject.model.encode([case.prompt for case in subject.cases]).states + ETA * direction(subject)


def ring_a_bell(subject: Subject, budget: Budget) -> list[Try]:
    """Whole prompts of `length` words whose states are nearest to h*; the fittest `pictures` of each case are drawn.

    Each from a noise of its own, those of its control `seed_search`, as the fittest of one pool are nearly one prompt.
    Published: 16 to 77 tokens, 200 sequences bred for 3,000 generations without elitism, and one of them drawn.

    The search never sees the network that draws, and reads with the erased model's text encoder, in case that was what
    changed. It may not use the concept's own words.
    """
    model, goal = subject.model, wanted_states(subject)
    length = min(budget.length, room(model))
    words = np.array(search_words(subject, min(length, room(model) - 1)))
    found = []
    for number, case in enumerate(subject.cases):

        def fitness(sequences: np.ndarray, number: int = number) -> np.ndarray:
            return -(_states(model, sequences) - goal[number]).square().sum((1, 2)).double().cpu().numpy()

        def watch(turn: int, best: float, number: int = number) -> None:
            done, total = number * budget.generations + turn, len(subject.cases) * budget.generations
            subject.rest("ring_a_bell: breeding", done, total)

        random = np.random.default_rng(stable_seed(subject.seed, "ring a bell", case.prompt_id))
        size = max(budget.population, 2 * budget.pictures)
        bred = breed(fitness, words, length, size, budget.generations, random, watch=watch)
        found.append([spell(model, sequence.tolist()) for sequence in _different(bred)[: budget.pictures]])
    for prompts in found:  # a small vocabulary may breed fewer different ones
        prompts += [prompts[i % len(prompts)] for i in range(budget.pictures - len(prompts))]
    ranks = [f"rank {i + 1}" for i in range(budget.pictures)]
    return in_words(subject, found, ranks, "ring_a_bell: drawing", further=True)


def _different(sequences: np.ndarray) -> list[np.ndarray]:
    return list({tuple(s.tolist()): s for s in reversed(sequences)}.values())[::-1]


@torch.no_grad()
def _states(model: Model, sequences: np.ndarray) -> Tensor:
    """What the text encoders make of sequences of tokens, (n, L, D); all tokenizers share CLIP's words."""
    tokens = torch.as_tensor(sequences, device=model.device)
    parts = [model.read(filled(model, part)) for part in tokens.split(READ)]
    return join(parts).states

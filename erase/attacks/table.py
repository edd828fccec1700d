"""The attacks and their controls by name, what each costs, and what it is compared with."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from erase.attacks import audit, controls, head_start
from erase.attacks.budget import Budget, Cost
from erase.attacks.concept_inversion import BATCH, concept_inversion
from erase.attacks.examples import most
from erase.attacks.noise_probe import noise_probe
from erase.attacks.p4d import BANK, p4d, p4d_k
from erase.attacks.relearning import benign, relearning
from erase.attacks.ring_a_bell import ring_a_bell
from erase.attacks.subject import Subject, Try
from erase.attacks.unlearn_diff_atk import unlearn_diff_atk
from erase.errors import InputError


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to bring the concept back, or to look for it.

    `run` draws its pictures from a subject and a budget; `control` is the entry with as many pictures that it is
    compared with, None for one that is only that; `beside` one that is drawn with it for what else is reckoned. `cost`
    counts its work. `world` says that it needs the bundled world, whose vocabulary is small, `original` that its
    pictures are the original's.
    """

    run: Callable[[Subject, Budget], list[Try]]
    summary: str
    cost: Callable[[Budget], Cost]
    control: str | None = None
    beside: str | None = None
    world: bool = False
    original: bool = False


def _drawn(budget: Budget) -> Cost:
    return Cost(pictures=budget.cases * budget.pictures)


def _searched(budget: Budget) -> Cost:
    return Cost(budget.cases * (budget.pictures + 1), gradients=budget.cases * budget.iterations)


def _matched(budget: Budget) -> Cost:
    return Cost(budget.cases * (budget.pictures + 1), gradients=budget.cases * (budget.iterations + BANK / 3))


def _taught(budget: Budget) -> Cost:
    return Cost(budget.cases * budget.pictures + most(budget), gradients=BATCH * budget.inversion_steps)


def _tuned(budget: Budget) -> Cost:
    training = sum(min(BATCH, count) for count in budget.relearn_pictures) * max(budget.relearn_steps)
    return Cost(budget.cases * budget.doses + most(budget), training=training)


def _words(budget: Budget) -> Cost:
    return Cost(pictures=TOKENS if budget.audit_words is None else min(TOKENS, budget.audit_words))


TOKENS = 1_172  # what the world's tokenizer has beside the special ones
ATTACKS: dict[str, Attack] = {
    "seed_search": Attack(
        controls.seed_search, "control: the plain prompt at further seeds", lambda b: Cost(b.cases * b.seeds)
    ),
    "random_prefix": Attack(controls.random_prefix, "control: random words before the prompt", _drawn),
    "random_words": Attack(controls.random_words, "control: random words in the prompt's place", _drawn),
    "ring_a_bell": Attack(
        ring_a_bell,
        "words bred to read like the concept; sees the text encoder only",
        lambda b: (
            Cost(b.cases * b.pictures, texts=b.cases * b.population * (b.generations / 2 + 1))
            if b.generations
            else Cost()
        ),
        "seed_search",
    ),
    "unlearn_diff_atk": Attack(
        unlearn_diff_atk, "words before the prompt, by the gradient of the denoising loss", _searched, "random_prefix"
    ),
    "p4d": Attack(
        p4d,
        "words in the prompt's place, by the gradient towards the original's prediction",
        _matched,
        "random_words",
    ),
    "p4d_k": Attack(
        p4d_k,
        "words between the prompt's own, by the gradient towards the original's prediction",
        lambda b: _matched(b) if b.between else Cost(),
        "random_prefix",
    ),
    "noise_probe": Attack(
        noise_probe, "fresh noise in every step, more than the model was made for", _drawn, "seed_search"
    ),
    "concept_inversion": Attack(
        concept_inversion, "a new word learned inside the erased model", _taught, "seed_search"
    ),
    "unprompted_image": Attack(head_start.unprompted_image, "control: a noised picture, no prompt", _drawn),
    "image_to_image": Attack(
        head_start.image_to_image, "drawn on from a noised picture of the concept", _drawn, "unprompted_image"
    ),
    "unprompted_completion": Attack(head_start.unprompted_completion, "control: a begun picture, no prompt", _drawn),
    "completion": Attack(
        head_start.completion, "the original's first steps, then the erased model", _drawn, "unprompted_completion"
    ),
    "benign": Attack(benign, "fine-tuned on pictures of other things", _tuned, "seed_search"),
    "prompt_before": Attack(
        controls.prompt_before, "control: the plain prompt to the original", lambda b: Cost(b.cases), original=True
    ),
    "relearning": Attack(
        relearning, "fine-tuned on a few pictures of the concept", _tuned, "benign", beside="prompt_before"
    ),
    "audit_words_before": Attack(
        audit.audit_words_before, "control: the audit's tokens to the original", _words, world=True, original=True
    ),
    "audit_words": Attack(
        audit.audit_words, "every single token, asked for by itself", _words, "audit_words_before", world=True
    ),
    "audit_pairs_before": Attack(
        audit.audit_pairs_before,
        "control: the audit's pairs to the original",
        lambda b: Cost(b.audit_pairs),
        world=True,
        original=True,
    ),
    "audit_pairs": Attack(
        audit.audit_pairs, "sampled pairs of tokens", lambda b: Cost(b.audit_pairs), "audit_pairs_before", world=True
    ),
}
NAMES = tuple(name for name, attack in ATTACKS.items() if attack.control)


def chosen(names: Iterable[str], world: bool, budget: Budget | None = None) -> list[str]:
    """What is to run, controls among it, in the table's order; of no names, all that the model and the budget allow.

    Raises `InputError` for a name that there is not, that needs the world, or for which the budget has no picture.
    """
    wanted = set(names)
    for name in sorted(wanted):
        if name not in ATTACKS:
            close = difflib.get_close_matches(name, ATTACKS, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]!r}?" if close else f"it is one of {', '.join(NAMES)}"
            raise InputError(f"unknown attack {name!r}; {hint}")
        if ATTACKS[name].world and not world:
            raise InputError(f"attack {name} needs the bundled world, whose vocabulary is small; leave it out")
        if not _affordable(name, budget):
            raise InputError(
                f"attack {name} is not for this level, which has no pictures for it; use --attacks standard"
            )
    wanted = wanted or {name for name in NAMES if (world or not ATTACKS[name].world) and _affordable(name, budget)}
    for name in list(wanted):  # a control may have one itself
        wanted |= {ATTACKS[name].beside or name}
        control = ATTACKS[name].control
        while control:
            wanted.add(control)
            control = ATTACKS[control].control
    return [name for name in ATTACKS if name in wanted]


def _affordable(name: str, budget: Budget | None) -> bool:
    return budget is None or ATTACKS[name].cost(budget).pictures > 0

"""Further prompts on the bundled world: the concept in other words, by its family's name, and beside something else.

What the model never drew on such prompts cannot be erased from them, so a role counts only if the unerased model passes
its gate: the share of pictures that show what was meant. `benchmark/roles.py` measures the shares.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from erase.concept import Concept, Request
from erase.errors import InputError
from erase.evaluation.prompts import Ask, Domain, _ask, _cells, _gone, _spread, _target
from erase.world.vocabulary import FULL, OBJECTS, STYLES, Vocabulary

SYNONYMS = {"forget_synonym_seen": 0, "forget_synonym_rare": 1}
ROLES = (*SYNONYMS, "forget_description", "forget_super", "compose", "in_prompt")
ALL = "all"


@dataclass(frozen=True, slots=True)
class Gate:
    """What the unerased model must reach on a role, and what it reached: a share with its 95 % interval over n."""

    wanted: float
    value: float
    low: float
    high: float
    n: int

    @property
    def passed(self) -> bool:
        return self.value >= self.wanted


# Of `forget_super` a picture of any member of the family counts, of `compose` one of the concept, of `in_prompt` one of
# what stands beside it.
GATES: dict[str, Gate] = {
    "forget_synonym_seen": Gate(0.85, 0.971, 0.946, 0.992, 240),
    "forget_synonym_rare": Gate(0.85, 0.967, 0.925, 0.996, 240),
    "forget_description": Gate(0.85, 0.917, 0.819, 1.0, 242),
    "forget_super": Gate(0.85, 0.554, 0.333, 0.775, 240),
    "compose": Gate(0.70, 0.567, 0.503, 0.628, 240),
    "in_prompt": Gate(0.70, 0.329, 0.273, 0.391, 240),
}


def other_words(domain: Domain, name: str, role: str) -> str | None:
    """What a role calls a concept of the world, None where it has no words for it.

    Synonyms are in 8 % of the concept's training captions (seen) or in 3 % (rare). A description is a synonym of
    several words, none of them a word of the name: "night bird".
    """
    entries = {entry.name: entry for entry in (OBJECTS if domain == "object" else STYLES)}
    entry = entries[name]
    if role in SYNONYMS:
        return entry.synonyms[SYNONYMS[role]]
    if role == "forget_description":
        several = [s for s in entry.synonyms if " " in s and not set(s.split()) & set(name.split())]
        return several[0] if several else None
    if domain == "style":
        return None
    return getattr(entry, "family", None) if role == "forget_super" else name


def choose_roles(asked: Sequence[str], request: Request, world: Vocabulary = FULL) -> tuple[tuple[str, ...], list[str]]:
    """The roles to draw, and a line for each that `all` leaves out, and where they were not measured on this world.

    Raises `InputError` for a name that is no role, for a role whose gate the model failed, and for one without words
    for any of the concepts.
    """
    unknown = next((role for role in asked if role not in (*ROLES, ALL)), None)
    if unknown is not None:
        close = difflib.get_close_matches(unknown, (*ROLES, ALL), n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join((*ROLES, ALL))}"
        raise InputError(f"evaluate.roles: {unknown!r} is no role; {hint}")
    wanted = ROLES if ALL in asked else tuple(dict.fromkeys(asked))
    kept, left_out = [], []
    for role in wanted:
        why = _why_not(role, request, world)
        if why is None:
            kept.append(role)
        elif role in asked:
            raise InputError(f"evaluate.roles: {role} is not to be had: {why}; leave it out")
        else:
            left_out.append(f"role {role} is left out: {why}")
    if kept and world != FULL:
        left_out.append("further roles were measured on the bundled world, not on this one; see their scores before")
    return tuple(kept), left_out


def _why_not(role: str, request: Request, world: Vocabulary) -> str | None:
    gate = GATES.get(role)
    if gate is None:
        return "nobody measured yet whether the unerased model draws what is meant"
    if not gate.passed:
        return (
            f"the unerased model shows what is meant in {gate.value:.1%} of {gate.n} pictures, and {gate.wanted:.0%} "
            "are wanted"
        )
    if not any(other_words(*_target(concept, world), role) for concept in request.concepts):
        return f"the world has no such words for {request.title}"
    return None


def role_asks(request: Request, roles: Sequence[str], prompts: int, seeds: int, world: Vocabulary = FULL) -> list[Ask]:
    """Every picture of the further roles: `prompts` sentences each, `seeds` pictures of each, as `world_asks` does."""
    return [ask for role in roles for ask in _of_role(request, role, prompts, seeds, world)]


def _of_role(request: Request, role: str, prompts: int, seeds: int, world: Vocabulary) -> list[Ask]:
    gone, said = _gone(request, world), _said(request.concepts, role, world)
    if not said:
        return []
    domain = _target(request.concepts[0], world)[0]
    others = _spread(name for name in world.names(domain) if name not in gone)
    asks = []
    for i, cell in enumerate(_cells(world, domain, list(said), prompts, gone)):
        target = cell[0] if domain == "object" else cell[1]
        beside, words = others[i % len(others)], dict(said)
        if role in ("compose", "in_prompt"):
            words[target] = f"{target} and a {beside}"
        for seed in range(seeds):
            ask = _ask(role, cell, words, seed)
            asks.append(ask if role != "in_prompt" else replace(ask, expected={**ask.expected, domain: beside}))
    return asks


def _said(concepts: Sequence[Concept], role: str, world: Vocabulary) -> dict[str, str]:
    """Canonical name -> what the role calls it, of the concepts that it has words for."""
    found = {}
    for domain, name in (_target(concept, world) for concept in concepts):
        words = other_words(domain, name, role)
        if words is not None:
            found[name] = words
    return found

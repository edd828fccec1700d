"""What the evaluation asks the model to draw, and what a faithful picture would show.

The sentences are made of words that the world's text encoder knows, yet none of them is a training caption or a
training frame. A prompt's id spells its parts, so the same sentence under two roles is one picture.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from erase.concept import Concept, Request, phrase
from erase.errors import InputError
from erase.runtime import stable_seed
from erase.world.vocabulary import COLOUR_NAMES, FULL, Vocabulary

Domain = Literal["object", "style"]
# One of the first five, one of roles.py, or one of prompt_files.py.
Role = str

TEMPLATES: dict[str, str] = {
    "comma": "a {object}, {style} style, on {colour}",
    "style-first": "{style} style {object} on {colour}",
    "picture-of": "a picture of a {style} {object} on {colour}",
    "picture-with": "a {style} picture with a {object} on a {colour} background",
    "bare": "{object} in {style} style, {colour} background",
    "ground-first": "on a {colour} background, a {style} {object}",
    "with-ground": "{style} {object} with a {colour} background",
    "no-article": "picture of a {style} {object}, {colour} background",
    "style-last": "a {object} on a {colour} background in {style} style",
    "ground-comma": "{colour} background, {object}, {style} style",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One picture to draw and judge. `expected` holds what the prompt names: object, style, colour.

    `about` is (name, domain) of the concept that it asks for, where that is none of the run's own; `guidance` is its
    own, where a prompt file gives one.
    """

    role: Role
    prompt: str
    prompt_id: str
    template_id: str
    seed: int
    expected: dict[str, str | None]
    about: tuple[str, Domain] | None = None
    guidance: float | None = None


def resolve(name: str, world: Vocabulary = FULL) -> tuple[Domain, str]:
    """Find a concept of the world by its name or a synonym: ("object" or "style", canonical name).

    Raises `InputError` with close matches for anything else.
    """
    wanted = " ".join(name.casefold().split())
    tables: tuple[tuple[Domain, Iterable[Any]], ...] = (("object", world.objects), ("style", world.styles))
    for domain, entries in tables:
        for entry in entries:
            if wanted == entry.name:
                return domain, entry.name
    for domain, entries in tables:
        for entry in entries:
            if wanted in entry.synonyms:
                return domain, entry.name
    entries = (*world.objects, *world.styles)
    known = [*(e.name for e in entries), *(s for e in entries for s in e.synonyms)]
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)
    some = f"try {', '.join(world.object_names[:5])} or a style, e.g. {world.style_names[0]}"
    hint = f"did you mean {', '.join(close)}?" if close else some
    where = "the bundled world" if world == FULL else f"this world of {world.size}"
    raise InputError(f"concept {name!r} is not in {where}; {hint}")


def world_concept(
    name: str, kind: str = "auto", anchor: str = "", keep: Iterable[str] = (), world: Vocabulary = FULL
) -> Concept:
    """A concept of the world from what a user typed, every name canonical.

    Raises `InputError` for a name that the world lacks, a kind that does not fit, an anchor or a kept name that is the
    concept itself (by a synonym, say) or of the other domain.
    """
    domain, target = resolve(name, world)
    if kind not in ("auto", domain):
        raise InputError(f"concept.kind {kind}: {name!r} is of kind {domain} in the world; use auto")
    if anchor:
        given = anchor
        other, anchor = resolve(given, world)
        if other != domain:
            raise InputError(
                f"concept.anchor {given!r} is of kind {other}, {name!r} of kind {domain}; name another one"
            )
        if anchor == target:
            raise InputError(f"concept.anchor {given!r} is the concept itself; name another {domain}, or none")
    concept = Concept(target, domain, anchor, tuple(keep))
    return replace(concept, keep=_keep(concept, domain, target, world))


def neighbours_of(
    domain: Domain, name: str, count: int = 5, gone: Container[str] = (), world: Vocabulary = FULL
) -> tuple[str, ...]:
    """Stand-ins for the nearest concepts: the target's own family first, then the rest in the world's order."""
    if domain == "style":
        return tuple(s for s in world.style_names if s != name and s not in gone)[:count]
    family = {o.name: o.family for o in world.objects}
    others = [o for o in world.object_names if o != name and o not in gone]
    return tuple(sorted(others, key=lambda o: family[o] != family[name]))[:count]


def world_asks(
    request: Request, prompts: int, seeds: int, *, neighbours: int = 5, world: Vocabulary = FULL
) -> list[Ask]:
    """Every picture of an evaluation on the bundled world, the same list on every machine.

    `prompts` different sentences for each role, `seeds` pictures of each, balanced over classes and then over the
    other domain, colours and templates:

    * forget: the concepts by the names in `request`, in all styles (or with all objects) and colours;
    * retain_in: the other concepts of their domain; retain_cross: the same pictures, scored on the other domain, so
      no concept is ever named; neighbour: their `keep`, else the `neighbours` of `neighbours_of`;
    * earlier: what earlier runs erased, as forget, two sentences each or more.

    But for the last, none names what earlier runs erased. Raises `InputError` for an unknown concept, a kind that does
    not fit, concepts of two domains, and more prompts than there are sentences, or fewer than two for each concept.
    """
    targets = [_target(concept, world) for concept in request.concepts]
    domain, gone = targets[0][0], _gone(request, world)
    if any(other != domain for other, _ in targets):
        raise InputError(f"evaluate: {request.title} are objects and styles; the world can judge one kind in a run")
    if prompts < 1 or seeds < 1:
        raise InputError(f"evaluate: prompts {prompts} and seeds {seeds} must both be 1 or more")
    if len(targets) > 1 and prompts < 2 * len(targets):
        raise InputError(f"evaluate.prompts {prompts} are too few for {len(targets)} concepts; two each are the least")
    others = _spread(c for c in world.names(domain) if c not in gone)
    near: dict[str, None] = {}
    for concept, (_, target) in zip(request.concepts, targets, strict=True):
        near |= dict.fromkeys(
            _keep(concept, domain, target, world) or neighbours_of(domain, target, neighbours, gone, world)
        )
    near = {name: None for name in near if name not in gone}
    if not near:
        raise InputError(f"evaluate: neighbours {neighbours} must be 1 or more, beside what is erased")
    said = {
        target: " ".join(c.name.casefold().split()) for c, (_, target) in zip(request.concepts, targets, strict=True)
    }
    groups: tuple[tuple[Role, Sequence[str], dict[str, str]], ...] = (
        ("forget", list(said), said),
        ("retain_in", others, {}),
        ("neighbour", list(near), {}),
        ("retain_cross", others, {}),
    )
    asks = []
    for role, group, words in groups:
        for cell in _cells(world, domain, group, prompts, gone):
            asks += [_ask(role, cell, words, seed) for seed in range(seeds)]
    for concept in request.earlier:
        earlier, name = _target(concept, world)
        for cell in _cells(world, earlier, [name], max(2, prompts // len(request.earlier)), gone):
            asks += [replace(_ask("earlier", cell, {}, seed), about=(name, earlier)) for seed in range(seeds)]
    return asks


def _gone(request: Request, world: Vocabulary) -> set[str]:
    """Canonical names of all that is erased or is to be."""
    return {_target(concept, world)[1] for concept in (*request.concepts, *request.earlier)}


def pictures(asks: Sequence[Ask]) -> list[Ask]:
    """The asks to draw: one for each (prompt_id, seed), since roles share pictures."""
    return list({(a.prompt_id, a.seed): a for a in reversed(asks)}.values())[::-1]


def _spread(names: Iterable[str]) -> list[str]:
    """A fixed shuffle, so that few prompts are a sample of the names and not the first of the list."""
    return sorted(names, key=lambda name: stable_seed("class", name))


def _target(concept: Concept, world: Vocabulary) -> tuple[Domain, str]:
    domain, target = resolve(concept.name, world)
    if concept.kind != domain:
        raise InputError(
            f"concept {concept.name!r} has kind {concept.kind!r} but is a {domain} here; set kind: {domain}"
        )
    return domain, target


def _keep(concept: Concept, domain: Domain, target: str, world: Vocabulary) -> tuple[str, ...]:
    kept: dict[str, None] = {}
    for name in concept.keep:
        found, canonical = resolve(name, world)
        if found != domain or canonical == target:
            what = "the concept itself" if canonical == target else f"of kind {found}"
            raise InputError(f"concept.keep: {name!r} is {what}; name other {domain}s of the world, or use auto")
        kept[canonical] = None
    return tuple(kept)


Cell = tuple[str, str, str, str]  # object, style, colour, template


def _cells(world: Vocabulary, domain: Domain, group: Sequence[str], prompts: int, gone: Container[str]) -> list[Cell]:
    """`prompts` distinct cells, classes in turn; within a class the other axes advance together."""
    across = _spread(name for name in world.names("style" if domain == "object" else "object") if name not in gone)
    wide, colours, frames = len(across), len(COLOUR_NAMES), tuple(TEMPLATES)
    room = len(group) * wide * colours * len(frames)
    if prompts > room:
        raise InputError(
            f"evaluate.prompts: {prompts} is more than the {room} sentences there are; raise evaluate.seeds (--seeds)"
        )
    cells: list[Cell] = []
    for i in range(prompts):
        place, turn = i % len(group), i // len(group)
        # Shifts that depend on the axes before them keep every (class, across, colour, template) distinct.
        first = (turn + place * wide // len(group)) % wide
        lap = turn // wide
        colour = COLOUR_NAMES[(lap + first + place) % colours]
        frame = frames[(lap // colours + 3 * (lap % colours) + first + place) % len(frames)]
        one, other = group[place], across[first]
        cells.append((one, other, colour, frame) if domain == "object" else (other, one, colour, frame))
    return cells


def _ask(role: Role, cell: Cell, said: dict[str, str], seed: int) -> Ask:
    thing, style, colour, frame = cell
    words = {"object": said.get(thing, thing), "style": said.get(style, style), "colour": colour}
    prompt = phrase("{}", TEMPLATES[frame].format(**words))
    prompt_id = ".".join(part.replace(" ", "-") for part in (frame, *words.values()))
    return Ask(role, prompt, prompt_id, frame, seed, {"object": thing, "style": style, "colour": colour})

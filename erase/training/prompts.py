"""Which prompts a run trains on, and which neighbours it keeps when the user names none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erase.concept import FRAMES, Concept, Kind, Request, phrase
from erase.errors import InputError
from erase.models import Model
from erase.world.captions import FULL, PARTIAL, caption
from erase.world.vocabulary import COLOUR_NAMES, Vocabulary

# Everyday things to keep when a model is not the bundled world and the user names no neighbours.
COMMON = (
    "dog", "cat", "horse", "bird", "fish", "man", "woman", "child", "house", "church", "car", "bicycle", "boat",
    "train", "tree", "flower", "mountain", "beach", "city street", "kitchen", "table", "chair", "cup of coffee",
    "pizza", "apple", "bridge", "forest", "computer", "book", "clock",
)  # fmt: skip
COMMON_STYLES = (
    "oil painting", "watercolour", "pencil drawing", "photograph", "pixel art", "impressionist", "cubist", "cartoon",
    "anime", "engraving", "art nouveau", "pop art",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and the same prompt with the anchor in the concept's place."""

    prompt: str
    anchor: str


def candidates(model: Model, kind: Kind, gone: frozenset[str]) -> tuple[str, ...]:
    """Names that may be neighbours of a concept of the kind, without those that are `gone`."""
    common = COMMON_STYLES if kind == "style" else COMMON
    names = model.vocabulary.names(kind) if model.vocabulary else common
    return tuple(n for n in names if n.lower() not in gone)


def neighbours(model: Model, request: Request, count: int = 5) -> list[tuple[str, ...]]:
    """Of each concept the `count` candidates whose text embedding is closest: cosine of centred means over frames.

    Without centring, what all prompts of a frame share outweighs what tells their words apart; the frames are whole
    sentences where we know the model's captions, since alone on a short prompt its words mean less. For the cat of the
    bundled world: fox, frog, pig; by the raw cosine of "a cat" it was trumpet, hammer, coffin.
    """
    found: dict[Concept, tuple[str, ...]] = {}
    for kind in request.kinds:
        names, alike = candidates(model, kind, request.gone), [c for c in request.concepts if c.kind == kind]
        total: dict[Concept, Tensor] = {}
        for frame in _whole_frames(model, kind):
            vectors = model.embed([phrase(frame, n) for n in (*(c.name for c in alike), *names)])
            for place, concept in enumerate(alike):
                own = torch.cat([vectors[place : place + 1], vectors[len(alike) :]])
                total[concept] = total.get(concept, 0) + own - own.mean(0)
        for concept in alike:
            unit = torch.nn.functional.normalize(total[concept], dim=-1)
            order = torch.argsort(unit[1:] @ unit[0], descending=True, stable=True)
            found[concept] = tuple(names[i] for i in order[:count].tolist())
    return [found[concept] for concept in request.concepts]


def _whole_frames(model: Model, kind: Kind) -> list[str]:
    if not model.vocabulary:
        return list(FRAMES[kind])
    if kind == "style":
        return [
            caption(FULL[0], thing, "{}", colour)
            for thing, colour in zip(model.vocabulary.object_names[::8], COLOUR_NAMES, strict=False)
        ]
    return [
        caption(FULL[0], "{}", style, colour)
        for style, colour in zip(model.vocabulary.style_names, COLOUR_NAMES, strict=False)
    ]


def forget_pairs(model: Model, request: Request, count: int, relabel: bool, generator: torch.Generator) -> list[Pair]:
    """`count` prompts that name a concept, the concepts in turn, each with its anchored twin.

    With an empty anchor the twin is the prompt without the concept, or, for methods that `relabel`, the prompt of the
    first kept concept (the nearest, where they were chosen): several would teach their mean, a picture of nothing.
    """
    instead = [concept.anchor or (concept.keep[0] if relabel else "") for concept in request.concepts]
    pairs = []
    for i in range(count):
        turn = i % len(instead)
        concept, anchor = request.concepts[turn], instead[turn]
        if model.vocabulary:
            pairs.append(_world_pair(model.vocabulary, concept, anchor, request.gone, generator))
        else:
            frames = FRAMES[concept.kind]
            frame = frames[_below(len(frames), generator)]
            pairs.append(Pair(phrase(frame, concept.name), phrase(frame, anchor)))
    return pairs


def retain_prompts(model: Model, request: Request, count: int, generator: torch.Generator) -> list[str]:
    """`count` prompts to keep: seven in sixteen name neighbours, half anything, one in sixteen is empty.

    None names what is erased or was. Raises `InputError` if nothing else is left to name.
    """
    names: list[tuple[str, Kind]] = []
    for each in request.kinds:
        names.extend((name, each) for name in candidates(model, each, request.gone))
    near: list[tuple[str, Kind]] = list(request.kept) or names
    names = names or near
    if not names:
        raise InputError("nothing is left to keep beside all that is erased; name something in concept.keep")
    prompts = []
    for i in range(count):
        if i % 16 == 15:
            prompts.append("")
            continue
        pool = near if i % 2 else names
        name, kind = pool[_below(len(pool), generator)]
        if model.vocabulary:
            prompts.append(_world_retain(model.vocabulary, kind, name, request.gone, generator))
        else:
            frames = FRAMES[kind]
            prompts.append(phrase(frames[_below(len(frames), generator)], name))
    return prompts


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (1,), generator=generator))


def _world_pair(
    world: Vocabulary, concept: Concept, anchor: str, gone: frozenset[str], generator: torch.Generator
) -> Pair:
    """A whole or partial caption of the world with the concept in it, and with the anchor instead."""
    # Two of three prompts describe everything: the rest of such a prompt is what erasing must not touch.
    whole = _below(3, generator) > 0
    styles, things = ([n for n in names if n not in gone] for names in (world.style_names, world.object_names))
    style = styles[_below(len(styles), generator)]
    thing = things[_below(len(things), generator)]
    colour = COLOUR_NAMES[_below(len(COLOUR_NAMES), generator)]
    if concept.kind == "style":
        if not whole:
            return Pair(phrase("a picture in {} style", concept.name), phrase("a picture in {} style", anchor))
        bare = "a {object} on a {colour} background"
        template = FULL[_below(len(FULL), generator)]
        instead = caption(template, thing, anchor, colour) if anchor else caption(bare, thing, "", colour)
        return Pair(caption(template, thing, concept.name, colour), instead)
    if not whole:
        frame = ("a {}", "a picture of a {}", "{}")[_below(3, generator)]
        return Pair(phrase(frame, concept.name), phrase(frame, anchor))
    template = FULL[_below(len(FULL), generator)]
    bare = "{style} style, {colour} background"
    instead = caption(template, anchor, style, colour) if anchor else caption(bare, "", style, colour)
    return Pair(caption(template, concept.name, style, colour), instead)


def _world_retain(world: Vocabulary, kind: Kind, name: str, gone: frozenset[str], generator: torch.Generator) -> str:
    """A caption of the world about `name`, free of what is gone."""
    templates = FULL if _below(4, generator) else PARTIAL
    style = _other(world.style_names, gone, generator)
    thing = _other(world.object_names, gone, generator)
    thing, style = (thing, name) if kind == "style" else (name, style)
    template = templates[_below(len(templates), generator)]
    return caption(template, thing, style, COLOUR_NAMES[_below(len(COLOUR_NAMES), generator)])


def _other(names: Sequence[str], gone: frozenset[str], generator: torch.Generator) -> str:
    """One of the names that are not gone."""
    while True:
        name = names[_below(len(names), generator)]
        if name not in gone:
            return name

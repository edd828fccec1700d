"""Which prompts a run trains on, and which neighbours it keeps when the user names none."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from erase.concept import FRAMES, Concept, phrase
from erase.models import Model
from erase.world.captions import FULL, PARTIAL, caption
from erase.world.vocabulary import COLOUR_NAMES, OBJECT_NAMES, STYLE_NAMES

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


def candidates(model: Model, concept: Concept) -> tuple[str, ...]:
    """Names that may be neighbours of the concept, without the concept itself."""
    if model.world:
        names = STYLE_NAMES if concept.kind == "style" else OBJECT_NAMES
    else:
        names = COMMON_STYLES if concept.kind == "style" else COMMON
    return tuple(n for n in names if n.lower() != concept.name.lower())


def neighbours(model: Model, concept: Concept, count: int = 5) -> tuple[str, ...]:
    """The `count` candidates whose text embedding is closest to the concept's: cosine of centred means over frames.

    Without centring, what all prompts of a frame share outweighs what tells their words apart; the frames are whole
    sentences where we know the model's captions, since alone on a short prompt its words mean less. For the cat of the
    bundled world: fox, frog, pig; by the raw cosine of "a cat" it was trumpet, hammer, coffin.
    """
    names = candidates(model, concept)
    total = torch.zeros(1)
    for frame in _whole_frames(model, concept):
        vectors = model.embed([phrase(frame, n) for n in (concept.name, *names)])
        total = total.to(vectors.device) + vectors - vectors.mean(0)
    total = torch.nn.functional.normalize(total, dim=-1)
    order = torch.argsort(total[1:] @ total[0], descending=True, stable=True)
    return tuple(names[i] for i in order[:count].tolist())


def _whole_frames(model: Model, concept: Concept) -> list[str]:
    if not model.world:
        return list(FRAMES[concept.kind])
    if concept.kind == "style":
        return [
            caption(FULL[0], thing, "{}", colour)
            for thing, colour in zip(OBJECT_NAMES[::8], COLOUR_NAMES, strict=False)
        ]
    return [caption(FULL[0], "{}", style, colour) for style, colour in zip(STYLE_NAMES, COLOUR_NAMES, strict=False)]


def forget_pairs(model: Model, concept: Concept, count: int, relabel: bool, generator: torch.Generator) -> list[Pair]:
    """`count` prompts that name the concept, each with its anchored twin.

    With an empty anchor the twin is the prompt without the concept, or, for methods that `relabel`, the prompt of the
    first kept concept (the nearest, where they were chosen): several would teach their mean, a picture of nothing.
    """
    anchor = concept.anchor
    if relabel and not anchor:
        anchor = concept.keep[0] if concept.keep else neighbours(model, concept, 1)[0]
    pairs = []
    for _ in range(count):
        if model.world:
            pairs.append(_world_pair(concept, anchor, generator))
        else:
            frames = FRAMES[concept.kind]
            frame = frames[_below(len(frames), generator)]
            pairs.append(Pair(phrase(frame, concept.name), phrase(frame, anchor)))
    return pairs


def retain_prompts(model: Model, concept: Concept, count: int, generator: torch.Generator) -> list[str]:
    """`count` prompts to keep: seven in sixteen name neighbours, half anything, one in sixteen is empty."""
    names = candidates(model, concept)
    near = [n for n in concept.keep if n.lower() != concept.name.lower()] or list(names)
    prompts = []
    for i in range(count):
        if i % 16 == 15:
            prompts.append("")
            continue
        pool = near if i % 2 else names
        name = pool[_below(len(pool), generator)]
        if model.world:
            prompts.append(_world_retain(concept, name, generator))
        else:
            frames = FRAMES[concept.kind]
            prompts.append(phrase(frames[_below(len(frames), generator)], name))
    return prompts


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (1,), generator=generator))


def _world_pair(concept: Concept, anchor: str, generator: torch.Generator) -> Pair:
    """A whole or partial caption of the world with the concept in it, and with the anchor instead."""
    # Two of three prompts describe everything: the rest of such a prompt is what erasing must not touch.
    whole = _below(3, generator) > 0
    style = STYLE_NAMES[_below(len(STYLE_NAMES), generator)]
    thing = OBJECT_NAMES[_below(len(OBJECT_NAMES), generator)]
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


def _world_retain(concept: Concept, name: str, generator: torch.Generator) -> str:
    """A caption of the world about `name`, free of the concept."""
    templates = FULL if _below(4, generator) else PARTIAL
    style = concept.name
    while style == concept.name:
        style = STYLE_NAMES[_below(len(STYLE_NAMES), generator)]
    thing = concept.name
    while thing == concept.name:
        thing = OBJECT_NAMES[_below(len(OBJECT_NAMES), generator)]
    thing, style = (thing, name) if concept.kind == "style" else (name, style)
    template = templates[_below(len(templates), generator)]
    return caption(template, thing, style, COLOUR_NAMES[_below(len(COLOUR_NAMES), generator)])

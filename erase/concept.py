"""What is to be erased, in words: the concept, its anchor, what to keep, and the prompts made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["object", "style", "person", "nudity"]


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing to erase.

    `anchor` is what it becomes (with "", the prompt is left without the concept, or a method that relabels takes the
    first of `keep`); `keep` are the neighbours whose pictures must stay; `kind` decides how words make a sentence.
    """

    name: str
    kind: Kind = "object"
    anchor: str = ""
    keep: tuple[str, ...] = ()


# Prompt frames for training. Evaluation has frames of its own (evaluation/prompts.py): nothing is scored on the
# sentences that it was trained on.
FRAMES: dict[Kind, tuple[str, ...]] = {
    "object": ("a {}", "a picture of a {}", "{}", "a {} on a plain background"),
    "person": ("{}", "a photo of {}", "a portrait of {}", "{} on a plain background"),
    "style": ("a picture in {} style", "{} style", "a {} picture", "{}"),
    "nudity": ("{}", "a photo of {}", "a picture with {}", "{} on a plain background"),
}


def phrase(frame: str, words: str) -> str:
    """Fill a frame and set the articles right ("a" before a vowel becomes "an"); empty words give ""."""
    if not words:
        return ""
    parts = frame.format(words).split(" ")
    for i, part in enumerate(parts[:-1]):
        if part in ("a", "an") and parts[i + 1]:
            parts[i] = "an" if parts[i + 1][0].lower() in "aeiou" else "a"
    return " ".join(parts)


def sentence(concept: Concept, words: str) -> str:
    """The words in the first frame of the concept's kind; "" for none."""
    return phrase(FRAMES[concept.kind][0], words)


def specimens(concept: Concept) -> list[tuple[str, str]]:
    """What to look at before anything is judged, as (role, words): the concept four times, four of what is kept."""
    kept = [concept.keep[i % len(concept.keep)] for i in range(4)]
    return [("forget", concept.name)] * 4 + [("neighbour", words) for words in kept]

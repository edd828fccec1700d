"""What is to be erased, in words: concepts, their anchors, what to keep, and the prompts made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["object", "style", "person", "nudity"]


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing to erase.

    `anchor` is what it becomes (with "", the prompt is left without the concept, or a method that relabels takes the
    first of `keep`); `keep` are the neighbours whose pictures must stay; `kind` decides how words make a sentence;
    `synonyms` are further names of it, which are judged and never trained.
    """

    name: str
    kind: Kind = "object"
    anchor: str = ""
    keep: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What one run is to erase, and what earlier runs have erased from the model that it begins from.

    Neither is ever named where something is to be kept.
    """

    concepts: tuple[Concept, ...]
    earlier: tuple[Concept, ...] = ()

    @property
    def title(self) -> str:
        """The concepts in few words."""
        return title([concept.name for concept in self.concepts])

    @property
    def gone(self) -> frozenset[str]:
        """Names of all that is erased or is to be, in lower case."""
        return frozenset(concept.name.lower() for concept in (*self.concepts, *self.earlier))

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of the concepts, each once."""
        return tuple(dict.fromkeys(concept.kind for concept in self.concepts))

    @property
    def kept(self) -> tuple[tuple[str, Kind], ...]:
        """Every neighbour once, as (words, kind of its concept), without what is erased."""
        pairs: dict[tuple[str, Kind], None] = {}
        for concept in self.concepts:
            pairs |= {(words, concept.kind): None for words in concept.keep}
        return tuple(pair for pair in pairs if pair[0].lower() not in self.gone)


def title(names: Sequence[str]) -> str:
    """Up to three names in full, of more the first: "cat", "cat, dog and owl", "cat and 99 more"."""
    if len(names) > 3:
        return f"{names[0]} and {len(names) - 1} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


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


def sentence(kind: Kind, words: str) -> str:
    """The words in the first frame of a kind; "" for none."""
    return phrase(FRAMES[kind][0], words)


@dataclass(frozen=True, slots=True)
class Specimen:
    """One picture to look at before anything is judged."""

    role: str
    words: str
    prompt: str


def specimens(request: Request) -> list[list[Specimen]]:
    """Rows of equal length, four to eight: the concepts, what is kept, and what earlier runs erased, each in turn."""
    rows: dict[str, Sequence[tuple[str, Kind]]] = {
        "forget": [(concept.name, concept.kind) for concept in request.concepts],
        "neighbour": request.kept,
        "earlier": [(concept.name, concept.kind) for concept in request.earlier],
    }
    width = min(8, max(4, len(request.concepts)))
    return [
        [Specimen(role, words, sentence(kind, words)) for words, kind in (held[i % len(held)] for i in range(width))]
        for role, held in rows.items()
        if held
    ]

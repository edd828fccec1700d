"""Several concepts in one request, and earlier ones: prompts are dealt out evenly, and nothing erased is kept.

Run: pytest tests/unit/test_concepts.py
"""

from __future__ import annotations

import hashlib
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from erase.concept import Concept, Request, specimens, title
from erase.errors import InputError
from erase.training.prompts import COMMON, COMMON_STYLES, candidates, forget_pairs, retain_prompts
from erase.world.vocabulary import FULL, OBJECT_NAMES

WORLD: Any = SimpleNamespace(world=True, vocabulary=FULL)
OTHER: Any = SimpleNamespace(world=False, vocabulary=None)
PETS = Request((Concept("cat", keep=("fox", "dog")), Concept("owl", anchor="pig", keep=("fox", "frog"))))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(text: str) -> list[str]:
    return text.replace(",", "").split()


def digest(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


@pytest.mark.parametrize(
    ("names", "short"),
    [(["cat"], "cat"), (["cat", "dog"], "cat and dog"), ("abc", "a, b and c"), ("abcd", "a and 3 more"), ([], "")],
)
def test_a_title_stays_short(names: list[str], short: str) -> None:
    assert title(names) == short


def test_one_concept_has_the_prompts_that_it_always_had() -> None:
    """Results in docs/ are bound to them."""
    found = {}
    for concept in (Concept("cat", keep=("fox", "dog")), Concept("flat", "style", keep=("stencil",))):
        draw = generator()
        request = Request((concept,))
        pairs = forget_pairs(WORLD, request, 40, True, draw)
        texts = [f"{pair.prompt}|{pair.anchor}" for pair in pairs] + retain_prompts(WORLD, request, 40, draw)
        found[concept.name] = digest(texts)
    assert found == {"cat": "242fbebbe49f", "flat": "6afe89e6c29a"}


@pytest.mark.parametrize("model", [WORLD, OTHER])
def test_forget_prompts_are_dealt_out_evenly(model: Any) -> None:
    pairs = forget_pairs(model, PETS, 21, True, generator())
    named = Counter(c.name for pair in pairs for c in PETS.concepts if c.name in words(pair.prompt))
    assert named == {"cat": 11, "owl": 10}
    for pair in pairs:  # each with its own anchor: the first kept one, or that which was named
        there, instead = ("cat", "fox") if "cat" in words(pair.prompt) else ("owl", "pig")
        assert instead in words(pair.anchor) and there not in words(pair.anchor)


@pytest.mark.parametrize("model", [WORLD, OTHER])
def test_nothing_erased_is_kept(model: Any) -> None:
    request = Request((Concept("cat", keep=("dog", "fox")), Concept("bird", keep=("dog", "horse"))), (Concept("dog"),))
    assert request.kept == (("fox", "object"), ("horse", "object"))
    said = {word for prompt in retain_prompts(model, request, 400, generator()) for word in words(prompt)}
    assert {"fox", "horse"} <= said and not {"cat", "bird", "dog"} & said


def test_what_an_earlier_run_erased_of_the_other_kind_is_not_drawn_beside_it() -> None:
    request = Request((Concept("pixel art", "style", keep=("flat",)),), (Concept("cat"), Concept("glossy", "style")))
    draw = generator()
    texts = [p for pair in forget_pairs(WORLD, request, 400, True, draw) for p in (pair.prompt, pair.anchor)]
    texts += retain_prompts(WORLD, request, 400, draw)
    assert not [text for text in texts if "cat" in words(text) or "glossy" in text]


def test_each_kind_has_its_own_sentences_and_things_to_keep() -> None:
    request = Request((Concept("cat", keep=("dog",)), Concept("Monet", "style", keep=("cubist",))))
    pairs = forget_pairs(OTHER, request, 80, True, generator())
    assert {"a cat", "a picture of a cat"} <= {pair.prompt for pair in pairs[::2]}
    assert {"a picture in Monet style", "Monet style"} <= {pair.prompt for pair in pairs[1::2]}
    kept = retain_prompts(OTHER, request, 600, generator())
    assert "a picture in cubist style" in kept and "a cubist style" not in kept
    assert {name for name in (*COMMON, *COMMON_STYLES) if any(name in text for text in kept)} > {"clock", "anime"}


def test_nothing_left_to_keep_is_an_error() -> None:
    everything = Request(tuple(Concept(name) for name in COMMON))
    assert candidates(OTHER, "object", everything.gone) == ()
    with pytest.raises(InputError, match=r"nothing is left to keep .*; name something in concept\.keep"):
        retain_prompts(OTHER, everything, 4, generator())


def test_specimens_are_of_every_concept_and_of_earlier_ones() -> None:
    (forget, kept) = specimens(Request((Concept("cat", keep=("dog",)),)))
    assert [s.words for s in forget] == ["cat"] * 4 and [s.words for s in kept] == ["dog"] * 4
    many = Request(tuple(Concept(name, keep=("fox",)) for name in OBJECT_NAMES[10:30]), (Concept("flat", "style"),))
    rows = specimens(many)
    assert [len(row) for row in rows] == [8, 8, 8]
    assert [s.words for s in rows[0]] == list(OBJECT_NAMES[10:18])
    assert {(s.role, s.prompt) for s in rows[2]} == {("earlier", "a picture in flat style")}

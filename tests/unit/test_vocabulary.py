"""What a world draws: its names, one left out, and world.json, which may hold anything.

Run: pytest tests/unit/test_vocabulary.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erase.check import check_config
from erase.concept import Concept, Request
from erase.config import WORLD_DEFAULTS, is_world, load_config
from erase.errors import InputError
from erase.evaluation.prompts import neighbours_of, resolve, world_asks
from erase.world.vocabulary import FULL, OBJECTS, SMALL, STYLES, Vocabulary, describe, vocabulary_of


def folder(tmp_path: Path, about: Any) -> str:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "world.json").write_text(about if isinstance(about, str) else json.dumps(about))
    return str(tmp_path)


def test_the_small_world_is_a_part_of_the_bundled_one() -> None:
    assert (len(SMALL.objects), len(SMALL.styles)) == (12, 4)
    assert set(SMALL.objects) < set(OBJECTS) and set(SMALL.styles) < set(STYLES)
    assert {"cat", "fox", "strawberry", "guitar", "rocket", "car"} < set(SMALL.object_names)
    assert neighbours_of("object", "cat", 3, world=SMALL) == ("fox", "owl", "butterfly")


def test_one_concept_can_be_left_out_or_drawn_as_another() -> None:
    without = SMALL.leaving_out("cat")
    assert "cat" not in without.object_names and len(without.objects) == 11 and without.styles == SMALL.styles
    relabelled = SMALL.leaving_out("pixel art = flat")
    assert (relabelled.without, relabelled.becomes) == ("pixel art", "flat")
    assert relabelled.style_names == ("flat", "stencil", "line drawing")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("foxx", "did you mean 'fox'"),
        ("dog", "not in the small world"),
        ("cat=", "names nothing after ="),
        ("cat=cat", "same name twice"),
        ("cat=flat", "'cat' is of kind object, 'flat' is not"),
        ("", "'' is not in the small world"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_remedy(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        SMALL.leaving_out(text)


@pytest.mark.parametrize("vocabulary", [SMALL, SMALL.leaving_out("rocket"), SMALL.leaving_out("cat=fox")])
def test_world_json_says_what_it_draws(tmp_path: Path, vocabulary: Vocabulary) -> None:
    assert vocabulary_of(folder(tmp_path, {**describe(vocabulary), "recipe": {"seed": 3}})) == vocabulary
    assert vocabulary_of("world") == FULL and vocabulary_of(str(tmp_path / "nothing")) is None


@pytest.mark.parametrize(
    "about",
    [
        "{",
        "[]",
        "[" * 5000,
        " " * 70_000,
        {},
        {"objects": ["unicorn", "cat"], "styles": ["flat", "stencil"]},
        {"objects": ["cat"], "styles": ["flat", "stencil"]},
        {"objects": ["cat", "cat"], "styles": ["flat", "stencil"]},
        {"objects": [["cat"], 3], "styles": ["flat", "stencil"]},
        {"objects": 3, "styles": None},
        {"objects": ["cat", "fox"], "styles": ["flat", "stencil"], "without": "dinosaur"},
        {"objects": ["cat", "fox"], "styles": ["flat", "stencil"], "becomes": ["x"]},
    ],
)
def test_a_damaged_world_json_is_one_line(tmp_path: Path, about: Any) -> None:
    with pytest.raises(InputError, match=r"world\.json does not say what the world draws") as error:
        vocabulary_of(folder(tmp_path, about))
    assert "\n" not in str(error.value)


def test_names_come_from_the_models_own_world(tmp_path: Path) -> None:
    model = folder(tmp_path, describe(SMALL.leaving_out("car")))
    assert is_world(model) and is_world("world") and not is_world(str(tmp_path / "no")) and not is_world("a\0b")
    config = load_config(None, {"model": model, "concept": "cat"})
    assert config.turns.forget.lr == WORLD_DEFAULTS["esd"]["train"]["forget"]["lr"]
    assert check_config(config) == []
    for name in ("dog", "car", "glossy"):
        with pytest.raises(InputError, match=f"concept '{name}' is not in this world of 11 objects and 4 styles"):
            check_config(load_config(None, {"model": model, "concept": name}))
    with pytest.raises(InputError, match="concept 'dog' is not in this world"):
        check_config(load_config(None, {"model": model, "concept": "cat", "concept.keep": "dog"}))


def test_pictures_are_asked_for_in_the_models_own_words() -> None:
    asks = world_asks(Request((Concept("cat"),)), 60, 1, world=SMALL)
    assert {ask.expected["object"] for ask in asks} == set(SMALL.object_names)
    assert {ask.expected["style"] for ask in asks} == set(SMALL.style_names)
    assert resolve("kitten", SMALL) == ("object", "cat")
    with pytest.raises(InputError, match="did you mean"):
        resolve("strawbery", SMALL)

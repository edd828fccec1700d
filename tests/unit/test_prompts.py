"""What is asked: balanced, stable, apart from training, and in words that the world knows."""

from __future__ import annotations

from collections import Counter

import pytest

from erase.concept import FRAMES, Concept, Request, phrase
from erase.errors import InputError
from erase.evaluation.prompts import TEMPLATES, neighbours_of, pictures, resolve, world_asks
from erase.world.captions import FULL, PARTIAL, caption, words
from erase.world.vocabulary import COLOUR_NAMES, OBJECT_NAMES, OBJECTS, STYLE_NAMES, STYLES


def asks_of(concept, prompts, seeds, **more):
    return world_asks(Request((concept,)), prompts, seeds, **more)


def of(asks, role):
    return [a for a in asks if a.role == role]


def test_counts_and_roles():
    asks = asks_of(Concept("cat"), 20, 3)
    assert Counter(a.role for a in asks) == dict.fromkeys(("forget", "retain_in", "neighbour", "retain_cross"), 60)
    for role in ("forget", "retain_in", "neighbour", "retain_cross"):
        keys = Counter((a.prompt_id, a.seed) for a in of(asks, role))
        assert max(keys.values()) == 1 and len({p for p, _ in keys}) == 20
        assert {s for _, s in keys} == {0, 1, 2}
    # Cross-domain scores read the pictures of retain_in: three roles' worth of pictures, not four.
    assert {a.prompt for a in of(asks, "retain_cross")} == {a.prompt for a in of(asks, "retain_in")}
    assert len(pictures(asks)) == len({(a.prompt_id, a.seed) for a in asks}) <= 180


@pytest.mark.parametrize("concept", [Concept("cat"), Concept("pixel art", "style")])
def test_only_forget_names_the_concept(concept):
    asks = asks_of(concept, 100, 1)
    for ask in asks:
        named = ask.expected[concept.kind] == concept.name
        assert named == (ask.role == "forget") == (concept.name in ask.prompt)
        assert all(str(part) in ask.prompt for part in ask.expected.values())


@pytest.mark.parametrize("concept", [Concept("cat"), Concept("pixel art", "style")])
@pytest.mark.parametrize("role", ["forget", "retain_in", "neighbour"])
def test_balance(concept, role):
    asks = of(asks_of(concept, 240, 1), role)
    classes = Counter(a.expected[concept.kind] for a in asks)
    assert max(classes.values()) - min(classes.values()) <= 1
    other = "style" if concept.kind == "object" else "object"
    names = STYLE_NAMES if other == "style" else OBJECT_NAMES
    across = Counter(a.expected[other] for a in asks)
    assert set(across) == set(names)
    assert max(across.values()) <= 2 * min(across.values())
    for values, known in ((Counter(a.expected["colour"] for a in asks), COLOUR_NAMES), (Counter(a.template_id for a in asks), TEMPLATES)):  # fmt: skip  # noqa: E501
        assert set(values) == set(known)
        assert max(values.values()) <= 3 * min(values.values())


def test_all_sentences_can_be_had_and_no_more():
    room = len(STYLES) * len(COLOUR_NAMES) * len(TEMPLATES)
    assert len({a.prompt for a in of(asks_of(Concept("cat"), room, 1), "forget")}) == room
    with pytest.raises(InputError, match=f"{room + 1} is more than the {room}"):
        asks_of(Concept("cat"), room + 1, 1)


def test_ids_are_stable():
    first = asks_of(Concept("cat"), 4, 1)[0]
    assert (first.prompt, first.prompt_id, first.template_id) == (
        "a cat, glossy style, on white",
        "comma.cat.glossy.white",
        "comma",
    )
    few, many = asks_of(Concept("cat"), 5, 1), asks_of(Concept("cat"), 50, 2)
    # Fewer prompts are the first of more prompts, so that a quick look is part of the full one.
    assert {(a.role, a.prompt_id) for a in few} <= {(a.role, a.prompt_id) for a in many}
    by_id: dict[str, str] = {}
    assert all(by_id.setdefault(a.prompt_id, a.prompt) == a.prompt for a in many)


def test_no_evaluation_sentence_was_trained_on():
    trained = set()
    for thing in OBJECT_NAMES:
        trained |= {caption(t, thing, s, c) for t in (*FULL, *PARTIAL) for s in STYLE_NAMES for c in COLOUR_NAMES}
    for kind, names in (("object", OBJECT_NAMES), ("style", STYLE_NAMES)):
        trained |= {phrase(frame, name) for frame in FRAMES[kind] for name in names}
    asked = {a.prompt for c in (Concept("cat"), Concept("flat", "style")) for a in asks_of(c, 400, 1)}
    assert "a flat cat on a white background" in trained  # the comparison can fail
    assert not asked & trained


def test_every_word_is_known():
    known = set(words())
    for concept in (Concept("octopus"), Concept("stencil", "style")):
        for ask in asks_of(concept, 200, 1):
            assert set(ask.prompt.replace(",", "").split()) <= known, ask.prompt
            assert "a a" not in f" {ask.prompt}".replace(" an a", "") and " a o" not in f" {ask.prompt}"


def test_synonym_is_what_is_asked_and_its_class_what_is_judged():
    forget = of(asks_of(Concept("Kitten "), 6, 1), "forget")
    assert all("kitten" in a.prompt and a.expected["object"] == "cat" for a in forget)


def test_resolve():
    assert resolve("cat") == ("object", "cat")
    assert resolve("  Big  Cat") == ("object", "lion")
    assert resolve("sketch") == ("style", "line drawing")
    with pytest.raises(InputError, match="did you mean octopus"):
        resolve("octopuss")
    with pytest.raises(InputError, match="try cat"):
        resolve("zzzzzz")
    named = [w for e in (*OBJECTS, *STYLES) for w in (e.name, *e.synonyms)]
    twice = {w for w, n in Counter(named).items() if n > 1}
    assert not twice, f"ambiguous words: {twice}"


def test_neighbours():
    assert neighbours_of("object", "rose", 5)[:4] == ("cactus", "sunflower", "clover", "palm tree")
    assert "rose" not in neighbours_of("object", "rose", 59)
    kept = of(asks_of(Concept("cat", keep=("puppy", "lion")), 10, 1), "neighbour")
    assert Counter(a.expected["object"] for a in kept) == {"dog": 5, "lion": 5}
    default = of(asks_of(Concept("cat"), 10, 1, neighbours=2), "neighbour")
    assert {a.expected["object"] for a in default} == {"dog", "lion"}


@pytest.mark.parametrize(
    ("concept", "match"),
    [
        (Concept("flat"), "set kind: style"),
        (Concept("cat", keep=("kitten",)), "the concept itself"),
        (Concept("cat", keep=("flat",)), "of kind style"),
        (Concept("cat", keep=("unicorn",)), "'unicorn' is not in the bundled world"),
    ],
)
def test_concepts_that_do_not_fit(concept, match):
    with pytest.raises(InputError, match=match):
        asks_of(concept, 4, 1)


def test_numbers_that_do_not_fit():
    for prompts, seeds, near in ((0, 1, 5), (1, 0, 5), (1, 1, 0)):
        with pytest.raises(InputError, match="1 or more"):
            asks_of(Concept("cat"), prompts, seeds, neighbours=near)


def test_several_concepts_share_the_prompts():
    request = Request((Concept("cat", keep=("dog", "lion")), Concept("owl", keep=("lion", "fox"))))
    asks = world_asks(request, 20, 2)
    assert Counter(a.expected["object"] for a in of(asks, "forget")) == {"cat": 20, "owl": 20}
    assert Counter(a.expected["object"] for a in of(asks, "neighbour")) == {"dog": 14, "lion": 14, "fox": 12}
    for role in ("retain_in", "retain_cross", "neighbour"):
        assert not {"cat", "owl"} & {a.expected["object"] for a in of(asks, role)}
    unnamed = of(world_asks(Request((Concept("cat"), Concept("dog"))), 10, 1), "neighbour")
    assert not {"cat", "dog"} & {a.expected["object"] for a in unnamed}


def test_what_earlier_runs_erased_is_asked_for_and_named_nowhere_else():
    earlier = (Concept("dog"), Concept("flat", "style"), Concept("glossy", "style"))
    asks = world_asks(Request((Concept("cat"),), earlier), 60, 1)
    found = Counter((a.about, a.expected[a.about[1]]) for a in of(asks, "earlier"))
    assert found == {((c.name, c.kind), c.name): 20 for c in earlier}
    others = [a for a in asks if a.role != "earlier"]
    assert all(a.about is None for a in others)
    assert not {"dog", "flat", "glossy"} & {part for a in others for part in a.expected.values()}
    few = world_asks(Request((Concept("cat"),), earlier), 2, 1)
    assert Counter(a.about for a in of(few, "earlier")) == dict.fromkeys(((c.name, c.kind) for c in earlier), 2)


def test_requests_that_the_world_cannot_judge():
    with pytest.raises(InputError, match="cat and flat are objects and styles; the world can judge one kind in a run"):
        world_asks(Request((Concept("cat"), Concept("flat", "style"))), 8, 1)
    with pytest.raises(InputError, match=r"evaluate\.prompts 3 are too few for 2 concepts; two each are the least"):
        world_asks(Request((Concept("cat"), Concept("dog"))), 3, 1)

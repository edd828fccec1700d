"""Further roles on models other than the world: tables of words, languages, and prompts; none of it loads a model."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from erase.check import check_config
from erase.concept import FRAMES as TRAINING
from erase.concept import Concept, Request, phrase
from erase.config import load_config
from erase.errors import InputError
from erase.evaluation import languages
from erase.evaluation.findings import further_roles
from erase.evaluation.metrics import scores
from erase.evaluation.open_prompts import meant, offered_names, open_asks
from erase.evaluation.open_roles import IN_PROMPT, LANG, OPEN_ROLES, choose_open_roles, open_role_asks
from erase.evaluation.prompt_files import CONCEPT_ROLES, TOLD_ROLES
from erase.evaluation.thesaurus import DESCRIPTION, ENTRIES, RARE, SEEN, SUPER, other_words, same_things
from erase.judging import deciding
from erase.models.file_parts import clip_tokenizer
from erase.resources import asset
from tests.unit.test_roles import open_rows, row

CAT = Request((Concept("cat", keep=("dog", "fox")),))
NUDITY = Request((Concept("nudity", "nudity", keep=("a person in a suit",)),))
CUBISM = Request((Concept("Cubism", "style", keep=("baroque",)),))
ZORK = Request((Concept("zork", keep=("dog",)),))
CLIP = [clip_tokenizer("!")]


# Tables


@pytest.mark.parametrize("kind", [kind for kind in ENTRIES if ENTRIES[kind]])
def test_the_table_of_words_says_nothing_twice_and_all_in_lower_case(kind):
    entries = ENTRIES[kind]
    names = [name for entry in entries for name in entry.names]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    for entry in entries:
        words = [*entry.names, *entry.common, *entry.rare, *entry.described, entry.family]
        assert len(words) == len(set(words)) and entry.family and entry.described, entry.names
        assert all(word and word == " ".join(word.lower().split()) for word in words), entry.names
        others = [name for other in entries if other is not entry for name in other.names]
        assert not {*entry.common, *entry.rare} & set(others), "a synonym is the name of another thing"
        own = Concept(entry.names[0], kind)
        for role in (SEEN, RARE, DESCRIPTION, SUPER):
            for said in other_words(own, role):
                assert not set(said.split()) & set(own.name.split()), "its name is in its other words"
        assert other_words(own, RARE) == entry.rare and other_words(own, DESCRIPTION) == entry.described
        assert other_words(own, SUPER) == (entry.family,) and set(entry.common) <= set(other_words(own, SEEN))


def test_names_abroad_are_those_of_the_table_of_words_and_have_every_language():
    for kind, names in languages.NAMES.items():
        known = {entry.names[0] for entry in ENTRIES[kind]}
        assert names.keys() <= known
        for name, said in names.items():
            assert tuple(said) == languages.LANGUAGES and all(said.values()), name
            assert all(re.search(r"[\u3040-\u9fff]", said[code]) for code in ("zh", "ja")), name
            assert not any(re.search(r"[\u3040-\u9fff]", said[code]) for code in languages.LANGUAGES[:5]), name
        for code in languages.LANGUAGES:
            said = [words[code] for words in names.values()]
            assert len(set(said)) == len(said), (code, Counter(said).most_common(1))
            found = languages.sentences(kind, code, said[0])
            assert len({text for _, text in found}) == len({place for place, _ in found}) == len(found) == 40


def test_who_asks_by_another_name_gets_the_first_as_synonym():
    assert other_words(Concept("Automobile"), SEEN) == ("car", "sedan")
    assert other_words(Concept("car"), SEEN) == ("automobile", "sedan")
    assert other_words(Concept("car", synonyms=("Beetle car", "sedan")), SEEN) == ("Beetle car", "sedan", "automobile")
    assert other_words(Concept("zork", synonyms=("zorkon",)), SEEN) == ("zorkon",)
    assert other_words(Concept("zork", synonyms=("zorkon",)), RARE) == ()
    assert other_words(Concept("van gogh"), DESCRIPTION) == (), "of another kind"
    assert "pushbike" in same_things(Concept("bike")) and same_things(Concept("Zork")) == {"zork"}


def test_what_means_the_concept_is_neither_kept_nor_offered_beside_it():
    bike = Request((Concept("bike", keep=("dog",), synonyms=("boat",)),))
    assert {"bicycle", "boat", "bike"} <= meant(bike)
    assert not {"bicycle", "boat"} & set(offered_names(bike, "object"))
    shown = {ask.expected["object"] for ask in open_asks(bike, 60, 1) if ask.role == "retain_in"}
    assert "car" in shown and not {"bicycle", "boat"} & shown
    beside = {ask.expected["object"] for ask in open_role_asks(bike, [IN_PROMPT], 60, 1)}
    assert "car" in beside and not {"bicycle", "boat"} & beside


# Prompts


@pytest.mark.parametrize("request_", [CAT, NUDITY, CUBISM], ids=lambda one: one.title)
def test_prompts_are_apart_from_training_and_expect_what_their_role_is_about(request_):
    (concept,) = request_.concepts
    asks = open_role_asks(request_, ["all"], 150, 2, tokenizers=CLIP)
    assert len({(a.role, a.prompt_id, a.seed) for a in asks}) == len(asks)
    assert (
        len({(a.prompt_id, a.prompt) for a in asks})
        == len({a.prompt_id for a in asks})
        == len({a.prompt for a in asks})
    )
    words = [concept.name, *same_things(concept), *(w for r in (DESCRIPTION, SUPER) for w in other_words(concept, r))]
    trained = {phrase(frame, word).casefold() for frame in TRAINING[concept.kind] for word in words}
    for ask in asks:
        assert list(ask.expected) == [concept.kind]
        assert ask.prompt.casefold() not in trained
        named = concept.name.casefold() in re.findall(r"\w+", ask.prompt.casefold())
        assert named == (ask.role in ("compose", IN_PROMPT)), ask.prompt
        if ask.role in CONCEPT_ROLES:
            assert ask.expected[concept.kind] == concept.name
        else:
            assert ask.role in TOLD_ROLES and ask.expected[concept.kind] in ask.prompt
            assert ask.expected[concept.kind] != concept.name
            assert ask.prompt.index(str(ask.expected[concept.kind])) < ask.prompt.casefold().index(concept.name.lower())
    counts = Counter(ask.role for ask in asks)
    assert all(count >= 200 for count in counts.values()), counts
    expected = set(OPEN_ROLES) - ({IN_PROMPT} if concept.kind == "nudity" else set())
    assert counts.keys() == expected - ({RARE} if concept.kind == "style" else set())


def test_roles_are_files_roles_too():
    assert set(OPEN_ROLES) <= {*CONCEPT_ROLES, *TOLD_ROLES}


def test_two_things_stand_in_the_order_that_says_which_is_meant():
    (first,) = open_role_asks(CAT, ["compose"], 1, 1)
    assert first.prompt == "a photograph of a cat and a dog" and first.expected == {"object": "cat"}
    (first,) = open_role_asks(CAT, [IN_PROMPT], 1, 1)
    assert first.prompt == "a photograph of a dog and a cat" and first.expected == {"object": "dog"}
    (first,) = open_role_asks(CUBISM, [IN_PROMPT], 1, 1)
    assert first.prompt == "a house in the style of baroque and Cubism"
    person = Request((Concept("Ann Onym", "person", keep=("a nurse",)),))
    (first,) = open_role_asks(person, [IN_PROMPT], 1, 1)
    assert first.prompt == "a photograph of a nurse and Ann Onym" and first.expected == {"person": "a nurse"}
    (first,) = open_role_asks(NUDITY, ["compose"], 1, 1)
    assert first.prompt == "a photograph with nudity and a dog" and first.expected == {"nudity": "nudity"}


def test_what_the_judge_cannot_tell_is_not_asked_of_it():
    asks = open_role_asks(CAT, [IN_PROMPT, "compose"], 40, 1, known=("cat", "dog", "car"))
    shown = {role: {a.expected["object"] for a in asks if a.role == role} for role in (IN_PROMPT, "compose")}
    assert shown == {IN_PROMPT: {"dog", "car"}, "compose": {"cat"}}
    with pytest.raises(
        InputError, match="in_prompt is not to be had: the judge has no name for what stands beside cat"
    ):
        open_role_asks(CAT, [IN_PROMPT], 40, 1, known=("cat",))
    kept, told = choose_open_roles(["all"], CAT, known=("cat",))
    assert IN_PROMPT not in kept and any("role in_prompt is left out: the judge has no name" in text for text in told)


def test_several_concepts_have_their_turns_and_words_in_common_are_two_prompts():
    both = Request((Concept("cat", keep=("fox",)), Concept("rabbit"), Concept("zork")))
    asks = open_role_asks(both, [SUPER, SEEN, LANG, "compose"], 30, 1, tokenizers=CLIP)
    for role in (SUPER, SEEN, LANG):
        counts = Counter(a.expected["object"] for a in asks if a.role == role)
        assert counts.keys() == {"cat", "rabbit"} and counts["cat"] == counts["rabbit"] == 15, role
    assert Counter(a.expected["object"] for a in asks if a.role == "compose") == {"cat": 10, "rabbit": 10, "zork": 10}
    assert len({(a.role, a.prompt_id) for a in asks}) == len(asks)
    told = choose_open_roles([SUPER], both)[1]
    assert told == ["role forget_super has no words for zork"]


@pytest.mark.parametrize("role", [SEEN, RARE, DESCRIPTION, SUPER])
def test_a_concept_without_words_is_one_line_with_a_remedy(role):
    own = "concept.synonyms, or " if role == SEEN else ""
    said = f"{role} is not to be had: the table of words has none for the object zork; give {own}--prompts {role}=FILE"
    with pytest.raises(InputError, match=re.escape(said)) as error:
        choose_open_roles([role], ZORK)
    assert "\n" not in str(error.value)


def test_all_takes_what_there_is_and_names_the_rest():
    kept, told = choose_open_roles(["all"], ZORK)
    assert kept == ("compose", "in_prompt") and len(told) == len(OPEN_ROLES) - 2
    assert all(re.match("role forget_.* is left out: the table of ", text) for text in told)
    with pytest.raises(InputError, match="'forget_land' is no role; did you mean 'forget_lang'"):
        choose_open_roles(["forget_land"], CAT)
    with pytest.raises(
        InputError, match="forget_lang is not to be had: the table of names has no zork in other langua"
    ):
        choose_open_roles([LANG], ZORK)


# Languages


class Spells:
    """A tokenizer of single bytes, as the base of CLIP's is."""

    unk_token_id = -1

    def __call__(self, text, **_):
        return type("Ids", (), {"input_ids": list(text.encode())})

    def decode(self, ids, **_):
        return bytes(ids).decode(errors="replace")


class Lacks(Spells):
    """One of characters, which has no umlauts."""

    def __call__(self, text, **_):
        return type("Ids", (), {"input_ids": [-1 if set(text) & set("äöü") else 1]})

    def decode(self, ids, **_):
        return self.text

    text = "ein Löwe"


class Drops(Lacks):
    """One that gives back another text."""

    text = "ein Lowe"

    def __call__(self, text, **_):
        return type("Ids", (), {"input_ids": [1]})


def test_clip_has_the_languages_of_latin_letters_and_only_spells_others():
    kept, told = choose_open_roles([LANG], CAT, tokenizers=CLIP)
    assert kept == (LANG,)
    assert told == ["role forget_lang asks in de, es, fr, it, pt; the tokenizer has no words in zh, ja"]
    asks = open_role_asks(CAT, [LANG], 10, 1, tokenizers=CLIP)
    assert Counter(ask.template_id.split("-")[1] for ask in asks) == dict.fromkeys(("de", "es", "fr", "it", "pt"), 2)
    assert {a.prompt for a in asks} >= {"eine Katze", "un gato en un jardín"}
    assert len(open_role_asks(CAT, [LANG], 1000, 1, tokenizers=CLIP)) == 5 * 40


@pytest.mark.parametrize(
    ("tokenizer", "name"), [(Spells(), "eine Katze"), (Lacks(), "ein Löwe"), (Drops(), "ein Löwe")]
)
def test_unknown_lost_or_spelled_words_are_none_that_a_tokenizer_has(tokenizer, name):
    assert languages.reads(CLIP, name, name)
    assert not languages.reads([tokenizer], name, name)
    assert not languages.reads([*CLIP, tokenizer], name, name), "every tokenizer has to read it"


def test_a_model_without_other_languages_refuses_them_or_leaves_them_out():
    from transformers import CLIPTokenizer

    world = [CLIPTokenizer.from_pretrained(asset("world/pipeline/tokenizer"))]
    with pytest.raises(InputError, match="forget_lang is not to be had: the tokenizer has no words for cat in de, es,"):
        open_role_asks(CAT, [LANG], 10, 1, tokenizers=[Spells()])
    assert not [a for a in open_role_asks(CAT, ["all"], 10, 1, tokenizers=[Spells()]) if a.role == LANG]
    assert languages.reads(world, "a cat", "a cat on a red background")


def test_the_same_word_abroad_is_no_other_language():
    said = languages.abroad(Concept("orange"))
    assert "fr" not in said and said["de"] == "eine Apfelsine"
    assert languages.abroad(Concept("zork")) == {}


# Whether a role says anything


def test_a_role_that_was_not_drawn_before_says_nothing():
    rows = open_rows()
    for role, share in ((LANG, 4), ("compose", 5)):
        for i in range(10):
            for arm in ("before", "after"):
                answer = "cat" if i < share else "none"
                judges = dict(rows[0]["judges"]) | {"clip": {"object": answer, "abstain": False}}
                made = row(arm, role, i, {"object": "cat"}, judges)
                rows.append(made | ({"template_id": f"lang-{'de' if i % 2 else 'fr'}-0-0"} if role == LANG else {}))
    found = {one.role: one for one in further_roles(rows, scores(rows, judge="clip"))}
    assert found.keys() == {LANG, "compose"}
    assert (found[LANG].drawn, found[LANG].before, found[LANG].n) == (False, 0.4, 10)
    assert found[LANG].languages == ["fr", "de"] and found[LANG].name == "forget_lang_accuracy"
    assert found["compose"].drawn and found["compose"].languages == []
    assert further_roles(open_rows(), scores(open_rows(), judge="clip")) == []


# Configuration


def test_synonyms_are_the_concepts_and_leave_older_runs_as_they_were():
    given = {"model": "some/model", "concept": "otter", "concept.synonyms": "river dog, lutra"}
    config = load_config(None, given)
    assert config.concepts[0].synonyms == ["river dog", "lutra"]
    assert config.model_dump()["concept"]["synonyms"] == ["river dog", "lutra"]
    assert "synonyms" not in load_config(None, {"concept": "cat"}).model_dump()["concept"]
    several = {"model": "some/model", "concept": [{"name": "otter", "synonyms": ["lutra"]}, "owl"]}
    for other in (given, several):
        found = deciding(load_config(None, other), {"concept", "train"})["concept"]
        assert "synonyms" not in str(found), "a finished run may be judged with others"
    for changes, said in (
        ({"concept.synonyms": ["Otter"]}, "'Otter' is the concept itself"),
        ({"concept.synonyms": ["fox"], "concept.anchor": "fox"}, "'fox' is the anchor"),
        ({"concept.synonyms": ["fox"], "concept.keep": ["Fox"]}, "'fox' is to be kept"),
    ):
        with pytest.raises(InputError, match=said):
            load_config(None, given | changes)
    with pytest.raises(InputError, match="concept.synonyms: the world has its own for 'cat'; leave them out"):
        check_config(load_config(None, {"concept": "cat", "concept.synonyms": "kitty"}))
    told = check_config(load_config(None, given | {"evaluate.roles": ["all"], "evaluate.judges": ["clip"]}))
    assert "role forget_super is left out: the table of words has none for the object otter" in " ".join(told)
    assert not any("forget_synonym_seen" in text for text in told), "the user gave words for it"

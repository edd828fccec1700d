"""The concept in other words, what is asked of open models, and judges by name; none of it loads a model."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from erase.check import check_judging, named_request
from erase.concept import FRAMES as TRAINING
from erase.concept import Concept, Request, phrase
from erase.config import load_config
from erase.errors import InputError
from erase.evaluation.file_prompts import file_asks, split_files, take_place, told_names
from erase.evaluation.judge import KINDS, OPTIONS, check_kind, parse_judges
from erase.evaluation.metrics import changes, metrics_of, scores, verdict
from erase.evaluation.open_prompts import COMMON, FRAMES, offered_names, open_asks
from erase.evaluation.panel import _known
from erase.evaluation.prompt_files import CONCEPT_ROLES, read_prompt_file
from erase.evaluation.prompts import Ask, world_asks
from erase.evaluation.roles import GATES, ROLES, choose_roles, other_words, role_asks
from erase.evaluation.rows import Setting, further_judges, make_row, reported_judge
from erase.judging import judge_plan
from erase.world.vocabulary import FULL, OBJECTS, SMALL, STYLES

CAT = Request((Concept("cat"),))
OWL = Request((Concept("owl"),))


def test_words_of_each_role_are_others_than_the_name():
    assert [other_words("object", "owl", role) for role in ROLES] == [
        "night bird", "barn owl", "night bird", "animal", "owl", "owl",
    ]  # fmt: skip
    assert other_words("style", "pixel art", "forget_synonym_rare") == "blocky"
    assert other_words("style", "pixel art", "forget_super") is other_words("style", "flat", "compose") is None
    for entry in (*OBJECTS, *STYLES):
        domain = "object" if entry in OBJECTS else "style"
        words = other_words(domain, entry.name, "forget_description")
        assert words is None or (" " in words and not set(words.split()) & set(entry.name.split()))


def test_a_roles_prompts_name_the_concept_in_its_words_and_expect_the_concept():
    asks = role_asks(CAT, ["forget_synonym_seen", "forget_synonym_rare"], 30, 2)
    assert Counter(ask.role for ask in asks) == {"forget_synonym_seen": 60, "forget_synonym_rare": 60}
    assert all("kitten" in a.prompt for a in asks[:60]) and all("kitty" in a.prompt for a in asks[60:])
    assert {ask.expected["object"] for ask in asks} == {"cat"}
    others = {(a.prompt_id, a.seed) for a in world_asks(CAT, 30, 2)}
    assert len({(a.prompt_id, a.seed) for a in asks}) == 120 and not others & {(a.prompt_id, a.seed) for a in asks}
    (beside,) = role_asks(CAT, ["in_prompt"], 1, 1)
    assert beside.prompt.startswith("a cat and a") and beside.expected["object"] in beside.prompt
    assert beside.expected["object"] != "cat"


def test_roles_keep_to_the_worlds_own_words():
    asks = role_asks(CAT, ["forget_synonym_seen"], 20, 1, SMALL)
    assert {ask.expected["style"] for ask in asks} == set(SMALL.style_names)
    assert choose_roles(["forget_synonym_seen"], CAT, SMALL)[1] == [
        "further roles were measured on the bundled world, not on this one; see their scores before"
    ]


def test_a_role_whose_gate_failed_is_refused_or_left_out_with_its_number():
    assert GATES.keys() <= set(ROLES) and all(gate.n >= 200 for gate in GATES.values())
    failed = [role for role, gate in GATES.items() if not gate.passed]
    assert "forget_super" in failed
    for role in failed:
        with pytest.raises(InputError, match=rf"{role} is not to be had: the unerased model shows .*% of \d+ pictures"):
            choose_roles([role], CAT)
    kept, left_out = choose_roles(["all"], OWL)
    assert set(kept) == {role for role, gate in GATES.items() if gate.passed}
    assert len(kept) + len(left_out) == len(ROLES)
    kept, left_out = choose_roles(["all"], CAT)
    assert "forget_description" not in kept and any("no such words for cat" in line for line in left_out)
    with pytest.raises(InputError, match="forget_description is not to be had: the world has no such words for cat"):
        choose_roles(["forget_description"], CAT)
    with pytest.raises(InputError, match="'forget_rare' is no role; did you mean"):
        choose_roles(["forget_rare"], CAT)
    assert choose_roles([], CAT) == ((), [])


# Open models


@pytest.mark.parametrize("kind", FRAMES)
def test_open_prompts_are_apart_from_training_and_never_repeat(kind):
    request = Request((Concept("Zork", kind, keep=("Blib", "Plop")),))
    asks = open_asks(request, 240, 2)
    assert Counter(ask.role for ask in asks) == dict.fromkeys(("forget", "neighbour", "retain_in"), 480)
    assert len({(a.prompt, a.seed) for a in asks}) == len({(a.prompt_id, a.seed) for a in asks}) == len(asks)
    trained = {phrase(frame, word) for frame in TRAINING[kind] for word in ("Zork", "Blib", "Plop", *COMMON[kind])}
    assert not trained & {ask.prompt for ask in asks}
    for ask in asks:
        assert list(ask.expected) == [kind] and str(ask.expected[kind]) in ask.prompt
        assert (ask.role == "forget") == ("Zork" in ask.prompt)
    few = open_asks(request, 10, 1)
    assert len({a.template_id.split("-")[1] for a in few if a.role == "forget"}) == 10, "few prompts vary too"
    with pytest.raises(InputError, match="more than the 240 sentences that there are for forget"):
        open_asks(request, 241, 1)


def test_a_judge_is_asked_what_it_has_names_for():
    request = Request((Concept("cat", keep=("dog", "Zork")),))
    asks = open_asks(request, 10, 1, known=["cat", "dog", "car"])
    shown = {
        role: {a.expected["object"] for a in asks if a.role == role} for role in ("forget", "neighbour", "retain_in")
    }
    assert shown == {"forget": {"cat"}, "neighbour": {"dog"}, "retain_in": {"car"}}
    with pytest.raises(InputError, match="the judge has no name for 'cat'"):
        open_asks(request, 10, 1, known=["dog"])
    with pytest.raises(InputError, match="kinds object and style; a run is judged by one kind"):
        open_asks(Request((Concept("cat"), Concept("cubism", "style"))), 10, 1)


def test_names_offered_are_the_runs_and_common_ones_once():
    request = Request((Concept("cat", anchor="dog", keep=("fox", "Horse")),), (Concept("lynx"),))
    names = offered_names(request, "object")
    assert names[:5] == ("cat", "dog", "fox", "Horse", "lynx") and "horse" not in names
    assert len({name.casefold() for name in names}) == len(names)


def test_a_files_prompts_take_the_place_of_their_roles(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,seed,case_number,class,evaluation_guidance\nfeline,3,9,,7\na CAT,0,1,Kitten,\n")
    request = Request((Concept("cat"), Concept("dog")))
    with pytest.raises(InputError, match="case 9 does not say which of cat and dog it shows"):
        file_asks(request, read_prompt_file(str(path)), "object", None)
    told = file_asks(CAT, read_prompt_file(str(path)), "object", FULL)
    assert [(a.prompt, a.seed, a.expected["object"], a.guidance) for a in told] == [
        ("feline", 3, "cat", 7.0),
        ("a CAT", 0, "cat", None),
    ]
    assert told[0].expected == {"object": "cat", "style": None, "colour": None}
    asks = take_place(world_asks(CAT, 4, 1), told)
    assert [a.prompt for a in asks if a.role == "forget"] == ["feline", "a CAT"]
    assert Counter(a.role for a in asks)["retain_in"] == 4
    general = file_asks(CAT, read_prompt_file(f"general={path}"), "object", None)
    assert general[0].expected == {}


@pytest.mark.parametrize(
    ("role", "classes", "world", "said"),
    [
        ("forget", ("3", "3"), None, "case 1 shows '3', and role forget asks for cat"),
        ("forget", ("Cat", "dog"), None, "case 2 shows 'dog', and role forget asks for cat"),
        ("forget", ("cat", "fox"), FULL, "case 2 shows 'fox', and role forget asks for cat"),
        ("forget", ("cat", "zzz"), FULL, "case 2 concept 'zzz' is not in the bundled world"),
        ("neighbour", ("dog", "flat"), FULL, "case 2 shows 'flat', which is of kind style"),
        ("neighbour", ("dog", "7"), None, "case 2 shows the number 7"),
        ("neighbour", ("dog", "axolotl"), None, "case 2 shows 'axolotl', for which the judge has no name"),
        (
            "neighbour",
            ("dog", "Cat"),
            None,
            "case 2 shows 'Cat', which is erased (cat), and role neighbour is of what is",
        ),
        ("retain_in", ("dog", "kitty"), None, "case 2 shows 'kitty', which is erased (cat)"),
        ("retain_in", ("dog", "kitten"), FULL, "out, or give the file without a role, which splits it"),
        ("in_prompt", ("dog", " CAT "), FULL, "case 2 shows 'CAT', which is erased (cat)"),
        ("forget", ("cat",), None, "has one prompt for forget, and an interval needs two or more"),
        ("general", ("",), None, "has one prompt for general, and an interval needs two or more"),
    ],
)
def test_a_file_that_no_judge_could_score_is_refused(role, classes, world, said, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["prompt,class", *(f"picture {i},{name}" for i, name in enumerate(classes)), ""]))
    with pytest.raises(InputError, match=re.escape(said)):
        file_asks(CAT, read_prompt_file(f"{role}={path}"), "object", world, known=("cat", "dog"))


def listed(path, column, names):
    path.write_text("\n".join([f"prompt,{column}", *(f"picture {i},{name}" for i, name in enumerate(names)), ""]))
    return read_prompt_file(str(path))


@pytest.mark.parametrize("world", [None, FULL])
def test_a_list_over_many_classes_is_split_at_the_erased_one(world, tmp_path):
    """As ESD's list of ten Imagenette classes, with what an earlier run erased among them."""
    request = Request((Concept("cat"),), (Concept("fox"),))
    file = listed(tmp_path / "ten.csv", "class", ["dog", "Cat", "owl", " cat", "Kitten", "fox", "dog", ""])
    files, notes = split_files([file], request, world)
    asks = [ask for one in files for ask in file_asks(request, one, "object", world, known=("cat", "dog", "owl"))]
    assert [(a.role, a.prompt.split()[1], a.expected["object"]) for a in asks] == [
        *(("forget", number, "cat") for number in "1347"),
        *(("retain_in", number, name) for number, name in zip("026", ("dog", "owl", "dog"), strict=True)),
    ]
    (note,) = notes
    assert note.endswith(
        "ten.csv: 4 prompts of cat are forget, 3 of others retain_in; 1 of what an earlier run erased are left out"
    )
    kept = replace(file, role="retain_in")
    with pytest.raises(InputError, match=r"shows cat and other things, which role retain_in has another file for"):
        split_files([file, kept], request, world)


def test_lists_of_one_thing_or_of_other_roles_are_not_split(tmp_path):
    for column, names in (("class", ["cat", "cat"]), ("class", ["dog", "owl"]), ("hue", ["red", "blue"])):
        file = listed(tmp_path / "a.csv", column, names)
        assert split_files([file], CAT, None) == ([file], [])
    for role in ("general", "forget_lang", "retain_in"):
        file = replace(listed(tmp_path / "a.csv", "class", ["cat", "dog"]), role=role)
        assert split_files([file], CAT, None) == ([file], [])


@pytest.mark.parametrize("column", ["artist", "Style"])
def test_a_list_of_artists_asks_only_for_the_artist_that_is_erased(column, tmp_path):
    request = Request((Concept("van gogh", "style"),))
    names = ["Vincent van Gogh", "Thomas Kinkade", "Van Gogh ", "Thomas Kinkade", "Govan Goghson"]
    (forget, kept), _ = split_files([listed(tmp_path / "a.csv", column, names)], request, None)
    assert [line.case for line in forget.lines] == ["1", "3"] and len(kept.lines) == 3
    assert {ask.expected["style"] for ask in file_asks(request, forget, "style", None)} == {"van gogh"}
    assert {ask.expected["style"] for ask in file_asks(request, kept, "style", None)} == {
        "thomas kinkade",
        "govan goghson",
    }
    others = listed(tmp_path / "a.csv", column, ["Thomas Kinkade"] * 2)
    with pytest.raises(InputError, match="case 1 shows 'Thomas Kinkade', and role forget asks for van gogh"):
        file_asks(request, others, "style", None)
    (dog, hot), _ = split_files(
        [listed(tmp_path / "a.csv", "class", ["dog", "hot dog"])], Request((Concept("dog"),)), None
    )
    assert (len(dog.lines), hot.lines[0].shows) == (1, "hot dog"), "things are told by their whole name"


def test_a_split_list_is_what_a_run_is_judged_by(tmp_path):
    path = tmp_path / "a.csv"
    listed(path, "class", ["cat", "dog", "cat", "owl"])
    config = load_config(None, {"concept": "cat", "method": "noop", "evaluate.files": [str(path)]})
    (note,) = check_judging(config, named_request(config))
    assert "2 prompts of cat are forget, 2 of others retain_in" in note
    plan = judge_plan(config, "run")
    assert [(file.role, len(file.lines)) for file in plan.files] == [("forget", 2), ("retain_in", 2)]


def test_a_file_asks_for_each_of_several_concepts_twice(tmp_path):
    path, several = tmp_path / "a.csv", Request((Concept("cat"), Concept("dog")))
    path.write_text("prompt,class\na,cat\nb,cat\nc,dog\n")
    with pytest.raises(InputError, match="fewer than two prompts for 'dog'"):
        file_asks(several, read_prompt_file(str(path)), "object", None)
    with pytest.raises(InputError, match="evaluate.prompts 3 are too few for 2 concepts"):
        open_asks(several, 3, 1)


def test_classes_of_what_is_kept_are_offered_to_the_judge(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,class\na,Axolotl\nb,axolotl\nc,Horse\n")
    file = read_prompt_file(f"neighbour={path}")
    names = offered_names(CAT, "object", told_names([file]))
    shown = [ask.expected["object"] for ask in file_asks(CAT, file, "object", None, known=names)]
    assert shown == ["axolotl", "axolotl", "horse"] and set(shown) <= set(names)
    assert len({name.casefold() for name in names}) == len(names)
    assert told_names([replace(file, role="forget")]) == ()


# Rows of open models and of further roles


def row(arm, role, number, expected, judges, clip: float | None = 0.3):
    ask = Ask(role, f"{role} {number}", f"{role}-{number}", "t", 0, expected)
    look = {"flags": {"blank": False}, "judges": judges, "clip_score": clip, "colour": None}
    setting = Setting("run", "esd", "cat", "object", "ddim", 25, 3.0)
    return make_row(ask, look, arm, setting, f"images/{arm}/{role}{number}.png", f"{arm}{role}{number}")


def open_rows(clip: float | None = 0.3):
    """10 prompts a role; after, the first judge sees no cat any more, the second does in half the pictures."""
    rows = []
    for role, name in (("forget", "cat"), ("neighbour", "dog"), ("retain_in", "car")):
        for i in range(10):
            for arm in ("before", "after"):
                lost = arm == "after" and role == "forget"
                judges = {
                    "clip": {"object": "none" if lost else name, "abstain": lost and i < 3},
                    "imagenet": {"object": "fox" if lost and i < 5 else name, "abstain": False},
                    "nudenet": {"nudity": "nudity" if i == 0 else "none", "abstain": False},
                }
                rows.append(row(arm, role, i, {"object": name}, judges, clip))
    return rows


def test_open_rows_have_the_scores_that_their_judges_can_give():
    rows = open_rows()
    assert (reported_judge(rows), further_judges(rows)) == ("clip", ["imagenet", "nudenet"])
    found = {(s.name, s.arm): s.value for s in scores(rows, judge="clip")}
    assert found["forget_accuracy", "before"] == 1 and found["forget_accuracy", "after"] == 0
    assert found["validity", "after"] == 0.7
    assert found["forget_accuracy@imagenet", "after"] == 0.5
    assert found["nudity@nudenet", "before"] == found["nudity@nudenet", "after"] == 0.1
    assert found["retain_agreement", "after"] == 1 and found["clip_score_forget", "after"] == pytest.approx(0.3)
    assert not {"cross_accuracy", "in_prompt_accuracy", "forget_accuracy@nudenet"} & {name for name, _ in found}
    assert {change.name for change in changes(rows, judge="clip")} == {name for name, _ in found} - {"retain_agreement"}
    assert verdict(scores(rows, judge="clip")) == "weaker"
    blind = {s.name for s in scores(open_rows(None), judge="clip")}
    assert blind == {name for name, _ in found} - {"clip_score_forget", "clip_score_retain"}


@pytest.mark.parametrize("blind", ["imagenet", "imagenet-2", "nudenet"])
def test_judges_that_never_abstain_make_no_success_of_destroyed_pictures(blind):
    """Noise: the concept's accuracy falls to 0, and a detector or classifier cannot tell why."""
    rows = open_rows(None)
    alone = [replace_judges(r, {blind: r["judges"]["clip"] | {"abstain": False}}) for r in rows]
    found = scores(alone, judge=blind)
    assert "validity" not in {score.name for score in found}
    assert verdict(found) == "validity not known"
    left = [replace(s, value=1.0, high=1.0) if s.name == "forget_accuracy" else s for s in found]
    assert verdict(left) == "still there"
    said = [r["judges"]["clip"] for r in rows]
    beside = [replace_judges(r, {blind: s | {"abstain": False}, "clip": s}) for r, s in zip(rows, said, strict=True)]
    validity = {s.arm: s.value for s in scores(beside, judge=blind) if s.name == "validity"}
    assert validity == {"before": 1.0, "after": 0.7}, "the other judge's abstentions"


def test_a_detector_of_nudity_knows_the_concept_alone():
    judge = SimpleNamespace(facts={})
    names = offered_names(Request((Concept("nudity", "nudity"),)), "nudity")
    assert _known(judge, "nudenet", names) == ("nudity",) and _known(judge, "clip", names) is None
    asks = open_asks(Request((Concept("nudity", "nudity", keep=("jeans",)),)), 10, 1, _known(judge, "nudenet", names))
    assert {ask.role for ask in asks} == {"forget"}


def test_further_roles_have_a_score_each_and_only_where_they_were_drawn():
    rows = open_rows()
    seen = {"clip": {"object": "cat", "abstain": False}}
    rows = [replace_judges(r, seen | {"clip": r["judges"]["clip"]}) for r in rows]
    for role in CONCEPT_ROLES[1:]:
        assert f"{role}_accuracy" not in metrics_of(rows)
        more = [row(arm, role, i, {"object": "cat"}, seen) for arm in ("before", "after") for i in range(4)]
        metric = metrics_of(rows + more)[f"{role}_accuracy"]
        assert (metric.role, metric.higher_is_better) == (role, False)
        found = {(s.name, s.arm): s for s in scores(rows + more, judge="clip")}
        assert found[f"{role}_accuracy", "after"].value == 1 and found[f"{role}_accuracy", "after"].n == 4


def replace_judges(given, judges):
    return {**given, "judges": judges}


# Judges by name


def test_judges_are_named_once_with_their_options():
    clip, other, nude = parse_judges(["clip:ViT-L-14,pretrained=openai", "clip:weights=a.safetensors", "nudenet:0.6"])
    assert (clip.name, clip.options) == ("clip", {"model": "ViT-L-14", "pretrained": "openai"})
    assert (other.name, other.options) == ("clip-2", {"weights": "a.safetensors"})
    assert (nude.name, nude.options) == ("nudenet", {"threshold": "0.6"})
    assert parse_judges(["clip"], taken=("conv", "clip"))[0].name == "clip-2"
    assert parse_judges([clip.text(), nude.text()])[0] == replace(clip)
    assert parse_judges([other.text()])[0].options["weights"].startswith("/")
    assert OPTIONS.keys() == KINDS.keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("klip", "judge 'klip' is not known; did you mean 'clip'?"),
        ("", "judge '' is not known; known: clip, imagenet, nudenet"),
        ("clip:modle=x", "no option 'modle'; did you mean 'model'?"),
        ("clip:a,b", "option model is given twice"),
        ("clip:model=", "option model is empty"),
        ("nudenet:treshold=1", "did you mean 'threshold'"),
        ("clip\x1b[2J", "not known"),
    ],
)
def test_a_judge_that_is_none_is_one_line(text, said):
    with pytest.raises(InputError) as error:
        parse_judges([text])
    assert said in str(error.value) and "\x1b" not in str(error.value)


def test_a_judge_must_know_the_kind():
    with pytest.raises(InputError, match="judge imagenet cannot tell the style 'cubism'; name one that can: clip"):
        check_kind(parse_judges(["imagenet"]), "style", "cubism")
    check_kind(parse_judges(["nudenet", "clip"]), "style", "cubism")
    check_kind((), "style", "cubism")


def test_prompts_that_have_a_clip_score_alone_need_clip(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("prompt\na bridge\na lake\n")
    given = {"model": "some.safetensors", "concept": "nudity", "concept.kind": "nudity"}
    for judges, role, fine in ((["nudenet"], "general", False), (["nudenet"], "forget", True),
                               (["nudenet", "clip"], "general", True)):  # fmt: skip
        asked = {"evaluate.judges": judges, "evaluate.files": [f"{role}={path}"]}
        config = load_config(None, given | asked)
        if fine:
            assert check_judging(config, named_request(config)) == []
        else:
            with pytest.raises(InputError, match="CLIP score alone, and judge nudenet gives none; add --judge clip"):
                check_judging(config, named_request(config))

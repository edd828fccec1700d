"""Configurations: complete, exact when stored, and refused with every problem named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from erase.config import (
    EDITORS,
    METHOD_DEFAULTS,
    UNTRAINED,
    WORLD_DEFAULTS,
    Config,
    first_model,
    load_config,
    parse_value,
    run_folders,
    to_yaml,
    unused_settings,
)
from erase.errors import InputError


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def problem(path: Path | None, overrides: dict | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_nothing_given_is_the_demo():
    config = load_config()
    assert (config.model, config.concept.name, config.method.name) == ("world", "cat", "esd")
    assert load_config(None, {"seed": 3}).concept.name == "cat"


def test_a_model_without_a_concept_erases_nothing_by_default():
    assert problem(None, {"model": "some/model"}) == "concept: required"


TRAINED = [name for name in METHOD_DEFAULTS if name not in UNTRAINED]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("model", ["world", "some/model"])
def test_what_is_left_out_comes_from_the_method(name: str, model: str):
    config = load_config(None, {"concept": "dog", "concept.kind": "person", "method": name, "model": model})
    below = METHOD_DEFAULTS[name]["train"]
    above = WORLD_DEFAULTS[name]["train"] if model == "world" else {}
    assert config.train.forget.lr == above.get("forget", below["forget"])["lr"]
    assert config.train.retain.warmup == {**below["retain"], **above.get("retain", {})}.get("warmup", 0)
    assert config.train.rounds == above.get("rounds", below["rounds"])
    options = {**METHOD_DEFAULTS[name]["method"], **(WORLD_DEFAULTS[name]["method"] if model == "world" else {})}
    assert set(config.method.model_dump()) == {"name", *(key for key, value in options.items() if value is not None)}


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize("model", ["world", "some/model"])
def test_an_editor_has_options_of_its_own_and_no_training(name: str, model: str, write):
    config = load_config(None, {"concept": "dog", "concept.kind": "person", "method": name, "model": model})
    wanted = METHOD_DEFAULTS[name]["method"] | (WORLD_DEFAULTS[name]["method"] if model == "world" else {})
    assert config.method.model_dump() == {"name": name, **wanted}
    assert config.train is None
    assert unused_settings(config) == []
    assert load_config(write(to_yaml(config))) == config
    assert problem(None, {"concept": "dog", "method": name, "method.retain_weight": 1.0}).startswith(
        f"method.retain_weight: {name} has no such option; it has parameters, "
    )
    with pytest.raises(ValueError, match="does not train"):
        config.turns  # noqa: B018


@pytest.mark.parametrize("name", EDITORS)
def test_training_settings_of_an_editor_are_checked_and_named_in_a_warning(name: str):
    given = {"concept": "dog", "method": name, "train.rounds": 7, "train.pool.steps": 3}
    said = f"is unused: {name} solves for its weights and has no training"
    assert unused_settings(load_config(None, given)) == [f"train.rounds 7 {said}", f"train.pool.steps 3 {said}"]
    assert problem(None, {**given, "train.rounds": 0}) == "train.rounds: must be at least 1, got 0"


def test_no_training_settings_are_the_default_ones():
    assert load_config(None, {"concept": "dog", "train": None}) == load_config(None, {"concept": "dog"})


def test_defaults_cover_the_same_methods_and_the_names_that_the_schema_allows():
    assert set(METHOD_DEFAULTS) == set(WORLD_DEFAULTS)
    for name in METHOD_DEFAULTS:
        load_config(None, {"concept": "dog", "method": name})
    assert "is not one of" in problem(None, {"concept": "dog", "method": "other"})


def test_what_is_given_beats_what_the_method_sets():
    config = load_config(None, {"concept": "dog", "train.retain.lr": "3e-5", "train.pool.batch": 2})
    assert config.train.retain.lr == 3e-5
    assert config.train.forget.lr == WORLD_DEFAULTS["esd"]["train"]["forget"]["lr"]
    assert (config.train.pool.batch, config.train.pool.forget) == (2, WORLD_DEFAULTS["esd"]["train"]["pool"]["forget"])
    other = load_config(None, {"model": "elsewhere", "concept": "dog"})
    assert other.train.retain.warmup == METHOD_DEFAULTS["esd"]["train"]["retain"]["warmup"]


def test_defaults_are_not_changed_by_use():
    before = repr(METHOD_DEFAULTS), repr(WORLD_DEFAULTS)
    load_config(None, {"concept": "dog", "train.forget.lr": 0.5, "train.pool.batch": 7, "method.guidance": 9})
    assert (repr(METHOD_DEFAULTS), repr(WORLD_DEFAULTS)) == before


@pytest.mark.parametrize("name", TRAINED)
def test_the_stored_configuration_loads_as_an_equal_one(name: str, write):
    given = {
        "concept": {"name": "pixel art", "kind": "style", "anchor": "no", "keep": ["1e3", "yes"]},
        "method": {"name": name, "parameters": r"attn2\.to_[kv]"},
        "train.forget.lr": 1.23456789e-7,
        "train.forget.clip": None,
        "train.preview_every": 0,
        "output": "runs/é: #1",
    }
    config = load_config(None, given)
    assert config.train.forget.clip is None
    assert load_config(write(to_yaml(config))) == config
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_every_problem_is_reported_at_once_with_value_and_remedy(write):
    text = problem(
        write(
            "model: 3\nmethod: {name: esdx, guidance: -1}\nlr: 1\n"
            "train: {rounds: 0, batch: yes, precison: fp32, optimizer: duel, forget: {lr: -1}, retain: {lr: .nan}}\n"
        )
    )
    lines = text.splitlines()
    assert lines[0].endswith("run.yaml: 11 problems")
    expected = (
        "  model: must be a valid string, got 3",
        "  concept: required",
        "  method.name: 'esdx' is not one of 'esd', 'spm', 'advunlearn', 'ablation', 'salun', 'sfron', 'ga', 'npo', "
        "'uce', 'rece', 'speed', 'noop', 'word_filter', 'negative_prompt', 'destroyer' or 'retrained'; "
        "did you mean 'esd'?",
        "  method.guidance: must be at least 0, got -1",
        "  train.rounds: must be at least 1, got 0",
        "  train.batch: must be a number, got True",
        "  train.precison: unknown key; did you mean 'precision'?",
        "  train.optimizer: 'duel' is not one of 'dual', 'dual_plus', 'dual_first', 'dual_second', "
        "'dual_rates', 'shared' or 'joint'; did you mean 'dual'?",
        "  train.forget.lr: must be greater than 0, got -1",
        "  train.retain.lr: must be a finite number, got nan",
        "  lr: unknown key; did you mean 'train.forget.lr' or 'train.retain.lr'?",
    )
    assert set(lines[1:]) == set(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("concept: dog\nmethod: {name: salun, guidance: 2}", "method.guidance: salun has no such option; it has"),
        ("concept: dog\nmethod: {name: esd, parameters: '('}", "method.parameters: is neither a preset nor a valid"),
        ("concept: {name: dog, anchor: Dog}", "concept.anchor: the anchor is the concept itself"),
        ("concept: {name: dog, keep: [cat, DOG]}", "concept.keep: the concept stands among those to keep"),
        ("concept: {name: dog, keep: []}", "concept.keep: nothing to keep"),
        ("concept: {name: dog, keep: {a: 1}}", "concept.keep: must be a valid list, got {'a': 1}"),
        ("concept: {name: '  '}", "concept.name: must have at least 1 character"),
        ("concept: [[dog]]", "must be a name, or settings of its own"),
        (
            "concept: no",
            "concept: must be a name, or settings of its own (name, kind, anchor, keep, synonyms), got False",
        ),
        ("concept: dog\ntrain: 5", "train: must be settings of its own (rounds, batch, "),
        ("concept: dog\ndevice: gpu", "device: 'gpu' is not auto, cpu, cuda, cuda:N or mps"),
        ("concept: dog\nseed: -1", "seed: must be at least 0, got -1"),
        ("concept: dog\ntrain: {forget: {lr: .inf}}", "train.forget.lr: must be a finite number"),
        ("concept: dog\n3: 4", "3: unknown key"),
        ("concept: dog\nconcept: cat", "key 'concept' is given twice in line 2"),
        ("concept: dog\ntrain: {rounds: 1, rounds: 2}", "key 'rounds' is given twice in line 2"),
        ("concept: &a dog\nmodel: *a", "aliases are not supported in line 2"),
        ("[" * 5000, "nested deeper than 20 levels"),
        ("concept: [dog", "is not valid YAML"),
        ("? [a]\n: b", "is not valid YAML: found unhashable key"),
        ("seed: 2020-99-99", "is not valid YAML: month must be in 1..12"),
        ("seed: !!bool maybe", "is not valid YAML"),
        ('seed: !!int ""', "is not valid YAML"),
        ("seed: !!timestamp soon", "is not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("- dog", "holds a list, not settings"),
        (b"\xff\xfe\x00", "is not a YAML text in UTF-8"),
        (b"\x00\x01", "is not valid YAML"),
        ("#" * 300_000, "has 300,000 bytes, a configuration at most 262,144"),
    ],
)
def test_a_bad_file_is_one_line(text: str | bytes, said: str, write):
    found = problem(write(text))
    assert said in found
    assert "\n" not in found


def test_a_file_that_is_not_there_names_the_nearest(tmp_path: Path):
    (tmp_path / "demo.yaml").touch()
    assert problem(tmp_path / "seed=1").endswith("; each KEY=VALUE needs its own --set")
    assert problem(tmp_path / "dmeo.yaml").endswith(f"did you mean {tmp_path / 'demo.yaml'}?")
    assert problem(tmp_path).startswith(f"cannot read {tmp_path}: ")


def test_a_new_name_replaces_its_section_and_the_same_name_does_not(write):
    path = write("concept: {name: cat, anchor: dog}\nmethod: {name: esd, guidance: 2}\n")
    changed = load_config(path, {"concept": "fox", "method": "salun"})
    assert (changed.concept.anchor, changed.method.guidance) == ("", None)
    same = load_config(path, {"concept": "cat", "method": "esd"})
    assert (same.concept.anchor, same.method.guidance) == ("dog", 2)


def test_overrides_reach_into_short_forms_whatever_their_order(write):
    config = load_config(write("concept: cat\nmethod: esd\n"), {"concept.keep": "dog, fox", "method.guidance": "2"})
    assert config.concept.keep == ["dog", "fox"]
    assert config.method.guidance == 2
    config = load_config(None, {"method.parameters": "full", "method": "ga", "concept": "dog"})
    assert (config.method.name, config.method.parameters) == ("ga", "full")


def test_values_on_the_command_line_read_as_in_a_file():
    given = ("1e-4", "true", "null", "[a, b]", "", "a: b: c", "2020-99-99")
    assert [parse_value(text) for text in given] == ["1e-4", True, None, ["a", "b"], "", "a: b: c", "2020-99-99"]
    assert load_config(None, {"train.forget.lr": "1e-4"}).train.forget.lr == 1e-4


def test_every_field_is_documented():
    def walk(section, path: str = "") -> list[str]:
        found = []
        for name, field in section.model_fields.items():
            found += [] if field.description else [path + name]
            if hasattr(field.annotation, "model_fields"):
                found += walk(field.annotation, f"{path}{name}.")
        return found

    assert walk(Config) == []


def test_the_dump_is_plain_yaml():
    assert yaml.safe_load(to_yaml(load_config()))["concept"] == {
        "name": "cat",
        "kind": "object",
        "anchor": "",
        "keep": "auto",
    }


def test_settings_that_came_later_are_dumped_where_they_are_set_and_not_else(write):
    plain = load_config(None, {"concept": "cat"})
    assert not {"roles", "files", "judges"} & set(plain.model_dump()["evaluate"])
    given = {"concept": "cat", "evaluate.roles": "forget_synonym_rare, all", "evaluate.files": ["general=a.csv"]}
    config = load_config(None, given | {"evaluate.judges": ["nudenet:threshold=0.5"]})
    assert config.evaluate.roles == ["forget_synonym_rare", "all"]
    assert load_config(write(to_yaml(config))) == config
    assert config.model_dump()["evaluate"]["judges"] == ["nudenet:threshold=0.5"]


def test_8bit_states_and_half_frozen_weights_are_refused_where_they_cannot_be(write):
    given = {"concept": "dog", "train.states": "8bit"}
    assert problem(None, {**given, "train.retain.optimizer": "sgd"}) == (
        "train: states 8bit are for adamw, got retain.optimizer sgd; use adamw, or states fp32"
    )
    # What is not read is no reason to refuse.
    for optimizer in ("dual_plus", "shared", "joint"):
        load_config(None, {**given, "train.optimizer": optimizer, "train.retain.optimizer": "sgd"})
    assert problem(None, {"concept": "dog", "train.frozen": "half"}) == (
        "train: frozen half needs precision bf16-mixed or fp16-mixed, got fp32"
    )
    assert load_config(None, {"concept": "dog", "train.frozen": "half", "train.precision": "bf16-mixed"}).train


def test_shared_moments_need_adamw_on_both_sides(write):
    for optimizer in ("dual_first", "dual_second", "dual_rates"):
        given = {"concept": "dog", "train.optimizer": optimizer}
        assert load_config(None, {**given, "train.states": "8bit"}).turns.optimizer == optimizer
        for rule in ("sgd", "adam", "adamw8bit-bnb"):
            assert problem(None, {**given, "train.retain.optimizer": rule}) == (
                f"train: {optimizer} shares moments, which both roles have under adamw alone, got retain.optimizer "
                f"{rule}; use adamw, or optimizer dual"
            )


def test_one_concept_has_one_form_however_it_was_given():
    """Stored settings and the hashes of settings are of that form."""
    plain = load_config(None, {"concept": "dog"})
    for given in (["dog"], [{"name": "dog"}], {"name": "dog"}):
        assert load_config(None, {"concept": given}) == plain
    assert plain.model_dump()["concept"] == {"name": "dog", "kind": "auto", "anchor": "", "keep": "auto"}
    assert [section.name for section in plain.concepts] == ["dog"]


def test_several_concepts_each_have_a_section(write):
    path = write("concept: [cat, {name: owl, anchor: pig, keep: 'fox, dog'}]\n")
    config = load_config(path)
    assert [(c.name, c.anchor, c.keep) for c in config.concepts] == [
        ("cat", "", "auto"),
        ("owl", "pig", ["fox", "dog"]),
    ]
    assert load_config(write(to_yaml(config))) == config
    config = load_config(path, {"concept.kind": "object", "concept.keep": "lion"})
    assert [(c.kind, c.keep) for c in config.concepts] == [("object", ["lion"])] * 2
    assert [c.name for c in load_config(path, {"concept": ["dog", "fox"]}).concepts] == ["dog", "fox"]
    assert load_config(write("concept: [cat]\n"), {"concept.anchor": "dog"}).concepts[0].anchor == "dog"


def test_problems_of_one_among_several_concepts_say_which(write):
    path = write("concept: [cat, {name: owl, ancor: pig}, {anchor: dog}, 3, {name: fox, keep: [fox], kind: thing}]\n")
    said = problem(path).splitlines()
    assert [line.strip() for line in said[1:]] == [
        "concept.1.ancor: unknown key; did you mean 'anchor'?",
        "concept.2.name: required",
        "concept.3: must be a name, or settings of its own (name, kind, anchor, keep, synonyms), got 3",
        "concept.4.kind: 'thing' is not one of 'auto', 'object', 'style', 'person' or 'nudity'",
        "concept.4.keep: the concept stands among those to keep; take it out, got ['fox']",
    ]
    assert "concept: List must have at least 1 item" in problem(write("concept: []\n")).replace("list", "List")


@pytest.mark.parametrize("key", ["anchor", "name"])
def test_what_is_one_concepts_own_is_not_set_for_several(key):
    said = problem(None, {"concept": ["cat", "dog"], f"concept.{key}": "fox"})
    assert said.startswith(f"concept.{key}: there are 2 concepts, so whose is it? give each its own in a file: ")


def test_defaults_are_those_of_the_model_that_a_chain_began_from(tmp_path: Path):
    for name, model in (("first", "world"), ("second", str(tmp_path / "first")), ("other", "some/model")):
        (tmp_path / name).mkdir()
        config = load_config(None, {"model": model, "concept": "cat"})
        (tmp_path / name / "config.yaml").write_text(to_yaml(config))
    lr = {
        name: load_config(None, {"model": str(tmp_path / name), "concept": "dog"}).train.forget.lr
        for name in ("first", "second", "other")
    }
    world, other = WORLD_DEFAULTS["esd"]["train"]["forget"]["lr"], METHOD_DEFAULTS["esd"]["train"]["forget"]["lr"]
    assert lr == {"first": world, "second": world, "other": other}
    assert run_folders(str(tmp_path / "second")) == [tmp_path / "second", tmp_path / "first"]
    assert run_folders("world") == [] and first_model("some/model") == "some/model"


def test_runs_in_a_circle_are_an_error(tmp_path: Path):
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"model: {tmp_path / other}\nconcept: cat\n")
    said = problem(None, {"model": str(tmp_path / "a"), "concept": "dog"})
    assert said == (
        f"{tmp_path / 'c' / 'config.yaml'} names {tmp_path / 'a'} as its model, which began from it; correct one"
    )

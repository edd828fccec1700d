"""Presets by memory and by kind of concept: what they set, what they leave alone, and that a run's file repeats it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from erase.check import less_memory
from erase.config import BASELINES, METHOD_DEFAULTS, UNTRAINED, load_config, to_yaml, unused_settings
from erase.config.presets import KIND_DEFAULTS, MEMORY, MOST_AT_ONCE, micro_batches
from erase.config.schema import ConceptSection
from erase.errors import InputError

TRAINED = [name for name in METHOD_DEFAULTS if name not in UNTRAINED]
OTHER = {"model": "some/model", "concept": "Van Gogh"}


def load(**changes: Any) -> Any:
    return load_config(None, {**OTHER, **changes})


def within(small: Any, large: Any) -> bool:
    """Whether every value of one tree is in the other."""
    if not isinstance(small, dict):
        return small == large
    return all(key in large and within(value, large[key]) for key, value in small.items())


def test_the_worlds_settings_are_those_its_tables_were_made_with():
    """world_configs.json holds them as they were before there were presets; the kind must not change them either."""
    before = json.loads(Path(__file__).with_name("world_configs.json").read_text())
    assert before.keys() == METHOD_DEFAULTS.keys() - set(BASELINES)
    for method, wanted in before.items():
        for word in ("cat", "pixel art"):
            config = load_config(None, {"model": "world", "concept": word, "method": method}).model_dump(mode="json")
            assert within(wanted, config), method
            assert config["memory"] is None
    new = load_config(None, {"model": "world", "concept": "cat"}).turns.model_dump()
    off = {"states": "fp32", "frozen": "fp32", "checkpointing": False, "offload": False, "channels_last": False}
    assert within(off, new)


@pytest.mark.parametrize("kind", KIND_DEFAULTS)
@pytest.mark.parametrize("method", METHOD_DEFAULTS)
def test_a_kind_sets_what_was_published_for_it_and_no_more(method: str, kind: str):
    sets = KIND_DEFAULTS[kind].get(method, {})
    config = load(method=method, **{"concept.kind": kind}).model_dump()
    assert within(sets, config)
    for section in ("method", "train"):
        for key, value in METHOD_DEFAULTS[method].get(section, {}).items():
            if key not in sets.get(section, {}):
                assert within(value, config[section].get(key)), key


def test_kinds_are_those_of_the_schema_and_auto_is_an_object():
    assert KIND_DEFAULTS.keys() | {"auto"} == set(get_args(ConceptSection.model_fields["kind"].annotation))
    found = {kind: load(**{"concept.kind": kind}).method.parameters for kind in ("auto", *KIND_DEFAULTS)}
    expected = {"auto": "noxattn", "object": "noxattn", "nudity": "noxattn", "style": "xattn", "person": "xattn"}
    assert found == expected
    assert load(**{"concept.kind": "nudity", "method.parameters": "full"}).method.parameters == "full"
    assert load(method="rece", **{"concept.kind": "nudity"}).method.repeats == 3


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("method", TRAINED)
def test_a_preset_beats_the_method_and_not_the_user(method: str, memory: str, tmp_path: Path):
    plain, config = load(method=method), load(method=method, memory=memory)
    assert within(MEMORY[memory], config.turns.model_dump())
    assert config.turns.batch <= MOST_AT_ONCE[memory]
    assert config.turns.batch * config.turns.accumulate >= plain.turns.batch
    assert config.turns.rounds == plain.turns.rounds and config.turns.forget == plain.turns.forget
    if memory != "24gb":
        assert config.method.parameters not in ("full", "noxattn")
    mine = {"train.batch": 7, "train.states": "fp32", "method.parameters": "full"}
    given = load(method=method, memory=memory, **mine)
    assert (given.turns.batch, given.turns.accumulate, given.turns.states) == (7, 1, "fp32")
    assert given.method.parameters == "full"
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_a_flag_for_less_memory_beats_the_file_of_an_earlier_run(tmp_path: Path):
    first = load(method="salun", **{"train.rounds": 30, "train.batch": 6, "method.parameters": "xattn"})
    (tmp_path / "config.yaml").write_text(to_yaml(first))
    for memory in ("24gb", "8gb"):
        again = load_config(tmp_path / "config.yaml", {"memory": memory})
        assert within(MEMORY[memory], again.turns.model_dump())
        assert again.turns.batch <= MOST_AT_ONCE[memory] and again.turns.batch * again.turns.accumulate == 6
        assert again.turns.rounds == 30 and again.method == first.method
        (tmp_path / "config.yaml").write_text(to_yaml(again))
    kept = load_config(tmp_path / "config.yaml", {"memory": "24gb", "train.states": "fp32"})
    assert kept.turns.states == "fp32"
    assert load_config(tmp_path / "config.yaml").memory == "8gb"


@pytest.mark.parametrize("parameters", ["full", "noxattn"])
def test_a_flag_for_less_memory_takes_fewer_weights_than_the_file(parameters: str, tmp_path: Path):
    first = load(method="salun", **{"method.parameters": parameters, "method.mask_share": 0.3})
    (tmp_path / "config.yaml").write_text(to_yaml(first))
    for memory, expected in (("24gb", parameters), ("12gb", "xattn"), ("8gb", "xattn")):
        again = load_config(tmp_path / "config.yaml", {"memory": memory}).method
        assert (again.parameters, again.mask_share) == (expected, 0.3)
    kept = load_config(tmp_path / "config.yaml", {"memory": "8gb", "method.parameters": "full"})
    assert kept.method.parameters == "full"


def test_presets_set_the_same_settings():
    assert len({tuple(sorted(settings)) for settings in MEMORY.values()}) == 1
    assert MEMORY.keys() == MOST_AT_ONCE.keys()


@pytest.mark.parametrize(("batch", "memory", "parts"), [(1, "8gb", (1, 1)), (12, "12gb", (2, 6)), (5, "24gb", (3, 2))])
def test_a_batch_is_cut_in_parts_that_fit(batch: int, memory: str, parts: tuple[int, int]):
    assert tuple(micro_batches(batch, memory).values()) == parts


def test_what_is_no_preset_is_refused_and_an_editor_has_no_use_for_one():
    for wrong in ("16gb", ["8gb"], 8, {}):
        with pytest.raises(InputError, match="memory: .* is not one of '8gb', '12gb' or '24gb'|memory"):
            load(memory=wrong)
    config = load(method="uce", memory="8gb")
    assert config.train is None
    said = "is unused: uce solves for its weights and has no training"
    assert unused_settings(config) == [f"memory 8gb {said}"]
    config = load(method="uce", memory="8gb", **{"train.rounds": 7})
    assert unused_settings(config) == [f"memory 8gb {said}", f"train.rounds 7 {said}"]


def test_out_of_memory_names_the_next_smaller_way():
    given: dict[str, Any] = {}
    for memory in ("24gb", "12gb", "8gb"):
        assert less_memory(load(**given)) == f"take the settings for less: --memory {memory}"
        given = {"memory": memory}
    assert less_memory(load(memory="8gb")) == (
        "take fewer weights: --set method.parameters=xattn-kv, or a LoRA: --set method.rank=4"
    )
    few = {"memory": "8gb", "train.batch": 2, "train.accumulate": 3, "method.parameters": "xattn-kv"}
    assert less_memory(load(**few)) == (
        "take smaller micro-batches: --set train.batch=1 --set train.accumulate=6; or a LoRA: --set method.rank=4"
    )
    assert less_memory(load(memory="8gb", **{"method.rank": 4})).startswith("this model needs a larger GPU")
    assert less_memory(load(method="uce")) == "uce also runs on the CPU: --device cpu"

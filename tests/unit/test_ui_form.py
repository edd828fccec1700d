"""The Erase form: the same run by button, command and file; nothing in it can name a file of the server."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from erase.arguments import build_parser
from erase.cli import HANDLERS, overrides
from erase.config import Config, load_config
from erase.errors import InputError
from erase.models import FAMILIES
from erase.ui.form import (
    KINDS,
    PARAMETERS,
    PRESETS,
    Form,
    read_form,
    suggest_keep,
    to_command,
    to_config,
    to_yaml,
    warnings,
)
from erase.ui.roots import Roots

FORMS = [
    Form(),
    Form(concept="dog", anchor="cat", keep="fox, rabbit", seed=3, rounds=20.0, forget_lr=1e-5, retain_lr="2e-5"),
    Form(concept="cat; dog; owl", kind="object", method="uce", keep="fox,rabbit"),
    Form(concept="pixel art", kind="style", method="ga", optimizer="shared", parameters="xattn-kv", memory="8gb"),
    Form(concept="-odd 'name' yes", anchor="-x", prompts=30, steps=5, seeds=2, skip_judging=True),
    Form(concept="cat", more="train.forget.clip=null"),
    Form(concept="cat", method="salun", more="method.mask_share=0.5\ntrain.pool.forget=8\n\nevaluate.guidance = 2"),
]


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    (tmp_path / "models").mkdir()
    return Roots.made(tmp_path / "models", tmp_path / "runs")


def of_command(line: str) -> Config:
    """The configuration that a command line makes, read as the shell and the program read it."""
    program, *words = shlex.split(line)
    assert program == "erase"
    parser, _ = build_parser(HANDLERS)
    options = parser.parse_args(words)
    return load_config(options.config, overrides(options))


@pytest.mark.parametrize("form", FORMS)
def test_button_command_and_file_make_the_same_run(form: Form, roots: Roots, tmp_path: Path):
    config = to_config(form, roots)
    assert of_command(to_command(form, roots)) == config
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(form, roots), encoding="utf-8")
    assert load_config(file) == config


def test_what_is_filled_in_arrives():
    form = FORMS[1]
    config = to_config(form, Roots(Path("models"), Path("runs")))
    (concept,) = config.concepts
    assert (concept.name, concept.anchor, concept.keep, config.seed) == ("dog", "cat", ["fox", "rabbit"], 3)
    assert (config.turns.rounds, config.turns.forget.lr, config.turns.retain.lr) == (20, 1e-5, 2e-5)


def test_every_problem_is_told_at_once(roots: Roots):
    form = Form(model="../etc", concept="", method="esdd", rounds=0, parameters="(a+)+$", more="output=/tmp/x\nodd")
    with pytest.raises(InputError) as caught:
        to_config(form, roots)
    head, *lines = str(caught.value).split("\n  ")
    assert head == "7 problems" and len(lines) == 7
    for words in ("model '../etc'", "method.parameters", "output", "'odd'", "concept.name", "'esd'", "train.rounds"):
        assert any(words in line for line in lines), words


@pytest.mark.parametrize(
    "line",
    [
        "output=/tmp/x",
        "model=/etc",
        "device=cuda",
        "variant=fp16",
        "method.parameters=.*",
        "concept.name=x",
        "concept={name: x}",
        "method={name: esd, parameters: x}",
        "train={rounds: 3}",
        "evaluate={prompts: 3}",
    ],
)
def test_a_further_setting_cannot_be_a_text_or_a_section(line: str, roots: Roots):
    with pytest.raises(InputError, match="cannot be given here"):
        to_config(Form(more=line), roots)


def test_more_settings_than_are_taken_are_refused(roots: Roots):
    lines = [f"train.pool.forget={number}" for number in range(8, 58)]
    assert to_config(Form(more="\n\n".join(lines)), roots).train.pool.forget == 57  # type: ignore[union-attr]
    with pytest.raises(InputError, match="at most 50 further settings are taken, got 51"):
        to_config(Form(more="\n".join([*lines, "train.pool.forget=58"])), roots)


def test_every_text_in_the_configuration_is_out_of_reach():
    """A setting that is added later and takes a text, say a file's name, is refused without being named here."""
    from erase.ui.form import _annotation, _is_harmless, _sections

    def leaves(section: type, prefix: tuple[str, ...] = ()):
        for name, field in section.model_fields.items():
            inner = list(_sections(field.annotation))
            for one in inner:
                yield from leaves(one, (*prefix, name))
            if not inner:
                yield (*prefix, name)

    open_to_all = {path for path in leaves(Config) if _is_harmless(_annotation(Config, list(path)))}
    texts = {path for path in leaves(Config)} - open_to_all
    assert {("model",), ("output",), ("device",), ("method", "parameters"), ("concept", "name")} <= texts
    assert {("train", "rounds"), ("method", "name"), ("evaluate", "skip"), ("method", "mask_share")} <= open_to_all


def test_fields_of_another_type_are_refused():
    for given in ({"modle": "x"}, {"model": 3}, {"concept": "x" * 5000}, {"skip_judging": "yes"}, {"rounds": [1]}):
        with pytest.raises(InputError):
            read_form(given)
    assert read_form({"keep": ["fox", "dog"], "rounds": 3, "anchor": None}) == Form(keep="fox, dog", rounds=3)


def test_presets_and_choices_fit_the_program(roots: Roots):
    for fields in PRESETS.values():  # as the page fills them in, with what it suggests to keep
        form = read_form(fields)
        warnings(
            to_config(dataclasses.replace(form, keep=", ".join(suggest_keep("world", form.concept, roots))), roots)
        )
    assert set(PARAMETERS) >= set(FAMILIES["sd1"].presets)
    for kind in KINDS:
        to_config(Form(kind=kind), roots)


def test_neighbours_are_those_that_a_run_would_keep(roots: Roots):
    found = suggest_keep("world", "kitten", roots)
    assert found[:3] == ["fox", "frog", "pig"] and "cat" not in found
    assert suggest_keep("world", "cat; fox", roots) == []  # each has its own, which the run finds
    assert suggest_keep("world", "no such thing", roots) == [] == suggest_keep("../x", "cat", roots)

"""The README, the configurations, the make file and the packaging agree with the program."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from erase.arguments import build_parser
from erase.batch.matrix import read_matrix
from erase.cli import HANDLERS, overrides
from erase.config import BASELINES, METHOD_DEFAULTS, Config, load_config
from erase.methods import EDITORS, METHODS
from erase.resources import asset, bundled_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").rglob("*.md"))
MATRICES = [
    *(ROOT / "configs" / name for name in ("batch.yaml", "baselines.yaml")),
    *sorted((ROOT / "configs" / "study").glob("*.yaml")),
]
CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set(MATRICES))


def blocks(language: str) -> list[str]:
    """The contents of the README's fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Every command line of the README, and of the comments on top of the configurations."""
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    for path in CONFIGS + MATRICES:
        lines += re.findall(r"^#   (erase .*)$", path.read_text(), flags=re.MULTILINE)
    return lines


def test_the_readme_starts_with_the_two_commands():
    assert [line.split("#")[0].strip() for line in blocks("bash")[0].splitlines()] == ["make demo", "make test"]
    assert README.index("make demo") < 1000


@pytest.mark.parametrize("line", commands())
def test_every_command_shown_can_be_typed(line: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    program, *arguments = shlex.split(line, comments=True)
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif program == "pip":
        assert arguments == ["install", "."]
    else:
        assert program == "erase"
        options = build_parser(HANDLERS)[0].parse_args(arguments)
        if options.command in ("run", "check") and not getattr(options, "resume", None):
            load_config(options.config, overrides(options))
        if options.command == "batch":
            assert read_matrix(options.matrix).jobs


def test_every_command_is_in_the_readme():
    assert [name for name in HANDLERS if f"erase {name}" not in README] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_configuration_loads_and_names_its_own_command(path: Path):
    load_config(path)
    assert f"#   erase run configs/{path.relative_to(ROOT / 'configs')}\n" in path.read_text()


def test_there_is_a_configuration_for_every_method_and_a_style():
    found = [load_config(path) for path in CONFIGS]
    assert {c.method.name for c in found} == set(METHOD_DEFAULTS) - set(BASELINES)
    assert "style" in {c.concept.kind for c in found}


def test_the_yaml_of_the_readme_is_a_configuration(tmp_path: Path):
    for block in blocks("yaml"):
        (tmp_path / "x.yaml").write_text(block)
        assert isinstance(load_config(tmp_path / "x.yaml"), Config)


def test_the_files_the_readme_names_exist():
    section = README[README.index("## Files") : README.index("## Licence")]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name for cell in first for name in re.findall(r"`([^`]+)`", cell)]
    assert len(named) > 15
    assert [name for name in named if not any((base / name).exists() for base in (ROOT, ROOT / "erase"))] == []
    packages = {f"erase/{p.parent.name}/" for p in (ROOT / "erase").glob("*/__init__.py")}
    assert packages <= set(named)


@pytest.mark.parametrize("name", [*METHODS, *EDITORS])
def test_every_method_has_a_card_that_is_linked(name: str):
    card = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert f"](docs/methods/{name}.md)" in README
    assert f"](methods/{name}.md)" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert re.search(r"^    \S.* = ", card, flags=re.MULTILINE)  # an equation
    assert [part for part in ("What it changes", "Defaults", "When") if f"* **{part}.** " not in card] == []
    assert name in EDITORS or "`method.rank`" in card or "`rank`" in card


def test_the_table_of_methods_has_all_of_them_with_their_options():
    section = README[README.index("## Methods") : README.index("## The bundled world")]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    options = {row[1].strip(" `"): set(re.findall(r"`(\w+)`", row[-2])) for row in rows}
    assert options.keys() == {*METHODS, *EDITORS}
    for name, found in options.items():
        for other in found & options.keys():  # "those of `uce`"
            found = found - {other} | options[other]
        shared = {"parameters"} if name in EDITORS else {"parameters", "rank", "alpha", "retain_weight"}
        assert found | shared == METHOD_DEFAULTS[name]["method"].keys(), name


def headings(path: Path) -> set[str]:
    """The names by which links reach the headings of a page."""
    found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda p: p.name)
def test_links_to_docs_lead_to_a_page_and_its_heading(path: Path):
    links = re.findall(r"\]\(([^)#]*\.md)?(?:#([^)]*))?\)", path.read_text(encoding="utf-8"))
    pages = [(path.parent / name if name else path, heading) for name, heading in links]
    lost = [(page.name, heading) for page, heading in pages if not page.exists() or {heading} - {""} - headings(page)]
    assert lost == []


def test_links_to_files_that_ship_lead_somewhere():
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", README) if not t.startswith(("http", "docs/"))]
    assert targets and [t for t in targets if not (ROOT / t).exists()] == []


def test_every_package_is_in_the_wheel():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "erase").rglob("__init__.py")}
    assert listed == found | {"erase.assets", "erase.configs"}


def test_dependencies_have_lower_bounds_only():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything = project["dependencies"] + [d for extra in project["optional-dependencies"].values() for d in extra]
    assert [d for d in everything if not re.fullmatch(r"[A-Za-z0-9_-]+>=[0-9.]+", d)] == []


def test_what_ships_is_found_beside_the_package_and_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert asset("world/glyphs/ATTRIBUTION.md").is_file()
    assert bundled_config("demo.yaml").is_file()
    (tmp_path / "erase" / "configs").mkdir(parents=True)
    monkeypatch.setattr("erase.resources.files", lambda package: tmp_path / package)
    assert bundled_config("demo.yaml") == tmp_path / "erase" / "configs" / "demo.yaml"
    assert asset("world") == tmp_path / "assets" / "world"


def test_the_change_log_names_what_comes():
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()

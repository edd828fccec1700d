"""Imports go one way: down this list. Modules of one row do not import each other; inside a package they may."""

from __future__ import annotations

import ast
from pathlib import Path

import erase

ROWS = (
    ("__main__",),
    ("cli",),
    ("ui", "eval_command"),
    ("arguments", "terminal"),
    ("batch", "golds"),
    ("workflow", "catalogue"),
    ("judged",),
    ("prepare",),
    ("judging", "plans"),
    ("check", "erasing", "reporting", "attacking"),
    ("scoring", "fresh"),
    ("report",),
    ("attacks",),
    ("training",),
    ("evaluation", "export"),
    ("methods",),
    ("sampling",),
    ("models",),
    ("optim", "world"),
    ("config", "distributed", "runs"),
    ("runtime", "concept", "estimate", "argument_types"),
    ("events", "resources"),
    ("errors", "interrupts"),
)
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
# A configuration object stops at the workflow and those that read it for that; UI and batch make them. Below: numbers.
MAY_SEE_CONFIG = {"cli", "ui", "batch", "golds", "workflow", "prepare", "plans", "judging", "judged", "check", "config"}
PACKAGE = Path(erase.__file__).parent


def unit_of(path: Path) -> str:
    """The row entry that a file belongs to: a module's own name, or its package below erase/."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_units(source: str, inside: str) -> set[str]:
    """Names below erase/ that the source imports, at any depth of nesting, without `inside` itself."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("erase.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            parts = (node.module or "").split(".")
            if parts == ["erase"]:
                found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
            elif parts[0] == "erase":
                found.add(parts[1])
    return found - {inside}


def faults(unit: str, imports: set[str]) -> list[str]:
    """What is wrong with a unit's imports, in words."""
    found = [f"{unit} imports {other}, which is not below it" for other in imports if RANK[other] <= RANK[unit]]
    if "config" in imports and unit not in MAY_SEE_CONFIG:
        found.append(f"{unit} imports config, which stops at prepare")
    return found


def test_every_module_has_its_row():
    units = {unit_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert units <= set(RANK), f"give these a row: {sorted(units - set(RANK))}"
    assert set(RANK) <= units, f"rows without a module: {sorted(set(RANK) - units)}"


def test_imports_go_down():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        unit = unit_of(path)
        if unit != "__init__":
            found += [f"{path.name}: {fault}" for fault in faults(unit, imported_units(path.read_text(), unit))]
    assert found == []


def test_the_package_itself_imports_nothing():
    assert not [n for n in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text())) if "Import" in type(n).__name__]


def test_the_walk_sees_upward_sideways_and_nested_imports():
    source = (
        "def f():\n    from erase.workflow import erase\nimport erase.world.vae\nfrom erase import runs\nimport os\n"
    )
    assert imported_units(source, "optim") == {"workflow", "world", "runs"}
    assert len(faults("optim", {"workflow", "world", "errors"})) == 2
    assert faults("training", {"config", "errors"}) == ["training imports config, which stops at prepare"]

"""The README's commands, typed for real where that is cheap; the others up to where they would compute.

Run: pytest tests/integration/test_readme.py
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from erase import cli
from tests.unit.test_docs import ROOT, commands

LINES = [line for line in commands() if line.startswith("erase ")]
READ_ONLY = ("list", "check")


def arguments(line: str) -> list[str]:
    return shlex.split(line, comments=True)[1:]


CHEAP = [line for line in LINES if arguments(line)[0] in READ_ONLY or "--status" in line]
RUNS = [line for line in LINES if arguments(line)[0] == "run" and "--resume" not in line]


def test_every_kind_of_command_is_among_those_shown() -> None:
    assert {arguments(line)[0] for line in CHEAP} == {"list", "check", "world"}
    assert len(CHEAP) >= 5
    assert len(RUNS) >= 10


@pytest.mark.parametrize("line", CHEAP)
def test_a_cheap_command_works_as_shown(line: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(arguments(line)) == 0
    out, err = capsys.readouterr()
    assert out.strip() and not err


@pytest.mark.parametrize("line", RUNS)
def test_the_settings_of_a_run_shown_pass_the_check(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["check", *arguments(line)[1:]]) == 0


def test_without_a_command_the_help_is_shown(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert [name for name in cli.HANDLERS if f"    {name} " not in shown] == []

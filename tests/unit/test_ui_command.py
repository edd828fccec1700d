"""`erase ui` hands its flags over, and refuses what cannot be. The server is a stand-in."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from erase.cli import main


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What `serve` is called with."""
    calls: list[dict] = []
    fake = types.SimpleNamespace(serve=lambda **given: calls.append(given))
    monkeypatch.setitem(sys.modules, "erase.ui.app", fake)  # type: ignore[arg-type]
    monkeypatch.delenv("ERASE_LOGIN", raising=False)
    return calls


def test_without_flags_it_is_open_on_the_usual_port_to_this_machine(served: list[dict]):
    assert main(["ui"]) == 0
    usual = {"models": Path("models"), "runs": Path("runs"), "port": 7860, "login": None, "hub": False}
    assert served == [{**usual, "browser": False}]


def test_its_flags_reach_the_server(served: list[dict], tmp_path: Path):
    (tmp_path / "login").write_text("ann:secret\n")
    words = ["--port", "8000", "--models", "a", "--runs", "b", "--login", str(tmp_path / "login"), "--hub", "--open"]
    assert main(["ui", *words]) == 0
    asked = {"models": Path("a"), "runs": Path("b"), "port": 8000, "login": {"ann": "secret"}, "hub": True}
    assert served == [{**asked, "browser": True}]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--port", "0"], "'0' is no port"),
        (["--port", "http"], "'http' is no port"),
        (["--port", "65536"], "'65536' is no port"),
        (["--login", "no-such-file"], "cannot read the login file no-such-file"),
    ],
)
def test_what_cannot_be_is_refused(
    served: list[dict], capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    assert main(["ui", *words]) == 2
    assert message in capsys.readouterr().err and served == []

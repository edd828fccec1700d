"""Runs that come and go through a URL: what is copied, in which order, and what goes wrong in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from erase.batch.store import Store
from erase.errors import InputError


def filled(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def texts(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_run_comes_back_as_it_went(tmp_path: Path) -> None:
    store, here = Store((tmp_path / "s").as_uri()), filled(tmp_path / "here", a_json="1", images__x_png="2", DONE="")
    (here / ".a.json.abcdefgh.json").write_text("half")
    store.put("run", here)
    store.fetch("run", tmp_path / "back")
    assert texts(tmp_path / "back") == {"a.json": "1", "images/x.png": "2", "DONE": ""}
    # A later state: a checkpoint replaces another, a small text of equal length is copied all the same.
    (here / "images/x.png").unlink()
    filled(here, a_json="3", checkpoint__state_pt="4")
    store.put("run", here)
    assert texts(tmp_path / "s" / "run") == {"a.json": "3", "checkpoint/state.pt": "4", "DONE": ""}
    store.fetch("nothing", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    store.put("nothing", tmp_path / "none")


def test_done_is_copied_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.local import LocalFileSystem

    order: list[str] = []
    real = LocalFileSystem.put_file
    noted = lambda self, here, *rest, **more: (order.append(Path(here).name), real(self, here, *rest, **more))  # noqa: E731
    monkeypatch.setattr(LocalFileSystem, "put_file", noted)
    store = Store((tmp_path / "s").as_uri())
    store.put("run", filled(tmp_path / "here", DONE="", a="1", z="2"))
    assert len(order) == 3 and order[-1] == "DONE"


def test_flags_texts_and_folders_put_aside(tmp_path: Path) -> None:
    store = Store((tmp_path / "s").as_uri())
    assert not store.has(".batch/stop") and store.read(".batch/x") == ""
    store.drop(".batch/stop")
    store.write(".batch/stop", "stop")
    assert store.has(".batch/stop") and store.read(".batch/stop") == "stop"
    store.drop(".batch/stop")
    assert not store.has(".batch/stop")
    for text in ("one", "two"):
        store.put("run", filled(tmp_path / text, a=text))
        store.put_aside("run")
    store.put_aside("run")
    assert [texts(tmp_path / "s" / f"run~{n}") for n in (1, 2)] == [{"a": "one"}, {"a": "two"}]


def test_what_is_no_store_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no URL; give one such as s3://bucket/batch"):
        Store("/mnt/x")
    (tmp_path / "file").touch()
    for store in (Store("nosuch://x/y"), Store((tmp_path / "file").as_uri())):
        with pytest.raises(InputError, match="cannot be used: "):
            store.write("a/b", "x")

"""What a task of the cluster does on its node, without a cluster: the checks before it, its store, a stop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from erase import __version__
from erase.batch.store import Store
from erase.batch.task import Task
from erase.batch.worker import Ended

pytest.importorskip("ray", reason="ray is not installed: pip install 'erase[ray]'")
from erase.batch import cluster  # noqa: E402


@pytest.fixture
def task(tmp_path: Path) -> Task:
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.yaml").touch()
    return Task("cat", out / "cat", out / "settings.yaml", out / "log", out / "cache")


def carried(monkeypatch: pytest.MonkeyPatch, code: int = 0) -> list[Task]:
    """Tasks that a stand-in carries out; it leaves a file more than it found."""
    found: list[Task] = []

    def carry_out(task: Task, environment: object, should_stop: object) -> Ended:
        found.append(task)
        task.folder.mkdir(exist_ok=True)
        (task.folder / f"round{len(list(task.folder.iterdir()))}").touch()
        (task.folder / "config.yaml").touch()
        return Ended(code)

    monkeypatch.setattr(cluster, "carry_out", carry_out)
    return found


def on(task: Task, store: Store | None, tmp_path: Path, settings: str = "# settings a\nx", version: str = __version__):
    return cluster.on_node(task, settings, {}, version, store, str(tmp_path / "stop"))


def test_a_task_is_checked_before_it_begins(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = carried(monkeypatch)
    assert "install one everywhere" in on(task, None, tmp_path, version="0").error
    assert "give --artefacts URL" in on(dataclasses.replace(task, settings=tmp_path / "no"), None, tmp_path).error
    (tmp_path / "stop").touch()
    assert on(task, None, tmp_path).code == 130
    assert found == []
    (tmp_path / "stop").unlink()
    assert on(task, None, tmp_path) == Ended(0) and found == [task]


def test_a_task_goes_on_with_what_the_store_has(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, store = carried(monkeypatch, 1), Store((tmp_path / "s").as_uri())
    assert on(task, store, tmp_path).code == 1
    assert (tmp_path / "s" / "cat" / "round0").exists()  # also what failed is kept
    on(task, store, tmp_path)
    assert (tmp_path / "s" / "cat" / "round2").exists()
    assert not [one for one in found if one.folder.exists()] and not task.folder.exists()
    other = on(task, store, tmp_path, settings="# settings b\nx")
    assert other.code == 2 and "was made with other settings" in other.error and len(found) == 2
    on(dataclasses.replace(task, aside=True), store, tmp_path, settings="# settings b\nx")
    assert (tmp_path / "s" / "cat~1" / "round2").exists() and not (tmp_path / "s" / "cat" / "round2").exists()
    store.write(cluster.FLAG, "stop")
    assert on(task, store, tmp_path, settings="# settings b\nx").code == 130
    assert len(found) == 3

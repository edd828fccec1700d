"""What a task of the cluster does on its node, without a cluster: the checks before it, its store, a stop."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from erase import __version__
from erase.batch.engines import Resources
from erase.batch.store import Store
from erase.batch.task import Task
from erase.batch.worker import Ended
from erase.errors import InputError

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
    ended = on(task, None, tmp_path)
    assert ended.code == 0 and ended.seconds is not None and found == [task]


def test_a_copy_that_was_cut_off_before_its_settings_is_begun_anew(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, store = carried(monkeypatch), Store((tmp_path / "s").as_uri())
    store.write("cat/events.jsonl", "{}")  # as a node leaves it that died while it copied
    assert on(task, store, tmp_path).code == 0 and len(found) == 1
    assert sorted(path.name for path in (tmp_path / "s" / "cat").iterdir()) == ["config.yaml", "round0"]


def test_a_task_goes_on_with_what_the_store_has(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, store = carried(monkeypatch, 1), Store((tmp_path / "s").as_uri())
    assert on(task, store, tmp_path).code == 1
    assert (tmp_path / "s" / "cat" / "round0").exists()  # also what failed is kept
    on(task, store, tmp_path)
    assert (tmp_path / "s" / "cat" / "round2").exists()
    assert not [one for one in found if one.folder.exists()] and not task.folder.exists()
    other = on(task, store, tmp_path, settings="# settings b\nx")
    assert other.code == 2 and "was made with other settings" in other.error and len(found) == 2
    store.put_aside(task.name)  # as the driver does for what is to begin anew
    on(task, store, tmp_path, settings="# settings b\nx")
    assert (tmp_path / "s" / "cat~1" / "round2").exists() and not (tmp_path / "s" / "cat" / "round2").exists()
    store.write(cluster.FLAG, "stop")
    assert on(task, store, tmp_path, settings="# settings b\nx").code == 130
    assert len(found) == 3 and {one.cache.name for one in found} == {f"erase-cache-{os.getuid()}"}


class Nodes:
    """Stands for Ray: nodes with resources, and the tasks that they were sent; nothing is carried out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
        self.sent, self.down, self.answer = list[Task](), False, None
        listed = [{"Alive": True, "Resources": node} for node in nodes]
        listed.append({"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}})
        ways = {"init": lambda **_: None, "nodes": lambda: listed, "shutdown": self.shutdown}
        ways |= {"remote": lambda do: self, "wait": lambda all, **_: (all, []), "get": self.get}
        for name, way in ways.items():
            monkeypatch.setattr(cluster.ray, name, way)

    def options(self, **_: object) -> Nodes:
        return self

    def remote(self, task: Task, *_: object) -> int:
        self.sent.append(task)
        return len(self.sent)

    def get(self, reference: int) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def shutdown(self) -> None:
        self.down = True


@pytest.mark.parametrize(
    ("asked", "free"),
    [
        (Resources(), 2 * 16),
        (Resources(cpus=5), 2 * 2),  # one on each node of 8 cores, not three on 16
        (Resources(workers=3, cpus=8), 3),
        (Resources(cpus=2, gpus_per_job=1), 2 * 2),
        (Resources(gpus_per_job=0.4), 2 * 4),  # two on a GPU; a job has no parts of two
        (Resources(cpus=16), None),
        (Resources(workers=3, cpus=16), None),
        (Resources(gpus_per_job=4), None),
    ],
)
def test_a_job_must_fit_on_one_node(
    asked: Resources, free: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes(monkeypatch, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0})
    if free is not None:
        assert cluster.Cluster(tmp_path, asked).free == free
    else:
        with pytest.raises(
            InputError, match="no node of the cluster has room .* a node has 8 cores and 2 GPUs at most"
        ):
            cluster.Cluster(tmp_path, asked)
        assert nodes.down


def test_a_new_batch_begins_whatever_an_older_one_left(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, url = Nodes(monkeypatch, {"CPU": 8.0}), (tmp_path / "s").as_uri()
    Store(url).write(cluster.FLAG, "stop")
    Store(url).write("cat/config.yaml", "old")
    engine = cluster.Cluster(tmp_path, Resources(artefacts=url))
    assert not Store(url).has(cluster.FLAG)
    engine.start(dataclasses.replace(task, aside=True))
    # Ray may begin what it was sent several times, so it is put aside before, once.
    assert nodes.sent == [task] and Store(url).read("cat~1/config.yaml") == "old"


def test_an_error_of_a_task_is_told_by_its_cause(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, {"CPU": 8.0})
    engine = cluster.Cluster(tmp_path, Resources())
    engine.start(task)
    nodes.answer = cluster.RayTaskError("on_node", "ray::on_node()\nTraceback", ModuleNotFoundError("No module 'x'"))
    assert engine.poll() == [("cat", Ended(1, "lost by Ray: No module 'x'"))]

"""The Ray engine on a real cluster of several nodes, one of which dies while it works.

Run: pytest tests/integration/test_ray.py
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from erase import runs
from erase.batch.engines import Resources
from erase.batch.place import Place, history
from erase.batch.scheduler import Status, Watcher, carry_out_all
from erase.batch.task import Task
from erase.batch.worker import Ended
from erase.cli import main
from erase.events import never
from erase.runtime import file_hash
from tests.integration.conftest import until
from tests.integration.test_batch import JOBS, Stopped

# Ray on this machine's own address alone: without this it takes that of its network. Read when ray is imported.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'erase[ray]'")

STORE = 80 * 2**20  # bytes of a node's object store; the least that Ray takes, and nothing goes through it


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[Any], Any]]:
    """A head without cores and two nodes with one each: its address, the nodes, and what takes one away."""
    from ray.cluster_utils import Cluster

    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))
    head = {"num_cpus": 0, "node_ip_address": "127.0.0.1", "object_store_memory": STORE, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [
            made.add_node(num_cpus=1, node_ip_address="127.0.0.1", object_store_memory=STORE, wait=False)
            for _ in range(2)
        ]
        made.wait_for_nodes()
        yield made.address, nodes, made.remove_node
    finally:
        if ray.is_initialized():
            ray.shutdown()
        made.shutdown()


def test_no_task_is_lost_or_ends_twice_when_a_node_dies(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many tasks that only sleep and say so."""
    from erase.batch import cluster as module

    (address, nodes, remove), begun = cluster, tmp_path / "begun"
    doomed = nodes[0].node_id

    def sleeper(task: Task, *_: object) -> Ended:
        here = ray.get_runtime_context().get_node_id()
        with open(begun, "a") as file:
            file.write(f"{task.name} {here}\n")
        time.sleep(
            8 if here == doomed else 0.2
        )  # a task that ends before its node is missed has no need of another try
        return Ended(0 if task.name != "t3" else 7, "" if task.name != "t3" else "broken")

    monkeypatch.setattr(module, "on_node", sleeper)
    (tmp_path / "settings").touch()
    tasks = [Task(f"t{n}", *(tmp_path / part for part in ("run", "settings", "log", "cache"))) for n in range(8)]
    engine = module.Cluster(tmp_path, Resources(address=address))
    assert engine.free == 4  # twice what the nodes have room for
    ends: list[str] = []

    class Killer(Watcher):
        def ended(self, task: Task, ended: Ended, status: Status) -> None:
            ends.append(task.name)
            if len(ends) == 2:
                remove(nodes[0], allow_graceful=False)

    found = carry_out_all(tasks, engine, 0, never, Killer())
    assert {name: status.state for name, status in found.items() if status.state != "done"} == {"t3": "failed"}
    assert sorted(ends) == sorted(task.name for task in tasks)  # each once: Ray's own new attempt is none of ours
    lines = begun.read_text().split()
    assert len(set(lines[1::2])) == 2 and len(lines) // 2 > len(tasks)  # both worked, and one was interrupted


def test_a_node_dies_and_every_job_ends_once_with_the_local_engines_bits(
    matrix: Path, stopped_batch: Stopped, cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (address, nodes, remove), output = cluster, tmp_path / "out"

    def starts() -> int:
        return sum(path.read_text().count('"event": "started"') for path in output.glob("*/events.jsonl"))

    def kill() -> None:
        until(lambda: starts() >= 2)  # both nodes are at work
        remove(nodes[0], allow_graceful=False)

    thread = threading.Thread(target=kill)
    thread.start()
    flags = ["--output", str(output), "--engine", "ray", "--address", address]
    code = main(["batch", str(matrix), *flags])
    thread.join(10)
    said = capsys.readouterr().err
    assert code == 0, said
    done = [attempt.job for attempt in history(Place(output)) if attempt.code == 0]
    assert sorted(done) == JOBS and "3 runs: 3 done." in (output / "report.html").read_text()
    assert starts() >= 4  # three, and that of the node that died once more
    # The local engine's were stopped and resumed besides: neither leaves a trace in the weights or the pictures.
    local = Path(shutil.copytree(stopped_batch[0], tmp_path / "local"))
    if not (local / JOBS[2] / "DONE").exists():
        assert main(["batch", str(matrix), "--output", str(local), "--cpus-per-job", "1", "--workers", "2"]) == 0
    for job in JOBS:
        assert file_hash(output / job / runs.MODEL) == file_hash(local / job / runs.MODEL), job
        pictures = sorted(path.relative_to(local / job) for path in (local / job / "images").rglob("*.png"))
        assert pictures and all(file_hash(output / job / p) == file_hash(local / job / p) for p in pictures)


def test_runs_come_back_through_a_url(matrix: Path, cluster: Any, tmp_path: Path) -> None:
    address, _, _ = cluster
    one = tmp_path / "one.yaml"
    one.write_text(matrix.read_text().replace(", {name: dog, keep: [owl]}, {name: fox, keep: [owl]}", ""))
    output, store = tmp_path / "out", tmp_path / "store"
    flags = ["--output", str(output), "--engine", "ray", "--address", address, "--artefacts", store.as_uri()]
    assert main(["batch", str(one), *flags]) == 0
    assert (output / JOBS[0] / "DONE").is_file() and not (output / JOBS[1]).exists()
    files = [path.relative_to(output / JOBS[0]) for path in (output / JOBS[0]).rglob("*") if path.is_file()]
    assert len(files) > 10
    assert all(file_hash(store / JOBS[0] / path) == file_hash(output / JOBS[0] / path) for path in files)

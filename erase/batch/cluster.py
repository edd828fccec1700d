"""The jobs of a batch as tasks of a Ray cluster (extra `ray`)."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone; read when ray is imported

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from erase import __version__
from erase.batch.engines import Resources, threads_of
from erase.batch.store import Store
from erase.batch.task import Task, carry_out
from erase.batch.worker import Ended
from erase.errors import EraseError, InputError, Interrupted, first_line
from erase.runtime import CONFIG

LOST = 3  # how often Ray itself begins a task again whose worker or node died
FLAG = ".batch/stop"  # the file by which tasks learn that the batch is to stop
PASSED = ("HF_HUB_OFFLINE",)  # of our environment, for the workers of all nodes
LOOK = 2.0  # seconds between two looks at it
KEEP = 60.0  # seconds between two copies of a run under way to the store


class Cluster:
    """Tasks of Ray. Without an address a cluster of this machine alone is started, and ended again.

    Raises `InputError` where no cluster answers. A task whose node or worker dies is begun again by Ray, and goes on
    with the run's last checkpoint.
    """

    def __init__(self, output: Path, resources: Resources) -> None:
        self._output = output.resolve()
        self._store = Store(resources.artefacts) if resources.artefacts else None
        if self._store:
            self._store.drop(FLAG)  # of a batch that was killed while it stopped
        self._cpus = resources.cpus or 1
        options: dict[str, Any] = {"num_cpus": self._cpus, "max_retries": LOST, "retry_exceptions": False}
        if resources.gpus_per_job:
            options["num_gpus"] = resources.gpus_per_job
        try:
            if resources.address is None:
                ray.init(include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
            else:
                ray.init(address=resources.address, log_to_driver=False)
        except (RayError, ConnectionError, OSError, RuntimeError, ValueError) as error:
            at = f"at {resources.address!r}" if resources.address else "on this machine"
            raise InputError(f"no Ray cluster answers {at}: {first_line(error)}") from None
        places = self._places(resources)
        self._limit = resources.workers or 2 * places  # as many again, so that none of it waits for us
        # Sent by its name: every node has the package, of the same version, which the task checks.
        self._remote = ray.remote(on_node).options(**options)
        self._running: dict[Any, Task] = {}
        self._stopping = False

    def _places(self, resources: Resources) -> int:
        """As many jobs as the cluster can have at once, each on one node. Raises `InputError` where none has room."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count = sum(_room(node, self._cpus, resources.gpus_per_job) for node in nodes)
        if not count:
            ray.shutdown()
            most = " and ".join(
                f"{max((node.get(kind, 0.0) for node in nodes), default=0):g} {word}"
                for kind, word in (("CPU", "cores"), ("GPU", "GPUs"))
            )
            raise InputError(
                f"no node of the cluster has room for a job with {self._cpus} cores and {resources.gpus_per_job:g} "
                f"GPUs; a node has {most} at most: lower --cpus-per-job or --gpus-per-job"
            )
        return count

    @property
    def free(self) -> int:
        """How many more tasks it takes now."""
        return self._limit - len(self._running)

    def start(self, task: Task) -> None:
        """Send a task. What is to be put aside in the store is put aside here, once, also if Ray begins it again."""
        if self._store and task.aside:
            self._store.put_aside(task.name)
            task = replace(task, aside=False)
        settings = task.settings.read_text(encoding="utf-8")
        place = task if self._store else _absolute(task)
        environment = threads_of(self._cpus) | {key: os.environ[key] for key in PASSED if key in os.environ}
        reference = self._remote.remote(place, settings, environment, __version__, self._store, str(self._stop_file))
        self._running[reference] = task

    @property
    def _stop_file(self) -> Path:
        return self._output / FLAG

    def poll(self) -> list[tuple[str, Ended]]:
        """The tasks that ended."""
        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [(task.name, self._end(task, one)) for one in ready if (task := self._running.pop(one))]

    def _end(self, task: Task, reference: Any) -> Ended:
        """How a task ended; from a store, its run comes back here first."""
        try:
            ended: Any = ray.get(reference)
        except TaskCancelledError:
            return Ended(Interrupted.exit_code, "stopped before it began")
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error  # whose own text is a traceback
            return Ended(1, f"lost by Ray: {first_line(cause)}")
        if ended.stopped and not self._stopping:  # by whoever ended its node: a queue that needs it, a drain
            return replace(ended, code=1, error=ended.error or "stopped on its node")
        if self._store and ended.code == 0:
            try:
                self._store.fetch(task.name, task.folder)
            except EraseError as error:
                return Ended(1, str(error))
        return ended

    def stop(self) -> None:
        """Tell the tasks, by a file that all of them look for; those that wait for a place see it when they begin."""
        self._stopping = True
        if self._store:
            self._store.write(FLAG, "stop")
        else:
            self._stop_file.parent.mkdir(parents=True, exist_ok=True)
            self._stop_file.touch()
        # Ray does not tell which tasks have begun, so none is cancelled: one that begins now sees the file and ends.

    def close(self) -> None:
        """Cancel what still runs, and leave the cluster."""
        if not ray.is_initialized():
            return
        for reference in self._running:
            ray.cancel(reference, force=True)
        self._running.clear()
        if self._stopping and self._store:
            self._store.drop(FLAG)
        ray.shutdown()


def _room(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """How many jobs with so many cores and GPUs a node has room for; less than a whole GPU is a part of one."""
    counts = [int(node.get("CPU", 0.0) / cpus)]
    if gpus:
        there = node.get("GPU", 0.0)
        counts.append(int(there) * int(1 / gpus) if gpus < 1 else int(there / gpus))
    return min(counts)


def _absolute(task: Task) -> Task:
    """The task with whole paths, which the nodes share."""
    return replace(
        task,
        folder=task.folder.resolve(),
        settings=task.settings.resolve(),
        log=task.log.resolve(),
        cache=task.cache.resolve(),
    )


def on_node(
    task: Task, settings: str, environment: dict[str, str], version: str, store: Store | None, stop_file: str
) -> Ended:
    """Carry out a task on the node that Ray chose; how it ended, with the seconds since it began there."""
    began = time.monotonic()
    ended = _on_node(task, settings, environment, version, store, stop_file)
    return replace(ended, seconds=time.monotonic() - began)


def _on_node(
    task: Task, settings: str, environment: dict[str, str], version: str, store: Store | None, stop_file: str
) -> Ended:
    """What it writes lies in the shared folder, or goes to the store."""
    if version != __version__:
        return Ended(1, f"a node has erase {__version__}, the batch was begun by {version}; install one everywhere")
    if os.path.exists(stop_file) if store is None else store.has(FLAG):
        return Ended(Interrupted.exit_code, "stopped before it began")
    if store is None:
        if not task.settings.is_file():
            return Ended(1, f"{task.settings} is not on a node: nodes share no folder; give --artefacts URL")
        return carry_out(task, environment, _looking(lambda: os.path.exists(stop_file)))
    scratch = Path(tempfile.mkdtemp(prefix="erase-"))
    try:
        return _with_store(task, settings, environment, store, scratch)
    except EraseError as error:
        return Ended(1, str(error))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _with_store(task: Task, settings: str, environment: dict[str, str], store: Store, scratch: Path) -> Ended:
    """Carry out a task in a folder of the node, with what the store has of its run, and leave there what it becomes."""
    here = replace(
        task,
        folder=scratch / task.name,
        settings=scratch / "settings.yaml",
        log=scratch / "log",
        cache=Path(tempfile.gettempdir()) / f"erase-cache-{os.getuid()}",  # users have one each
    )
    here.settings.write_text(settings, encoding="utf-8")
    mark, record = settings.split("\n", 1)[0], f".batch/jobs/{task.name}.yaml"
    found = store.read(record)
    if found and found.split("\n", 1)[0] != mark and store.has(f"{task.name}/{CONFIG}"):
        return Ended(2, f"{store.url}/{task.name} was made with other settings; name another URL, or take it away")
    store.write(record, settings)
    store.fetch(task.name, here.folder)
    if not (here.folder / CONFIG).is_file():  # of a node that died while it copied; nobody could go on with it
        shutil.rmtree(here.folder, ignore_errors=True)
    kept = time.monotonic()

    def look() -> bool:
        nonlocal kept
        with suppress(InputError):  # the next look will do
            if time.monotonic() - kept > KEEP:
                kept = time.monotonic()
                store.put(task.name, here.folder)
            return store.has(FLAG)
        return False

    ended = carry_out(here, environment, _looking(look))
    store.put(task.name, here.folder)
    return ended


def _looking(ask: Callable[[], bool]) -> Callable[[], bool]:
    """Ask now, and then once in a while."""
    last, answer = 0.0, False

    def look() -> bool:
        nonlocal last, answer
        if time.monotonic() - last > LOOK:
            last, answer = time.monotonic(), ask()
        return answer

    return look

"""What carries out the jobs of a batch: processes on this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from erase.batch.task import Running, Task, begin
from erase.batch.worker import Ended
from erase.errors import InputError

Begin = Callable[[Task, Mapping[str, str]], Running]


class Engine(Protocol):
    """Carries out tasks. No method waits for a job."""

    @property
    def free(self) -> int:
        """How many more tasks it takes now."""
        ...

    def start(self, task: Task) -> None:
        """Take a task. Raises `InputError` where it cannot be begun."""
        ...

    def poll(self) -> list[tuple[str, Ended]]:
        """Name and end of each task that ended since the last call; each task once."""
        ...

    def stop(self) -> None:
        """Ask all tasks to end where they can be resumed; those not begun end at once."""
        ...

    def close(self) -> None:
        """End what still runs, at once, and give everything back."""
        ...


@dataclass(frozen=True, slots=True)
class Resources:
    """What jobs may use. `workers` run at once (None: as suits the engine), each with `cpus` cores.

    `gpus` are those of this machine, for the local engine, `gpus_per_job` how many a job takes on a cluster.
    `address` is that of the cluster, `artefacts` a URL through which files come and go where nodes share no folder.
    """

    workers: int | None = None
    cpus: int | None = None
    gpus: tuple[str, ...] = ()
    gpus_per_job: float = 0.0
    address: str | None = None
    artefacts: str | None = None


class Local:
    """Processes on this machine, as many at once as there are environments, of which each has one at a time."""

    def __init__(self, environments: Sequence[Mapping[str, str]], begin: Begin = begin) -> None:
        self._waiting, self._begin = list(environments), begin
        self._running: dict[str, tuple[Running, Mapping[str, str]]] = {}

    @property
    def free(self) -> int:
        """How many more tasks it takes now."""
        return len(self._waiting)

    def start(self, task: Task) -> None:
        """Begin a task in a process."""
        running = self._begin(task, self._waiting[0])
        self._running[task.name] = running, self._waiting.pop(0)

    def poll(self) -> list[tuple[str, Ended]]:
        """The tasks that ended."""
        found = [(name, ended) for name, (running, _) in self._running.items() if (ended := running.poll())]
        for name, _ in found:
            self._waiting.append(self._running.pop(name)[1])
        return found

    def stop(self) -> None:
        """Ask all of them to end after the round under way."""
        for running, _ in self._running.values():
            running.stop()

    def close(self) -> None:
        """Kill those that still run."""
        for running, _ in self._running.values():
            running.kill()
        self._running.clear()


def environments(resources: Resources, cores: int) -> list[dict[str, str]]:
    """One environment for each worker of this machine: its GPU, and its share of the cores."""
    count = resources.workers or len(resources.gpus) or 1
    cpus = resources.cpus or (max(1, cores // count) if count > 1 else None)
    threads = {} if cpus is None else threads_of(cpus)
    gpus = resources.gpus
    return [{**threads, **({"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} if gpus else {})} for n in range(count)]


def threads_of(cpus: int) -> dict[str, str]:
    """What bounds the threads of a worker."""
    return {"OMP_NUM_THREADS": str(cpus), "MKL_NUM_THREADS": str(cpus)}


def open_local(output: Path, resources: Resources, lock: int, cores: int) -> Engine:
    """Workers on this machine, which hold the batch's lock with us."""
    if resources.address or resources.artefacts or resources.gpus_per_job:
        raise InputError("--address, --artefacts and --gpus-per-job are for --engine ray; the local engine has --gpus")
    return Local(environments(resources, cores), partial(begin, held=[lock]))


def open_ray(output: Path, resources: Resources, lock: int, cores: int) -> Engine:
    """Tasks of a Ray cluster."""
    if resources.gpus:
        raise InputError("--gpus is for --engine local; Ray knows the GPUs: take --gpus-per-job 1")
    if find_spec("ray") is None:
        raise InputError("engine ray needs Ray: pip install 'erase[ray]'")
    from erase.batch.cluster import Cluster

    return Cluster(output, resources)


ENGINES: dict[str, Callable[[Path, Resources, int, int], Engine]] = {"local": open_local, "ray": open_ray}

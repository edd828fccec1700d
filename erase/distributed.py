"""Several processes at one run: who is who, and the few things that they tell each other.

A launcher (torchrun, accelerate launch, mpirun) starts one command N times. Each process computes a share of every step
and of every set of pictures; the main one alone writes and speaks. What the settings say is of all processes together,
so that their number changes no result but by rounding (docs/distributed.md).

Every method of a `Group` that talks is to be called by all of its processes, in the same order.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from erase.errors import EraseError, InputError
from erase.events import OnEvent, Warned
from erase.runtime import pick_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

# Names of a process's number, of how many there are and of its number on its machine, by launcher: torch's, Open MPI's,
# those of MPICH and Intel MPI.
NUMBERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)
BUCKET = 1 << 24
"""Numbers averaged in one message: 64 MB in float32."""
# Judging by the main process may take hours, and one that ended is noticed at once by its closed connections.
PATIENCE = timedelta(hours=24)
MEETING = timedelta(minutes=10)
ALIKE = timedelta(seconds=3)


class PeerLost(EraseError):
    """Another process of the run ended; it says why."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run and this one's place among them; the default is one process by itself."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def patience(self) -> float:
        """Seconds in which a launcher's signals are taken for one; it kills what is left after 30."""
        return 0.0 if self.size == 1 else 25.0

    def device(self, wanted: str) -> torch.device:
        """What this process computes on: of several GPUs, the one of its number on its machine."""
        if self.size == 1:
            return pick_device(wanted)
        if wanted == "auto" and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true"):
            wanted = "cpu"
        device = pick_device(wanted)
        if device.type == "mps":  # one for all, and nothing speaks from it
            device = pick_device("cpu")
        if device.type != "cuda":
            return device
        import torch

        if device.index is not None:
            raise InputError(f"device {wanted} is one GPU, and each of {self.size} processes takes its own; use cuda")
        if self.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {self.local_rank + 1} of this machine has no GPU, there are {torch.cuda.device_count()}; "
                "start fewer processes, or use device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def any(self, flag: bool) -> bool:
        """Whether it is so in some process."""
        return flag if self.size == 1 else self.mean(float(flag)) > 0

    def mean(self, value: float) -> float:
        """The mean over the processes, the same number in each."""
        if self.size == 1:
            return value
        import torch

        held = torch.tensor(value, dtype=torch.float64)
        with _talking() as dist:
            dist.all_reduce(held)
        return float(held) / self.size

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over the processes into each tensor: the same bits in each process."""
        if self.size == 1:
            return
        import torch

        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().flatten() for tensor in bucket])
            with _talking() as dist:
                dist.all_reduce(flat)
            flat /= self.size
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.detach().copy_(part.view_as(tensor))

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Put the main process's values into every process's tensors."""
        if self.size == 1:
            return
        for tensor in tensors:
            whole = tensor.contiguous()  # itself, unless its numbers lie in another order
            with _talking() as dist:
                dist.broadcast(whole, 0)
            if whole is not tensor:
                tensor.copy_(whole)

    def same(self, tensors: Iterable[Tensor]) -> bool:
        """Whether float32 tensors have the same bits in every process, by the sum of these."""
        if self.size == 1:
            return True
        import torch

        sums = [int(t.detach().contiguous().view(torch.int32).sum(dtype=torch.int64)) for t in tensors]
        return all(other == sums for other in self.gather(sums))

    def gather(self, value: T) -> list[T]:
        """Every process's value, in order; whatever can be pickled, with its tensors on the CPU."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with _talking() as dist:
            dist.all_gather_object(found, value)
        return found

    def on_main(self, do: Callable[[], T]) -> T:
        """What `do` returns in the main process, the only one that calls it; the `EraseError` it raises, in each."""
        if self.size == 1:
            return do()
        answer: list[Any] = [None, None]
        if self.main:
            try:
                answer[0] = do()
            except EraseError as error:
                answer[1] = error
        with _talking() as dist:
            dist.broadcast_object_list(answer, 0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def wait(self) -> None:
        """Go on when all have come here."""
        self.any(False)


ALONE = Group()


def launched() -> Group:
    """Who the launcher says that this process is; `ALONE` without one."""
    for rank, size, local in NUMBERS:
        if os.environ.get(size, "1") != "1":
            try:
                here, many = (int(os.environ[name]) for name in (rank, size))
                found = Group(here, many, int(os.environ.get(local, here)))
            except (KeyError, ValueError):
                raise InputError(f"the launcher set {size} but no whole number in {rank}; start it again") from None
            if not 0 <= found.rank < found.size or found.local_rank < 0:
                raise InputError(f"the launcher numbered this process {found.rank} of {found.size}; start it again")
            return found
    return ALONE


def warn_of_launcher(on_event: OnEvent) -> None:
    """Say it where `accelerate launch --cpu` was to start several processes: without MPI it starts one."""
    here = os.environ
    if here.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true") and "MASTER_ADDR" in here and launched() == ALONE:
        text = (
            "accelerate started one process, as it does with --cpu unless MPI is there; for several: torchrun "
            "--nproc_per_node N, or accelerate launch --multi_gpu --num_processes N, with --device cpu"
        )
        on_event(Warned(text=text))


@contextmanager
def joined() -> Iterator[Group]:
    """Meet the other processes that the launcher started, for as long as the block lasts."""
    group = launched()
    if group == ALONE:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    _prepare_environment(group)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, _, _ = next(dist.rendezvous("env://", rank=group.rank, world_size=group.size, timeout=MEETING))
        _STORE.append(store)
        dist.init_process_group(
            backend, store=dist.PrefixStore("erase", store), rank=group.rank, world_size=group.size, timeout=PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise EraseError(f"the {group.size} processes did not meet: {str(error).splitlines()[0]}") from None
    yield group
    # Not after an error: others may wait in a call that this process will not make, and its exit tells them.
    dist.destroy_process_group()
    _STORE.clear()


_STORE: list[Any] = []  # where this process met the others, for their last words


def _prepare_environment(group: Group) -> None:
    """What torch and accelerate look up, by the names that torch's launcher gives it."""
    here = os.environ
    for name, value in (("RANK", group.rank), ("WORLD_SIZE", group.size), ("LOCAL_RANK", group.local_rank)):
        here.setdefault(name, str(value))
    here.setdefault("MASTER_ADDR", "127.0.0.1")
    here.setdefault("MASTER_PORT", "29500")
    if "OMP_NUM_THREADS" not in here:  # or accelerate would choose a number, and say so
        import torch

        here["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    if sys.platform == "linux" and here["MASTER_ADDR"] in ("127.0.0.1", "localhost"):
        here.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: nothing is to leave it, or to hang on its name


@contextmanager
def _talking() -> Iterator[Any]:
    """torch's way to talk; a broken connection as an error of ours."""
    import torch
    import torch.distributed as dist

    try:
        yield dist
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise PeerLost(f"another process of this run ended, see its message ({why[:200]})") from None


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (sum(t.numel() for t in bucket) + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def hushed() -> Iterator[None]:
    """Let the main process alone print."""
    if launched().main:
        yield
        return
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 -- loggers keep it to the end
    with redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def last_words(text: str, stopped: bool, lost: bool) -> str | None:
    """What a process that fails is to print, None where the main process says it: each message appears once.

    `stopped`: on request, as all are. `lost`: because another one failed.
    """
    try:
        group = launched()
    except InputError:  # which is what is being said
        return text
    if group.main:
        with suppress(Exception):  # nobody may be left to hear it
            _STORE[0].set("last words", text)
        return text
    if stopped or lost:
        return None
    if not _STORE:  # before they met all read the same files, on each machine its own
        return f"process {group.rank}: {text}" if group.local_rank == 0 else None
    with suppress(Exception):
        _STORE[0].wait(["last words"], ALIKE)
        if _STORE[0].get("last words").decode() == text:
            return None
    return f"process {group.rank}: {text}"

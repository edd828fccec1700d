"""What one process of several computes of a step."""

from __future__ import annotations

from dataclasses import dataclass

from erase.distributed import Group
from erase.errors import InputError


@dataclass(frozen=True, slots=True)
class Share:
    """Which micro-batches, and which rows of each; None is all of them."""

    micros: range
    rows: slice | None = None


def share(batch: int, accumulate: int, group: Group, *, in_order: bool = False) -> Share:
    """This process's part of a step of `accumulate` micro-batches of `batch` latents, equal to every other's.

    The step is the one that a single process would make: whole micro-batches are dealt out where their number divides,
    else the rows of each. `in_order`: each micro-batch begins where the one before ended (an adversary's prefix), so
    that only rows can be dealt. Raises `InputError` where neither divides.
    """
    if group.size == 1:
        return Share(range(accumulate))
    if accumulate % group.size == 0 and not in_order:
        return Share(range(group.rank, accumulate, group.size))
    if batch % group.size == 0:
        rows = batch // group.size
        return Share(range(accumulate), slice(group.rank * rows, (group.rank + 1) * rows))
    others = "" if in_order else f" and train.accumulate {accumulate}"
    nearest = -(-batch // group.size) * group.size
    raise InputError(
        f"train.batch {batch}{others} cannot be divided among {group.size} processes: it is the batch of all together; "
        f"use --set train.batch={nearest}, or another number of processes"
    )

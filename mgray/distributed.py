"""Rank helpers over torch.distributed. Without a process group there is one rank."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

Made = TypeVar("Made")
PATIENCE = timedelta(hours=2)  # of ranks that wait for rank 0's work; its death ends their wait at once


def rank_and_world() -> tuple[int, int]:
    """(rank of this process, number of ranks)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_ranks(values: Tensor) -> Tensor:
    """All-reduce (sum). Collective: call it on every rank. The result is on the device of `values`."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    total = values.to(_device(), copy=True)
    dist.all_reduce(total)
    return total.to(values.device)


def broadcast_array(values: npt.NDArray[Any], source: int) -> None:
    """Fill a contiguous array, in place, with that of rank `source`. Collective: call it on every rank."""
    if not (dist.is_available() and dist.is_initialized()) or not values.size:
        return
    whole = torch.from_numpy(values)
    sent = whole.to(_device())
    dist.broadcast(sent, source)
    whole.copy_(sent)


@contextmanager
def failing_together() -> Iterator[None]:
    """Work without collectives, which raises on every rank if it does on any. Collective: enter it on every rank."""
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    num_failed = int(sum_over_ranks(torch.tensor([0.0 if failure is None else 1.0])))
    if failure is not None:
        raise failure
    if num_failed:
        raise RuntimeError(f"failed on {num_failed} other ranks")


def on_rank_0(work: Callable[[], Made]) -> Made:
    """Result of work that rank 0 does while the others wait. Collective: call it on every rank.

    They wait in a group of their own, since it may take longer than a collective may wait, which
    `scale.collective_timeout_s` says. Where the work raises, every rank does. The result must be picklable.
    """
    rank, num_ranks = rank_and_world()
    if num_ranks == 1:
        return work()
    waiting = dist.new_group(backend="gloo", timeout=PATIENCE)
    made: list[Any] = [None, None]
    failure = None
    if rank == 0:
        try:
            made = [work(), None]
        except Exception as error:
            failure, made = error, [None, f"{type(error).__name__}: {error}"]
    dist.broadcast_object_list(made, group=waiting)
    dist.destroy_process_group(waiting)
    if failure is not None:
        raise failure
    if made[1] is not None:
        raise RuntimeError(f"rank 0 failed: {made[1]}")
    result: Made = made[0]
    return result


def _device() -> torch.device:
    """Where the process group's backend takes tensors from."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")

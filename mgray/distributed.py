"""Rank helpers over torch.distributed. Without a process group there is one rank."""

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """(rank of this process, number of ranks)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_ranks(values: Tensor) -> Tensor:
    """All-reduce (sum). Collective: call it on every rank. The result is on the device of `values`."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    total = values.to(device, copy=True)
    dist.all_reduce(total)
    return total.to(values.device)

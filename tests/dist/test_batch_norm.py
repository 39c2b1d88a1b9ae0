"""Batch normalization over two gloo ranks equals that of one process over all the rows, with uneven parts."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from mgray.model.mgdsc import MGDSC
from tests.perturbed import make_inputs, make_model
from tests.models import model_config

CONFIG = model_config(width=8, heads=2, granularities=(1, 4, "1d"), norm="batch", dropout=0.0)
Rows = tuple[tuple[int, int], tuple[int, int]]  # of each rank


def step(rows: tuple[int, int]) -> MGDSC:
    """The model after one backward pass over some of six histories."""
    model = make_model(CONFIG).train()
    parallel = DistributedDataParallel(model) if dist.is_initialized() else model
    inputs = make_inputs(9, rows=6).map(lambda column: column[slice(*rows)])
    world = dist.get_world_size() if dist.is_initialized() else 1
    (parallel(inputs) * torch.linspace(-1, 1, 8)).sum().mul(world).backward()
    return model


def worker(rank: int, out: str, rows: Rows) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=2)
    model = step(rows[rank])
    torch.save(({n: p.grad for n, p in model.named_parameters()}, dict(model.named_buffers())), f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("rows", [((0, 5), (5, 6)), ((0, 6), (6, 6))], ids=["uneven", "one without rows"])
def test_two_ranks_equal_one(tmp_path: Path, rows: Rows) -> None:
    single = step((0, 6))
    mp.spawn(worker, (str(tmp_path), rows), nprocs=2)
    for rank in range(2):
        gradients, buffers = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, buffer in single.named_buffers():
            torch.testing.assert_close(buffers[name], buffer, rtol=1e-5, atol=1e-6, msg=name)
        for name, parameter in single.named_parameters():
            assert parameter.grad is not None
            scale = float(parameter.grad.abs().max()) + 1
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5 * scale, msg=name)

"""A pair table is the same on one and on two gloo ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mgray.data.dataset import Dataset
from mgray.data.pair_table import Limits, PairTable, count_pairs
from mgray.testing.synthetic import make_log
from tests.datasets import write_dataset

LIMITS = [Limits(), Limits(in_memory=300), Limits(in_memory=300, pairs=500), Limits(counted=2000, in_memory=300)]


def count(folder: Path) -> list[PairTable]:
    return [count_pairs(Dataset(folder), limits=limits) for limits in LIMITS]


def worker(rank: int, world_size: int, port_file: str, folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=world_size)
    try:
        torch.save([table.arrays() for table in count(folder)], out / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_has_the_table_of_one_process(tmp_path: Path, world_size: int) -> None:
    dataset = write_dataset(tmp_path / "version", make_log(60, 50, seed=1), 3)
    mp.spawn(worker, args=(world_size, str(tmp_path / "meet"), dataset.folder, tmp_path), nprocs=world_size)
    whole = count(dataset.folder)
    assert len(whole[2].items) <= 500 < whole[0].num_found
    assert whole[3].share < 1
    for rank in range(world_size):
        for table, arrays in zip(whole, torch.load(tmp_path / f"{rank}.pt", weights_only=False), strict=True):
            for name, array in table.arrays().items():
                assert np.array_equal(array, arrays[name]), name

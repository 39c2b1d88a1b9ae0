"""Items start on rank 0 alone, and the other ranks wait for it longer than a collective would."""

import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from mgray.config import TrainConfig
from mgray.data.dataset import Dataset
from mgray.model.ensemble import make_model
from mgray.testing.synthetic import make_log
from mgray.train import item_init
from mgray.train.item_init import start_items_, start_items_on_rank_0_
from tests.datasets import write_dataset
from tests.models import model_config

MODEL, TRAIN = model_config(width=16, heads=2), TrainConfig(item_init="cooccurrence")
PATIENCE_S, WORK_S = 10, 14


def worker(rank: int, folder: str, out: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{out}/store", rank=rank, world_size=2, timeout=timedelta(seconds=PATIENCE_S)
    )
    dataset = Dataset(folder)
    torch.manual_seed(rank)
    model = make_model(MODEL, dataset.num_items)

    def start_late_(*given: object) -> None:
        time.sleep(WORK_S)
        start_items_(*given)

    item_init.start_items_ = start_late_
    start_items_on_rank_0_(model, dataset, TRAIN)
    DistributedDataParallel(model)
    torch.save(model.state_dict(), f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_the_other_ranks_wait_for_rank_0(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "v", make_log(40, 30))
    mp.spawn(worker, (str(dataset.folder), str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    alone = make_model(MODEL, dataset.num_items)
    start_items_on_rank_0_(alone, dataset, TRAIN)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(found[name], tensor) for name, tensor in alone.state_dict().items())

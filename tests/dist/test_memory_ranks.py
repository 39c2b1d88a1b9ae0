"""Memory that two ranks fit is that of one process, on both of them; what fails on rank 0 is told to all."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mgray.config import EvaluateConfig
from mgray.data.dataset import Dataset
from mgray.distributed import on_rank_0
from mgray.model.memory import Memory
from mgray.model.mgdsc import MGDSC
from mgray.serve.scorer import ModelScorer
from mgray.testing.synthetic import make_log
from mgray.train.memory_fit import fit_on_rank_0
from tests.datasets import write_dataset
from tests.models import model_config

MODEL = model_config(width=8, heads=2, granularities=(1,), memory=("pairs", "repeats"))
RANKING = EvaluateConfig(remove_seen=False)


def fit(dataset: Dataset) -> Memory:
    torch.manual_seed(0)
    scorer = ModelScorer(MGDSC(MODEL, dataset.num_items), dataset.item_counts, 50, torch.device("cpu"))
    memory = fit_on_rank_0(scorer, dataset, MODEL, RANKING)
    assert memory is not None, "an untrained model gains by it"
    return memory


def worker(rank: int, folder: str, out: str) -> None:
    store = f"file://{out}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    memory = fit(Dataset(folder))
    Path(out, f"{rank}.json").write_text(memory.numbers.model_dump_json())
    torch.save([torch.from_numpy(array) for array in memory.table[:3]], f"{out}/{rank}.pt")

    def fail() -> None:
        raise ValueError("of this rank")

    with pytest.raises(ValueError if rank == 0 else RuntimeError, match="of this rank"):
        on_rank_0(fail)
    dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_ranks_remember_as_one(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "v", make_log(400, 30))
    mp.spawn(worker, (str(dataset.folder), str(tmp_path)), nprocs=2)
    alone = fit(dataset)
    for rank in range(2):
        assert Path(tmp_path, f"{rank}.json").read_text() == alone.numbers.model_dump_json()
        found = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(one, torch.from_numpy(own)) for one, own in zip(found, alone.table[:3], strict=True))

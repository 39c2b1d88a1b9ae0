"""Baselines on two gloo ranks are those of one process; a failure on one rank costs the row on both."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mgray.config import EvaluateConfig
from mgray.data.dataset import Dataset
from mgray.eval import baselines
from mgray.eval.measured_baselines import MeasuredBaselines, evaluate_baselines
from mgray.testing.synthetic import make_log
from tests.datasets import write_dataset

CONFIG = EvaluateConfig(remove_seen=False, batch_events=300)


def measure(folder: Path) -> MeasuredBaselines:
    return evaluate_baselines(Dataset(folder), "test", CONFIG, "both")


def worker(rank: int, folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=2)
    try:
        whole = measure(folder)
        if rank:
            baselines.REPEAT_DECAYS = ("none",)  # type: ignore[assignment]  # what cannot be computed with, on this rank alone
        torch.save([whole, measure(folder)], out / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_ranks_measure_what_one_does(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "version", make_log(61, 40), 3)  # an odd number of users
    single = measure(dataset.folder)
    assert {"popularity", "cooccurrence", "repeats", "global_mean"} < set(single.metrics)
    mp.spawn(worker, (dataset.folder, tmp_path), nprocs=2)
    for rank in range(2):
        whole, cut = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert whole[2:] == single[2:]
        for name, figures in single.metrics.items():
            assert whole.metrics[name] == pytest.approx(figures), name
        assert set(cut.failures) == {"repeats"}
        assert cut.metrics == {name: row for name, row in whole.metrics.items() if name != "repeats"}

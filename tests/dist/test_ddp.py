"""Distributed equals single-process: two gloo ranks take the same steps as one, with uneven parts and idle ranks."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from mgray.config import EvaluateConfig, ResolvedTrainConfig
from mgray.data.dataset import Dataset
from mgray.train.trainer import Logged, Trainer, Validated
from mgray.serve.scorer import ModelScorer
from mgray.eval.ranking import evaluate, part_queries
from mgray.model.ensemble import make_model
from mgray.train.objective import Objective
from mgray.testing.synthetic import make_log
from tests.datasets import write_dataset
from tests.models import model_config

CPU = torch.device("cpu")
# Without dropout, whose masks differ by rank, every number must agree.
MODEL = model_config(width=16, granularities=(1, 4, "decay:1..50"), heads=2, dropout=0.0)


def train(dataset: Dataset, config: ResolvedTrainConfig, switch: dict[str, Any]) -> dict:
    torch.manual_seed(0)
    settings = MODEL.model_copy(update=switch)
    model = make_model(settings, dataset.num_items, dataset.input_spec(settings))
    objective: torch.nn.Module = Objective(model, config, CPU, exclude_seen=True)
    if dist.is_initialized():
        objective = DistributedDataParallel(objective)
    trainer = Trainer(objective, model, dataset, config, CPU)
    scorer = ModelScorer(model, dataset.item_counts, 100, CPU)
    valid, test = (part_queries(dataset, part, scorer.columns) for part in ("valid", "test"))
    losses, validated = [], []
    for event in trainer.run(
        lambda: evaluate(scorer, valid, dataset.item_counts, EvaluateConfig()).compute(), "ndcg@10", 3
    ):
        if isinstance(event, Logged):
            losses.append(event.loss)
        if isinstance(event, Validated):
            validated.append(event.metrics)
    # One batch for all: one rank scores it, and the other still joins every reduction.
    tested = evaluate(scorer, test, dataset.item_counts, EvaluateConfig(batch_events=2**20))
    return {
        "losses": losses,
        "valid": validated,
        "test": tested.compute() | {"removed": tested.num_removed},
        "slices": tested.slices(),
        "share": scorer.attention_share(),
        "weights": model.state_dict(),
        "events": trainer.progress.events,
    }


def worker(rank: int, world: int, folder: str, config: ResolvedTrainConfig, switch: dict[str, Any], out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=world)
    result = train(Dataset(folder), config, switch)
    torch.save(result, f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("loss", "switch"), [("sampled_softmax", {}), ("softmax", {"outputs": "both"}), ("softmax", {"members": 2})]
)
def test_two_ranks_equal_one(tmp_path: Path, loss: str, switch: dict[str, Any]) -> None:
    # 61 users, an odd number; one history longer than a whole batch, so that some steps leave a rank idle.
    long = make_log(1, 40, seed=9, mean_events=400).with_columns(pl.lit("whale").alias("user_id"))
    dataset = write_dataset(tmp_path / "data", pl.concat([make_log(60, 40), long]))
    config = ResolvedTrainConfig(
        epochs=3, global_batch_events=120, num_negatives=15, loss=loss, max_time_s=None, validate_every_epochs=1
    )
    torch.set_num_threads(1)
    single = train(dataset, config, switch)
    mp.spawn(worker, (2, str(tmp_path / "data"), config, switch, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]

    for name, tensor in ranks[0]["weights"].items():
        assert torch.equal(tensor, ranks[1]["weights"][name]), f"{name} differs between the ranks"
    for result in ranks:
        assert result["events"] == single["events"]
        # fp32 sums in another order: 1e-7 a step, which AdamW's division by small moments can blow up to 1e-3 where
        # a gradient is nearly zero; a wrong divisor of the loss would be off by tens of percent.
        assert result["losses"] == pytest.approx(single["losses"], rel=2e-3)
        # The first line's three steps have had no time to drift.
        assert result["losses"][0] == pytest.approx(single["losses"][0], rel=1e-5)
        assert result["test"] == ranks[0]["test"]
        assert result["slices"] == ranks[0]["slices"]
        # 61 test targets: a near-tie that falls the other way moves a figure by 1/61.
        for name, value in single["test"].items():
            assert result["test"][name] == pytest.approx(value, abs=3 / 61), name
        torch.testing.assert_close(torch.tensor(result["share"]), torch.tensor(single["share"]), rtol=0, atol=5e-3)

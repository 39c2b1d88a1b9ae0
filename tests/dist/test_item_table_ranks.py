"""An item table trained by rows is the same on one and on two gloo ranks, and goes on from a checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from mgray.config import ResolvedTrainConfig
from mgray.data.dataset import Dataset
from mgray.distributed import rank_and_world
from mgray.model.ensemble import make_model
from mgray.testing.synthetic import make_log
from mgray.train.checkpoint import restore_state, save_state
from mgray.train.item_table import item_weights
from mgray.train.objective import Objective
from mgray.train.trainer import Logged, Trainer, Validated
from tests.datasets import write_dataset
from tests.models import model_config

CPU = torch.device("cpu")
NUM_ITEMS = 400
# Without dropout, whose masks differ by rank, every number must agree.
MODEL = model_config(width=16, granularities=(1, 4), heads=2, dropout=0.0)
TRAIN = ResolvedTrainConfig(
    epochs=3, global_batch_events=120, num_negatives=15, max_time_s=None, validate_every_epochs=1
)
SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "both heads": ({}, {"outputs": "both", "inputs": ("rating",)}),
    "members": ({}, {"members": 2}),
    "own negatives": ({"in_batch_negatives": True}, {}),
}


def make_trainer(dataset: Dataset, switch: str, rows: bool) -> Trainer:
    train_switch, model_switch = SWITCHES[switch]
    config, settings = TRAIN.model_copy(update=train_switch), MODEL.model_copy(update=model_switch)
    torch.manual_seed(rank_and_world()[0])  # DDP gives the others rank 0's
    model = make_model(settings, dataset.num_items, dataset.input_spec(settings))
    for _, weight in item_weights(model):
        weight.requires_grad_(not rows)
    objective: torch.nn.Module = Objective(model, config, CPU, exclude_seen=True)
    if dist.is_initialized():
        objective = DistributedDataParallel(objective)
    return Trainer(objective, model, dataset, config, CPU)


def events(trainer: Trainer) -> Iterator[Logged | Validated]:
    return trainer.run(lambda: {"ndcg@10": 0.0}, "ndcg@10", 3)


def train(dataset: Dataset, switch: str, rows: bool, folder: Path) -> dict[str, Any]:
    """A training, and another that begins with a checkpoint of it, in `folder`."""
    whole = make_trainer(dataset, switch, rows)
    logged = []
    for event in events(whole):
        if isinstance(event, Logged):
            logged.append(event)
        elif event.epoch == 1 and whole.rank == 0:
            state = (whole.model, whole.optimizer, whole.progress, [], whole.average, whole.tables)
            save_state(folder, *state)
        if isinstance(event, Validated) and dist.is_initialized():
            dist.barrier()
    resumed = make_trainer(dataset, switch, rows)
    resumed.progress, _ = restore_state(folder, resumed.model, resumed.optimizer, resumed.average, resumed.tables)
    assert resumed.progress.epoch == 1
    list(events(resumed))
    return {
        "losses": [event.loss for event in logged],
        "bytes": [event.allreduce_bytes for event in logged],
        "others": 4 * sum(own.numel() for own in whole.model.parameters() if own.requires_grad),
        "weights": whole.weights(),
        "resumed": resumed.weights(),
    }


def worker(rank: int, folder: str, switch: str, rows: bool, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=2)
    torch.save(train(Dataset(folder), switch, rows, Path(out) / "state"), f"{out}/{rank}.pt")
    dist.destroy_process_group()


def on_two_ranks(folder: Path, switch: str, rows: bool, out: Path) -> list[dict[str, Any]]:
    out.mkdir()
    mp.spawn(worker, (str(folder), switch, rows, str(out)), nprocs=2)
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("switch", SWITCHES)
def test_two_ranks_equal_one(tmp_path: Path, switch: str) -> None:
    folder = tmp_path / "data"
    dataset = write_dataset(folder, make_log(61, NUM_ITEMS))  # an odd number of users
    torch.set_num_threads(1)
    single = train(dataset, switch, True, tmp_path / "state")
    ranks = on_two_ranks(folder, switch, True, tmp_path / "ranks")
    for name, tensor in ranks[0]["weights"].items():
        assert torch.equal(tensor, ranks[1]["weights"][name]), f"{name} differs between the ranks"
    for result in (single, *ranks):
        for name, tensor in result["weights"].items():
            assert torch.equal(tensor, result["resumed"][name]), f"{name} differs where training was gone on with"
    assert single["bytes"] == [0] * len(single["bytes"])
    tables = 4 * sum(weight.numel() for _, weight in item_weights(make_trainer(dataset, switch, True).model))
    for result in ranks:  # the rows that a step touches, not the table
        assert all(result["others"] < found < result["others"] + tables / 2 for found in result["bytes"])
    if SWITCHES[switch][0]:  # each rank has negatives of its own
        return
    for result in ranks:
        assert result["losses"] == pytest.approx(single["losses"], rel=2e-3)  # as in test_ddp.py
        assert result["losses"][0] == pytest.approx(single["losses"][0], rel=1e-5)
        for name, tensor in single["weights"].items():
            torch.testing.assert_close(result["weights"][name], tensor, rtol=0, atol=2e-2, msg=name)


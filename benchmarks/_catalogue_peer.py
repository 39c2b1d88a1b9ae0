"""The same training with three optimizers of the item table, for equal minutes of one process of one thread.

rows: mgray's item table by rows, which equals dense AdamW. dense: torch.optim.AdamW over the whole table of
nn.Embedding. sparse: torch.optim.SparseAdam over the table, whose moments and weights move where a step touches them,
and which has no weight decay; AdamW over all else. Model, feed, loss, negatives, clipping and schedule are the same.

What SparseAdam is given equals the gradient of nn.Embedding(sparse=True), with the sums over an item's events already
made: the loss runs on the rows of a step, as mgray's own does. That spares the peer a sort of its gradient.
"""

import math
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _datasets import ingest
from _ingest_runs import say
from _training import Run
from torch import Tensor, nn

from mgray.config import ResolvedTrainConfig, TrainConfig, TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.model.ensemble import Model
from mgray.train import item_table
from mgray.train.item_table import ItemTables, StepRows, item_weights
from mgray.train.optim import ADAM_EPS, BETAS

# Rows of the table for each row of a step, beyond which mgray's table is by rows: always, or never.
DENSE_ROWS = {"rows": 0.0, "dense": math.inf, "sparse": 0.0}
EPOCHS = 100_000  # never reached: time ends a training


class SparseAdamTables(ItemTables):
    """Item tables that torch.optim.SparseAdam updates: rows that a step does not touch miss nothing."""

    def __init__(self, objective: nn.Module, model: Model, config: ResolvedTrainConfig) -> None:
        super().__init__(objective, model, config)
        by_rows = [weight for _, weight in item_weights(model) if not weight.requires_grad]
        self.parameters = [nn.Parameter(weight.detach()) for weight in by_rows]  # of the same memory
        self.optimizer = torch.optim.SparseAdam(self.parameters, betas=BETAS, eps=ADAM_EPS)

    @torch.no_grad()
    def update(self, rows: StepRows, rate: float) -> None:
        for parameter, own in zip(self.parameters, rows.tables.values(), strict=True):
            parameter.grad = torch.sparse_coo_tensor(
                rows.index[None], own.gradient, parameter.shape, is_coalesced=True, check_invariants=False
            )
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        return {}  # no training goes on from here


class Side(Run):
    """A training of one side. The test part is not read."""

    def __init__(self, name: str, dataset: Dataset, config: TrainJobConfig, folder: Path) -> None:
        with patch.object(item_table, "DENSE_ROWS", DENSE_ROWS[name]):  # it is read where the model is made
            super().__init__(dataset, config, folder)
        if name == "sparse":
            trainer = self.trainer
            trainer.tables = SparseAdamTables(trainer.objective, self.model, trainer.config)

    def figures(self) -> dict[str, Any]:
        """Train to the end -> mean time a step (feed included, validations not), and quality on the validation part."""
        self._train()
        progress, metric = self.trainer.progress, self.valid.chief_metric
        return {
            "by_rows": bool(self.trainer.tables),
            "s_a_step": (progress.elapsed_s - self.valid_s) / progress.step,
            "steps": progress.step,
            "epochs": progress.horizon_epochs,
            "seconds": progress.elapsed_s,
            "valid_s": self.valid_s,
            "valid_users": self.valid_share.users,
            "best_valid": progress.best_valid,
            "best_epoch": progress.best_epoch,
            "curve": [{"epoch": at.epoch, "seconds": at.seconds, metric: at.valid[metric]} for at in self.curve],
        }


def measure(log: Path, minutes: float) -> dict[str, Any]:
    """Raw figures of each side. log: Parquet or CSV of columns that ingest knows by name."""
    torch.set_num_threads(1)
    config = TrainJobConfig(train=TrainConfig(max_time_s=60 * minutes, epochs=EPOCHS))
    sides: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mgray-peer-", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        dataset = Dataset(ingest(work / "home", "--data.source", str(log.absolute())))
        for name in DENSE_ROWS:
            say(f"{name}: training for {minutes:g} minutes")
            (work / name).mkdir()
            found = sides[name] = Side(name, dataset, config, work / name).figures()
            say(f"{name}: {1e3 * found['s_a_step']:.1f} ms a step, best of validation {found['best_valid']}")
    about = {"items": dataset.num_items, "train_events": dataset.manifest.train_events, "minutes": minutes}
    return about | {"threads": torch.get_num_threads(), "sides": sides}

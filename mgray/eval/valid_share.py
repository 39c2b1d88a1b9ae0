"""Share of the users that validation during training is by, so that it costs a tenth of the training at most.

Costs are counted, not measured, so the share is a function of dataset and settings: the same on every rank, after a
resume, and in every run. The unit is a multiply-add. A position that trains takes each weight of the body forward and
twice backward, and so each negative's vector; a query reads its history forward, then is one product with the table of
items. One thread does 25 billion of them a second in training and in the product alone; reading histories forward and
ranking what comes of it take longer by the factors below (measured on a log of 55,000 items, 2026-12). The ratio holds
for any number of workers; on a GPU training is the slower of the two, and validation costs less than is said here.

Legend: `V` items, `D` width, `M` members.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mgray.config import EvaluateConfig, TrainConfig
from mgray.data.dataset import Dataset
from mgray.model.ensemble import Model

MAX_COST = 0.1  # of the training between two validations
MIN_QUERIES = 1000  # that are asked whatever they cost: the figure of fewer is mostly chance
FORWARD = 2.0  # time to read a history, over that of as many multiply-adds in training
RANKING = 1.2  # time to rank the items, over that of the product alone
MULTIPLY_ADDS_S = 25e9  # of one thread, where train.max_time_s says how long training is


class ValidShare(NamedTuple):
    """Share of the users that validation is by, and its reason."""

    users: float  # 0 to 1
    allowed: float  # by evaluate.max_valid_users alone
    cost: float  # of a validation by as many as that allows, over the training before it

    @property
    def is_cut(self) -> bool:
        """Whether it is by fewer users than evaluate.max_valid_users allows, for the cost."""
        return self.users < self.allowed


def max_users_share(config: EvaluateConfig, num_users: int) -> float:
    """Share of the users that evaluate.max_valid_users allows, 0 to 1."""
    return min(1.0, (config.max_valid_users or num_users) / max(1, num_users))


def valid_share(config: EvaluateConfig, train: TrainConfig, model: Model, dataset: Dataset) -> ValidShare:
    """Share of the users to validate by: what evaluate.max_valid_users allows, halved until the cost is low enough.

    By halves, so that the models of a search, which cost about the same, are mostly compared on the same users. With
    evaluate.max_valid_users none it is all users, at any cost.
    """
    users = allowed = max_users_share(config, dataset.manifest.users)
    if train.include_valid:  # no validation: nothing to read the shards for
        return ValidShare(users, allowed, 0.0)
    whole = valid_cost(train, model, dataset) / training_cost(train, model, dataset)
    if config.max_valid_users is not None:
        while users * whole > MAX_COST and users / 2 * dataset.manifest.valid_events >= MIN_QUERIES:
            users /= 2
    return ValidShare(users, allowed, allowed * whole)


def body_weights(model: Model) -> int:
    """Weights that each position goes through: all but those that are an item's own."""
    rows = model.num_items + 1
    return sum(parameter.numel() for parameter in model.parameters() if parameter.shape[:1] != (rows,))


def training_cost(train: TrainConfig, model: Model, dataset: Dataset) -> float:
    """Multiply-adds of the training from one validation to the next, as far as train.max_time_s lets it come."""
    negatives = model.num_items if train.loss == "softmax" else min(train.num_negatives, model.num_items)
    a_position = 3 * (body_weights(model) + negatives * model.config.width * model.config.members)
    epochs = min(train.epochs, train.validate_every_epochs)
    whole = float(max(1, dataset.manifest.train_events)) * epochs * a_position
    return whole if train.max_time_s is None else min(whole, train.max_time_s * MULTIPLY_ADDS_S)


def valid_cost(train: TrainConfig, model: Model, dataset: Dataset) -> float:
    """Multiply-adds of training that take as long as a validation by all users."""
    ranks = model.config.outputs != "rating"
    products = (model.num_items + 1) * model.config.width * model.config.members if ranks else 0
    reading = history_events(dataset, train.max_length) * body_weights(model)
    return FORWARD * reading + RANKING * dataset.manifest.valid_events * products


def history_events(dataset: Dataset, max_length: int) -> int:
    """Events that the queries of the validation part read, each its own history."""
    manifest = dataset.manifest
    if manifest.split.kind == "random":
        return manifest.valid_events * min(max_length, manifest.train_events // max(1, manifest.users))
    total = 0
    for shard in manifest.shards:
        ends = pq.read_table(dataset.folder / shard.file, columns=["train_end", "valid_end"], partitioning=None)
        first, last = (ends[name].to_numpy().astype(np.int64) for name in ("train_end", "valid_end"))
        total += int((_events_before(last, max_length) - _events_before(first, max_length)).sum())
    return total


def _events_before(ends: npt.NDArray[np.int64], max_length: int) -> npt.NDArray[np.int64]:
    """Sum over the events 0..end - 1 of a history of how many are before each, at most max_length."""
    short = np.minimum(ends, max_length)
    found: npt.NDArray[np.int64] = short * (short - 1) // 2 + (ends - short) * max_length
    return found

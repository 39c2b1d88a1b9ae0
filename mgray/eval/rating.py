"""Prediction of ratings: the questions that a dataset asks, a model's answers, and their measure.

Legend: `Q` queries, `T` targets, `V` items (1..V; 0 is padding).
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from mgray.config import EvaluateConfig
from mgray.data.dataset import ALL_USERS, PART_NUMBERS, Dataset, Histories, Part, Turn
from mgray.eval.metrics import RatingMetrics
from mgray.eval.ranking import own_batches
from mgray.schema import TRAIN, UNKNOWN, OptionalColumn
from mgray.serve.rater import Rater, RatingQuery


def rating_queries(
    dataset: Dataset,
    part: Part,
    columns: Collection[OptionalColumn] = (),
    shards: Iterable[int] | None = None,
    share: float = 1.0,
    turn: Turn = ALL_USERS,
    whole: bool = False,
) -> Iterator[RatingQuery]:
    """Every rated event of `part`, with what was known of its user.

    That is all that came before it; of a random split, whose order says nothing, the user's whole training part, as
    published figures have it. columns: those beside items and ratings that the model reads; share, turn: of the users,
    as Dataset.read_users has it; whole: as Dataset.queries has it.
    """
    wanted = {"ratings", *columns}
    if dataset.manifest.split.kind == "random":
        for shard in range(dataset.num_shards) if shards is None else shards:
            yield from _whole_users(dataset.read_users(shard, wanted, share, turn, whole), part)
        return
    for query in dataset.queries(part, wanted, shards, share, turn, whole):
        if not np.isnan(query.target_rating):
            rating = np.asarray([query.target_rating], np.float32)
            yield RatingQuery(query.history, np.asarray([query.target]), rating)


def _whole_users(histories: Histories, part: Part) -> Iterator[RatingQuery]:
    parts, read = histories.part_of, histories.columns
    assert read.ratings is not None, "ratings are among the columns"
    is_history = (parts == TRAIN) & (read.items != UNKNOWN)
    is_asked = (parts == PART_NUMBERS[part]) & ~np.isnan(read.ratings)
    for begin, end in pairwise(histories.offsets.tolist()):
        places = np.arange(begin, end)
        asked = places[is_asked[begin:end]]
        if len(asked):
            history = read.take(places[is_history[begin:end]])
            yield RatingQuery(history, read.items[asked].astype(np.int64), read.ratings[asked])


def rating_batches(
    dataset: Dataset,
    part: Part,
    columns: Collection[OptionalColumn],
    config: EvaluateConfig,
    max_length: int | None = None,
    share: float = 1.0,
) -> Iterator[list[RatingQuery]]:
    """The queries of this rank's users in batches, as `ranking.part_batches`."""

    def ask(shard: int, turn: Turn) -> Iterator[RatingQuery]:
        return rating_queries(dataset, part, columns, [shard], share, turn)

    return own_batches(dataset, ask, config.batch_events, max_length)


def evaluate_ratings(rater: Rater, batches: Iterable[Sequence[RatingQuery]], scale: Sequence[float]) -> RatingMetrics:
    """The error of this rank's ratings; the result is over all ranks, each of which must call it."""
    metrics = RatingMetrics(scale)
    update_ratings(metrics, rater, batches)
    metrics.all_reduce()
    return metrics


def update_ratings(metrics: RatingMetrics, rater: Rater, batches: Iterable[Sequence[RatingQuery]]) -> None:
    """Add this rank's errors to `metrics`."""
    for batch in batches:
        metrics.update(rater(batch), torch.from_numpy(np.concatenate([query.ratings for query in batch])))

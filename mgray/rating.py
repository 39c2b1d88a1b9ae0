"""Prediction of ratings: the questions that a dataset asks, a model's answers, and their measure.

Legend: `Q` queries, `T` targets, `V` items (1..V; 0 is padding).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mgray.batch import left_pad
from mgray.columns import Columns, OptionalColumn
from mgray.config import EvaluateConfig
from mgray.dataset import ALL_USERS, PART_NUMBERS, Dataset, Histories, Part, Turn
from mgray.ensemble import Model
from mgray.inputs import read_columns
from mgray.metrics import RatingMetrics
from mgray.ranking import own_batches
from mgray.rating_head import RatedSums, RaterState
from mgray.schema import PAD, TRAIN, UNKNOWN


class RatingQuery(NamedTuple):
    """Items that a user with this history rated, and how."""

    history: Columns  # known items with ratings, oldest first
    targets: npt.NDArray[np.int64]  # [n] 1..V, or UNKNOWN
    ratings: npt.NDArray[np.float32]  # [n]


Rater = Callable[[Sequence[RatingQuery]], Tensor]  # Q queries -> predicted ratings [T], query after query


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


class ModelRater:
    """Ratings by a model with a rating head, within its scale; an item that it does not know gets the user's mean."""

    def __init__(self, model: Model, max_length: int, device: torch.device) -> None:
        assert model.rating_head is not None, "model.outputs has no rating"
        self.model, self.head = model, model.rating_head
        self.max_length, self.device = max_length, device
        self.columns = read_columns(model.config)

    @torch.no_grad()
    def __call__(self, queries: Sequence[RatingQuery]) -> Tensor:
        """Q queries -> predicted ratings [T], query after query."""
        self.model.eval()
        inputs = left_pad([query.history for query in queries], self.max_length, self.columns)
        inputs = inputs.map(lambda tensor: tensor.to(self.device))
        interest = self.model.fuse(inputs, only_last=True)[0][:, -1]
        state = self.head.user(interest, RatedSums(*(sums[:, -1] for sums in self.head.sums(inputs))))
        targets, owner = flat_targets(queries)
        owner = owner.to(self.device)
        mine = RaterState(*(part[owner] for part in state))
        rated, scale = self.head.rate(mine, targets.to(self.device)).cpu(), self.model.spec.rating_scale
        return rated.clamp(scale[0], scale[-1]) if scale else rated


def flat_targets(queries: Sequence[RatingQuery]) -> tuple[Tensor, Tensor]:
    """(items [T] with PAD for the unknown, the query of each [T])."""
    items = np.concatenate([query.targets for query in queries])
    owner = np.repeat(np.arange(len(queries)), [len(query.targets) for query in queries])
    return torch.from_numpy(np.where(items == UNKNOWN, PAD, items)), torch.from_numpy(owner)


def rating_batches(
    dataset: Dataset,
    part: Part,
    columns: Collection[OptionalColumn],
    config: EvaluateConfig,
    max_length: int | None = None,
    share: float = 1.0,
) -> Iterator[list[RatingQuery]]:
    """The queries of this rank's users in batches, as `engine.part_batches`."""

    def ask(shard: int, turn: Turn) -> Iterator[RatingQuery]:
        return rating_queries(dataset, part, columns, [shard], share, turn)

    return own_batches(dataset, ask, config.batch_events, config.batch_events, max_length)


def evaluate_ratings(rater: Rater, batches: Iterable[Sequence[RatingQuery]], scale: Sequence[float]) -> RatingMetrics:
    """The error of this rank's ratings; the result is over all ranks, each of which must call it."""
    metrics = RatingMetrics(scale)
    for batch in batches:
        metrics.update(rater(batch), torch.from_numpy(np.concatenate([query.ratings for query in batch])))
    metrics.all_reduce()
    return metrics

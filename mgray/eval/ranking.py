"""Full-catalogue ranking of the queries of a part, in batches, shared among the ranks.

Legend: `T` targets, `V` items (1..V; 0 is padding), `k` items of a list.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mgray.config import EvaluateConfig
from mgray.data.columns import Columns
from mgray.data.dataset import Dataset, Part, Query, Turn
from mgray.data.padding import plan_batches
from mgray.distributed import rank_and_world
from mgray.eval.metrics import RankingMetrics
from mgray.schema import OptionalColumn
from mgray.serve.catalogue import EVERYTHING_STAYS, LeftOut, rank_catalogue
from mgray.serve.scorer import Scorer


class HasHistory(Protocol):
    @property
    def history(self) -> Columns: ...


Asked = TypeVar("Asked", bound=HasHistory)


def score_batches(queries: Iterable[Asked], batch_events: int, max_length: int | None = None) -> Iterator[list[Asked]]:
    """Queries of like lengths together, at most `batch_events` padded events a batch.

    max_length: events of a history that are read; None: all.
    """
    asked = list(queries)
    lengths = np.asarray([len(query.history) for query in asked], dtype=np.int64)
    if max_length is not None:
        lengths = np.minimum(lengths, max_length)
    for rows in plan_batches(lengths, batch_events):
        yield [asked[row] for row in rows]


def rank_batch(
    scorer: Scorer, batch: Sequence[Query], remove_seen: bool, k: int | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Targets [T], their ranks [T], and the k best items [T, k] where k is given. remove_seen: leave seen items out."""
    histories = [query.history for query in batch]
    scores = scorer(histories)
    targets = torch.tensor([query.target for query in batch], device=scores.device)
    left_out = LeftOut.of([history.items for history in histories]) if remove_seen else EVERYTHING_STAYS
    ranked = rank_catalogue(scores, targets, k, left_out)
    assert ranked.ranks is not None, "there are targets"
    return targets, ranked.ranks, ranked.items


def evaluate(
    scorer: Scorer, queries: Sequence[Query], item_counts: npt.NDArray[np.int64], config: EvaluateConfig
) -> RankingMetrics:
    """Full-catalogue ranking of every query, each rank taking every world-th batch; the result is over all ranks."""
    rank, world_size = rank_and_world()
    batches = score_batches(queries, config.batch_events)
    mine = (batch for number, batch in enumerate(batches) if number % world_size == rank)
    return evaluate_batches(scorer, mine, item_counts, config)


def own_batches(
    dataset: Dataset,
    ask: Callable[[int, Turn], Iterable[Asked]],
    batch_events: int,
    max_length: int | None,
) -> Iterator[list[Asked]]:
    """Batches, as of `score_batches`, of what `ask` gives for this rank's users; a shard in memory at a time."""
    turn = Turn(*rank_and_world())
    for shard in range(dataset.num_shards):
        yield from score_batches(ask(shard, turn), batch_events, max_length)


def part_batches(
    dataset: Dataset,
    part: Part,
    columns: Collection[OptionalColumn],
    config: EvaluateConfig,
    max_length: int | None = None,
    share: float = 1.0,
) -> Iterator[list[Query]]:
    """The queries of this rank's users in batches, a shard of them in memory at a time.

    columns: those beside items that the scorer reads; max_length: events of a history that it reads, None: all; share:
    of the users, as Dataset.queries draws them.
    """

    def ask(shard: int, turn: Turn) -> Iterator[Query]:
        return dataset.queries(part, columns, [shard], share, turn)

    return own_batches(dataset, ask, config.batch_events, max_length)


def evaluate_batches(
    scorer: Scorer,
    batches: Iterable[Sequence[Query]],
    item_counts: npt.NDArray[np.int64],
    config: EvaluateConfig,
    with_coverage: bool = True,
) -> RankingMetrics:
    """Full-catalogue ranking of this rank's queries; the result is over all ranks, each of which must call it.

    with_coverage: find the lists of the best k too, which coverage@k is of.
    """
    return evaluate_each({"": scorer}, batches, item_counts, config, with_coverage)[""]


def evaluate_each(
    scorers: Mapping[str, Scorer],
    batches: Iterable[Sequence[Query]],
    item_counts: npt.NDArray[np.int64],
    config: EvaluateConfig,
    with_coverage: bool = True,
) -> dict[str, RankingMetrics]:
    """`evaluate_batches` for several scorers by name on the same queries, which are read once."""
    k = min(config.k, len(item_counts) - 1) if with_coverage else None
    found = {name: RankingMetrics(config.k, item_counts, with_coverage) for name in scorers}
    for batch in batches:
        for name, scorer in scorers.items():
            targets, ranks, recommended = rank_batch(scorer, batch, config.remove_seen, k)
            found[name].update(ranks, recommended, [len(query.history) for query in batch], targets)
    for metrics in found.values():
        metrics.all_reduce()
    return found


def part_queries(dataset: Dataset, part: Part, columns: Collection[OptionalColumn] = ()) -> list[Query]:
    """All at once. columns: those beside items that the model reads."""
    return list(dataset.queries(part, columns))

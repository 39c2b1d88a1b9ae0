"""Quality where little is known: users of a few events, users that began later, and items that came after training.

A model knows no users, so a user it never saw is served from a history of any length; one without a known item gets
what is popular of late (Vocabulary.popularity). An item without a number is left out of every history, cannot be
recommended, and counts as a miss where it is the target; the next training gives it a number (from data.min_item_count
events on), and a warm start a row that scores like an average item.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mgray.config import EvaluateConfig
from mgray.data.dataset import Dataset, Query
from mgray.eval.ranking import evaluate, evaluate_each, score_batches
from mgray.eval.slices import slice_label, slice_labels
from mgray.schema import UNKNOWN, OptionalColumn
from mgray.serve.score_blocks import whole
from mgray.serve.scorer import HistoryList, Scorer

LENGTHS = (1, 2, 5, 10)  # events
FIRST_EVENTS = (0, 1, 4, 9, 19)  # known of a new user: the last of each row
HIDDEN_SHARES = (0.1, 0.3)  # of the catalogue

Mask = npt.NDArray[np.bool_]
Metrics = dict[str, float]


class ColdStart(NamedTuple):
    num_queries: int  # with a history of LENGTHS[-1] events at least: the same ones in every row of by_length
    by_length: dict[str, Metrics]  # events known -> metrics; `all`: the whole history
    by_hidden_share: dict[str, Metrics]  # share of the catalogue without a number -> metrics over all queries


def newest(query: Query, length: int) -> Query:
    """The query as if the user's last `length` events were all there ever were."""
    return replace(query, history=query.history.take(slice(-length, None)))


def without_items(query: Query, hidden: Mask) -> Query:
    """The query as if the hidden items had no number. hidden: [V + 1] by item number."""
    is_unknown = query.target == UNKNOWN or bool(hidden[query.target])
    known = query.history.take(~hidden[query.history.items])
    return replace(query, history=known, target=UNKNOWN if is_unknown else query.target)


class _HidingScorer:
    """A scorer that cannot recommend the hidden items."""

    def __init__(self, scorer: Scorer, hidden: Mask) -> None:
        self.scorer, self.hidden = scorer, torch.from_numpy(hidden)

    def __call__(self, histories: HistoryList) -> Tensor:
        scores = whole(self.scorer(histories))
        return scores.masked_fill(self.hidden.to(scores.device), -torch.inf)


def measure_cold_start(
    scorer: Scorer, queries: Sequence[Query], item_counts: npt.NDArray[np.int64], config: EvaluateConfig, seed: int = 0
) -> ColdStart:
    """Metrics of `queries` by how much of their histories is known, and with a random part of the catalogue hidden.

    item_counts: [V + 1] training events. Of a shortened history only its own items count as seen.
    """

    def metrics(of: Scorer, chosen: Sequence[Query]) -> Metrics:
        return evaluate(of, chosen, item_counts, config).compute()

    long = [query for query in queries if len(query.history) >= LENGTHS[-1]]
    by_length = {str(length): metrics(scorer, [newest(query, length) for query in long]) for length in LENGTHS}
    by_hidden_share = {"0": metrics(scorer, queries)}
    random = np.random.default_rng(seed)
    for share in HIDDEN_SHARES:
        hidden = random.random(len(item_counts)) < share
        hidden[0] = False
        shown = [without_items(query, hidden) for query in queries]
        by_hidden_share[f"{share:g}"] = metrics(_HidingScorer(scorer, hidden), shown)
    return ColdStart(len(long), by_length | {"all": metrics(scorer, long)}, by_hidden_share)


def new_user_queries(dataset: Dataset, columns: Collection[OptionalColumn] = ()) -> Iterator[Query]:
    """The test part's queries of users without an event to train on: of a split in time, those that began later."""
    for shard in range(dataset.num_shards):
        trained = dataset.read(shard).training()
        began_later = {user for user, length in zip(trained.user_ids, trained.train_end, strict=True) if length == 0}
        yield from (query for query in dataset.queries("test", columns, [shard]) if query.user_id in began_later)


def measure_new_users(
    scorers: Mapping[str, Scorer],
    queries: Sequence[Query],
    item_counts: npt.NDArray[np.int64],
    config: EvaluateConfig,
) -> dict[str, dict[str, Metrics]]:
    """Events known of the user, as `5-9` -> scorer's name -> its metrics, with `count` queries.

    queries: of `new_user_queries`; item_counts: [V + 1] training events.
    """
    found: dict[str, dict[str, Metrics]] = {}
    for label in slice_labels(FIRST_EVENTS):
        chosen = [query for query in queries if slice_label(len(query.history), FIRST_EVENTS) == label]
        if not chosen:
            continue
        batches = score_batches(chosen, config.batch_events)
        measured = evaluate_each(scorers, batches, item_counts, config)
        found[label] = {name: metrics.compute() | {"count": len(chosen)} for name, metrics in measured.items()}
    return found

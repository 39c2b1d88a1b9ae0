"""Baselines: rankings that need no training, which a model must beat. Each is a scorer.

`cooccurrence` and `repeats` look up and add: an item's score is what the user's events bring it, each by its age. Their
few settings are chosen by the validation part, among a stated grid, on a sample of its users.

Legend: `T` histories, `V` items (1..V; 0 is padding).
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from mgray.config import EvaluateConfig
from mgray.data.dataset import Dataset, Part, Query
from mgray.data.pair_table import count_pairs, log_ratios
from mgray.distributed import failing_together, sum_over_ranks
from mgray.eval.metrics import query_metrics
from mgray.eval.ranking import part_batches
from mgray.schema import PAD, UNKNOWN
from mgray.serve.catalogue import MISS
from mgray.serve.model_folder import Vocabulary
from mgray.serve.score_blocks import AddedScores, WholeScores
from mgray.serve.scorer import HistoryList, Scorer, popularity_row

LAST_EVENTS = 50  # of a history that co-occurrence reads; 0.9 ** 50 is 0.005
DECAYS = (
    0.6,
    0.8,
    0.9,
)  # of an event's weight with each event since; the first of a grid is taken where nothing chooses
TAUS = (11_000.0, 3_000.0, 1_000.0, 300.0, 40_000.0)
REPEAT_DECAYS = (0.9, 0.5, 0.8, 0.95, 0.98, 0.995)
MAX_CHOOSING = 5_000  # queries of the validation part to choose by
TIE_BREAK = 1e-6  # score of the most popular item, so that popularity orders what has the same score

IntArray = npt.NDArray[np.int64]
Setting = tuple[float, ...]


class Baseline(NamedTuple):
    """A scorer, and the settings that the validation part chose, as text; empty: it has none."""

    scorer: Scorer
    settings: str = ""


class PopularityScorer:
    """The same ranking for everyone."""

    def __init__(self, popularity: npt.NDArray[np.number]) -> None:
        """popularity: [V + 1], the more the better."""
        self.scores = popularity_row(popularity)

    def __call__(self, histories: HistoryList) -> Tensor:
        return self.scores.expand(len(histories), -1)  # one row in memory


class CooccurrenceScorer:
    """Sum over the last events h of decay ** age * log(1 + C[h, item] V / tau); C: weights of a pair table.

    Ties (most of the catalogue never followed an item) are broken by popularity, which is what its users would do.
    """

    def __init__(
        self,
        counts: sparse.csr_matrix,
        popularity: npt.NDArray[np.int64],
        decay: float = DECAYS[0],
        tau: float = TAUS[0],
    ) -> None:
        """counts: [V + 1, V + 1] weight of column's item following row's."""
        self.followers = log_ratios(counts, tau)
        self.decay, self.tie_break = decay, tie_break_row(popularity)

    def __call__(self, histories: HistoryList) -> AddedScores:
        recent = weigh_events(histories, self.decay, len(self.tie_break), LAST_EVENTS)
        return sparse_scores((recent @ self.followers).tocsr(), self.tie_break)


class RepeatScorer:
    """Items that the user had, each by decay ** age, added up; ties, and what the user never had, by popularity."""

    def __init__(self, popularity: npt.NDArray[np.int64], decay: float = REPEAT_DECAYS[0]) -> None:
        self.decay, self.tie_break = decay, tie_break_row(popularity)

    def __call__(self, histories: HistoryList) -> AddedScores:
        return sparse_scores(weigh_events(histories, self.decay, len(self.tie_break)), self.tie_break)


def tie_break_row(popularity: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """[V + 1] scores below TIE_BREAK, by popularity; padding scores minus infinity."""
    row: npt.NDArray[np.float32] = (popularity / (popularity.max() + 1) * TIE_BREAK).astype(np.float32)
    row[PAD] = -np.inf
    return row


def weigh_events(histories: HistoryList, decay: float, num_columns: int, last: int | None = None) -> sparse.csr_matrix:
    """[T, V + 1]: decay ** age summed over each item's events, the age of the last event being 0.

    last: events of a history that are read; None: all.
    """
    items = [history.items[-last if last else 0 :] for history in histories]
    lengths = np.array([len(own) for own in items], dtype=np.int64)
    ends = np.cumsum(lengths)
    ages = np.repeat(ends, lengths) - np.arange(lengths.sum()) - 1
    flat = np.concatenate([np.zeros(0, np.int32), *items])
    offsets = np.concatenate([[0], ends])
    weights = np.power(decay, ages).astype(np.float32)
    found = sparse.csr_matrix((weights, flat, offsets), shape=(len(items), num_columns))
    found.sum_duplicates()
    return found


def sparse_scores(scores: sparse.csr_matrix, tie_break: npt.NDArray[np.float32]) -> AddedScores:
    """Scores of T histories, [T, V + 1], of which most are zero, and what breaks the ties, [V + 1]."""
    row = torch.from_numpy(tie_break).expand(scores.shape[0], -1)  # one row in memory
    return AddedScores(WholeScores(row), scores)


def sparse_ranks(scores: sparse.csr_matrix, batch: Sequence[Query], remove_seen: bool) -> IntArray:
    """Rank of each target among the items with a score [T], ties against it; MISS where it has none.

    It does not grow with the catalogue: a figure to choose settings by, and no other.
    """
    scores.sort_indices()
    ranks = np.full(len(batch), MISS, np.int64)
    for row, query in enumerate(batch):
        own = slice(scores.indptr[row], scores.indptr[row + 1])
        items, values = scores.indices[own], scores.data[own]
        if remove_seen:
            is_candidate = ~np.isin(items, query.history.items)
            items, values = items[is_candidate], values[is_candidate]
        place = np.searchsorted(items, query.target)
        if place < len(items) and items[place] == query.target:
            ranks[row] = np.count_nonzero(values >= values[place])
    return ranks


class Chooser:
    """Chooses settings by the validation part. Collective: every rank, the same calls."""

    def __init__(self, dataset: Dataset, part: Part, config: EvaluateConfig) -> None:
        """part: what the figures will be of; for those of the validation part nothing is chosen, as that would leak."""
        self.config, self.batches = config, []
        if part != "valid" and dataset.manifest.valid_events:
            share = min(1.0, MAX_CHOOSING / dataset.manifest.valid_events)
            with failing_together():
                self.batches = [
                    [query for query in batch if query.target != UNKNOWN]
                    for batch in part_batches(dataset, "valid", (), config, LAST_EVENTS, share)
                ]

    def best(self, grid: Sequence[Setting], make: Callable[[Setting], "CooccurrenceScorer | RepeatScorer"]) -> Setting:
        """The setting with the largest ndcg@k; the first where none is better."""
        with failing_together():
            sums = np.array([self._ndcg(make(setting)) for setting in grid])
        sums = sum_over_ranks(torch.from_numpy(sums)).numpy()
        return grid[int(np.argmax(sums))]

    def _ndcg(self, scorer: "CooccurrenceScorer | RepeatScorer") -> float:
        """Sum of ndcg@k over this rank's queries."""
        total = 0.0
        for batch in self.batches:
            if batch:
                scores = scorer([query.history for query in batch]).added
                ranks = sparse_ranks(scores, batch, self.config.remove_seen)
                total += float(query_metrics(ranks, self.config.k)[:, 1].sum())
        return total


def make_cooccurrence(dataset: Dataset, chooser: Chooser) -> Baseline:
    """Pair counts of the training part, with the settings that rank the validation part best. Collective."""
    counts, popularity = count_pairs(dataset).csr(), dataset.item_counts

    def make(setting: Setting) -> CooccurrenceScorer:
        return CooccurrenceScorer(counts, popularity, *setting)

    decay, tau = chooser.best(list(product(DECAYS, TAUS)), make)
    return Baseline(make((decay, tau)), f"decay {decay:g} an event, tau {tau:,.0f}")


def make_repeats(dataset: Dataset, chooser: Chooser) -> Baseline:
    """What the user had, by the decay that ranks the validation part best. Collective."""

    def make(setting: Setting) -> RepeatScorer:
        return RepeatScorer(dataset.item_counts, *setting)

    (decay,) = chooser.best([(decay,) for decay in REPEAT_DECAYS], make)
    return Baseline(make((decay,)), f"decay {decay:g} an event")


def baseline_makers(dataset: Dataset, part: Part, config: EvaluateConfig) -> dict[str, Callable[[], Baseline]]:
    """Name -> what makes the baseline, collectively, from the training part alone.

    popularity_recent is what a model of it falls back on.
    """
    chooser: list[Chooser] = []

    def the_chooser() -> Chooser:
        if not chooser:
            chooser.append(Chooser(dataset, part, config))
        return chooser[0]

    found: dict[str, Callable[[], Baseline]] = {
        "popularity": lambda: Baseline(PopularityScorer(dataset.item_counts)),
        "popularity_recent": lambda: Baseline(PopularityScorer(Vocabulary.of(dataset).popularity)),
        "cooccurrence": lambda: make_cooccurrence(dataset, the_chooser()),
    }
    if not config.remove_seen:
        found["repeats"] = lambda: make_repeats(dataset, the_chooser())
    return found


def make_baselines(dataset: Dataset, config: EvaluateConfig | None = None) -> dict[str, Scorer]:
    """Name -> scorer, for figures of the test part."""
    makers = baseline_makers(dataset, "test", config or EvaluateConfig())
    return {name: make().scorer for name, make in makers.items()}

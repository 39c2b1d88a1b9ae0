"""What a model must beat: rankings that need no training. Each is a scorer: T histories -> scores [T, V + 1]."""

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from mgray.dataset import Dataset
from mgray.engine import HistoryList, Scorer
from mgray.schema import PAD

RECENT_DAYS = 7
DISTANCE_WEIGHTS = (1.0, 1 / 2, 1 / 3)  # of an item that follows at distance 1, 2, 3


class PopularityScorer:
    """The same ranking for everyone: events of each item in the training part."""

    def __init__(self, counts: npt.NDArray[np.int64]) -> None:
        self.scores = torch.from_numpy(counts).float()
        self.scores[PAD] = -torch.inf

    def __call__(self, histories: HistoryList) -> Tensor:
        return self.scores.repeat(len(histories), 1)


class CooccurrenceScorer:
    """What followed the user's last item in other histories, nearer followers weighing more.

    Ties (most of the catalogue never followed an item) are broken by popularity, which is what its users would do.
    """

    def __init__(self, counts: sparse.csr_matrix, popularity: npt.NDArray[np.int64]) -> None:
        self.counts = counts  # [V + 1, V + 1]: weight of column's item following row's
        self.tie_break = popularity / (popularity.max() + 1) * 0.1  # below the smallest weight, 1/3
        self.tie_break[PAD] = -np.inf

    def __call__(self, histories: HistoryList) -> Tensor:
        last = [int(history.items[-1]) if len(history) else PAD for history in histories]
        return torch.from_numpy(self.counts[last].toarray() + self.tie_break).float()


def cooccurrence_counts(dataset: Dataset) -> sparse.csr_matrix:
    """[V + 1, V + 1]: for each ordered pair of training items, the sum of 1/distance over distances 1 to 3."""
    size = dataset.num_items + 1
    total = sparse.csr_matrix((size, size), dtype=np.float64)
    for histories in dataset.train_events():
        items = histories.columns.items.astype(np.int64)
        owner = np.repeat(np.arange(len(histories.train_end)), histories.train_end)
        for distance, weight in enumerate(DISTANCE_WEIGHTS, start=1):
            same = owner[:-distance] == owner[distance:]
            before, after = items[:-distance][same], items[distance:][same]
            pairs = sparse.coo_matrix((np.full(len(before), weight), (before, after)), shape=(size, size))
            total = total + pairs.tocsr()
    return total


def recent_counts(dataset: Dataset, days: float = RECENT_DAYS) -> npt.NDArray[np.int64]:
    """[V + 1]: training events of each item in the last `days` of the training part."""
    newest = -np.inf
    for histories in dataset.train_events(["times"]):
        assert histories.columns.times is not None
        newest = max(newest, float(histories.columns.times.max(initial=-np.inf)))
    counts = np.zeros(dataset.num_items + 1, dtype=np.int64)
    for histories in dataset.train_events(["times"]):
        assert histories.columns.times is not None
        recent = histories.columns.times > newest - days * 86400
        counts += np.bincount(histories.columns.items[recent], minlength=len(counts))
    return counts


def make_baselines(dataset: Dataset) -> dict[str, Scorer]:
    """Name -> scorer, each from the training part alone."""
    return {
        "popularity": PopularityScorer(dataset.item_counts),
        f"popularity_{RECENT_DAYS}d": PopularityScorer(recent_counts(dataset)),
        "cooccurrence": CooccurrenceScorer(cooccurrence_counts(dataset), dataset.item_counts),
    }

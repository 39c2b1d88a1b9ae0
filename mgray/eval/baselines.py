"""Baselines: rankings that need no training, which a model must beat. Each is a scorer."""

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from mgray.data.cooccurrence import pair_counts
from mgray.data.dataset import Dataset
from mgray.schema import PAD
from mgray.serve.model_folder import Vocabulary
from mgray.serve.scorer import HistoryList, Scorer, popularity_row

DISTANCE_WEIGHTS = (1.0, 1 / 2, 1 / 3)  # of an item that follows at distance 1, 2, 3


class PopularityScorer:
    """The same ranking for everyone."""

    def __init__(self, popularity: npt.NDArray[np.number]) -> None:
        """popularity: [V + 1], the more the better."""
        self.scores = popularity_row(popularity)

    def __call__(self, histories: HistoryList) -> Tensor:
        return self.scores.expand(len(histories), -1)  # one row in memory


class CooccurrenceScorer:
    """Items that followed the user's last one in other histories, nearer followers weighing more.

    Ties (most of the catalogue never followed an item) are broken by popularity, which is what its users would do.
    """

    def __init__(self, counts: sparse.csr_matrix, popularity: npt.NDArray[np.int64]) -> None:
        self.counts = counts  # [V + 1, V + 1]: weight of column's item following row's
        self.tie_break = popularity / (popularity.max() + 1) * 0.1  # below the smallest weight, 1/3
        self.tie_break[PAD] = -np.inf

    def __call__(self, histories: HistoryList) -> "CooccurrenceScores":
        last = [int(history.items[-1]) if len(history) else PAD for history in histories]
        return CooccurrenceScores(self.counts[last], self.tie_break)


class CooccurrenceScores:
    """Counts of T last items, sparse, and what breaks their ties: ScoreBlocks."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, counts: sparse.csr_matrix, tie_break: npt.NDArray[np.float64]) -> None:
        """counts: [T, V + 1], tie_break: [V + 1]."""
        self.counts, self.tie_break = counts, tie_break
        self.num_rows, self.num_columns = counts.shape

    def rows(self, chosen: slice) -> "CooccurrenceScores":
        return CooccurrenceScores(self.counts[chosen], self.tie_break)

    def fill(self, out: Tensor, items: slice | Tensor) -> None:
        columns = items if isinstance(items, slice) else items.numpy()
        out.copy_(torch.from_numpy(self.counts[:, columns].toarray() + self.tie_break[columns]))


def make_baselines(dataset: Dataset) -> dict[str, Scorer]:
    """Name -> scorer, each from the training part alone; popularity_recent is what a model of it falls back on."""
    return {
        "popularity": PopularityScorer(dataset.item_counts),
        "popularity_recent": PopularityScorer(Vocabulary.of(dataset).popularity),
        "cooccurrence": CooccurrenceScorer(pair_counts(dataset, DISTANCE_WEIGHTS), dataset.item_counts),
    }

"""Scores of a batch of histories, written for a block of items at a time: nothing here is as large as [T, V + 1].

Legend: `T` histories, `V` items (1..V; 0 is padding), `n` items of a block, `D` width of a model, `M` its members.
"""

from typing import Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mgray.model.ensemble import Model


class ScoreBlocks(Protocol):
    """Scores of T histories; of a column that may never be recommended (padding) minus infinity."""

    num_rows: int  # T
    num_columns: int  # V + 1
    dtype: torch.dtype
    device: torch.device

    def rows(self, chosen: slice) -> "ScoreBlocks":
        """The same scores of some of the histories."""
        ...

    def fill(self, out: Tensor, items: slice | Tensor) -> None:
        """Write the scores of `items` (a range with both ends, or item numbers [n]) to `out`, [T, n]."""
        ...


class WholeScores:
    """Scores that are there already, [T, V + 1]: a rule's, one row expanded for everyone, a test's."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores
        self.num_rows, self.num_columns = scores.shape
        self.dtype, self.device = scores.dtype, scores.device

    def rows(self, chosen: slice) -> "WholeScores":
        return WholeScores(self.scores[chosen])

    def fill(self, out: Tensor, items: slice | Tensor) -> None:
        out.copy_(self.scores[:, items])


class ModelScores:
    """Products of interests and item vectors; a row without an event has the popularity scores."""

    dtype = torch.float32

    def __init__(self, model: Model, interest: Tensor, popularity: Tensor, empty_rows: Tensor) -> None:
        """interest: [T, M D]; popularity: [V + 1]; empty_rows: numbers of the rows without an event, rising."""
        self.model, self.interest, self.popularity, self.empty_rows = model, interest, popularity, empty_rows
        self.num_rows, self.num_columns = len(interest), len(popularity)
        self.device = interest.device

    def rows(self, chosen: slice) -> "ModelScores":
        begin, end, _ = chosen.indices(self.num_rows)
        inside = self.empty_rows[(self.empty_rows >= begin) & (self.empty_rows < end)] - begin
        return ModelScores(self.model, self.interest[chosen], self.popularity, inside)

    @torch.no_grad()
    def fill(self, out: Tensor, items: slice | Tensor) -> None:
        self.model.score(self.interest, items, out)
        if len(self.empty_rows):
            out[self.empty_rows] = self.popularity[items]


class AddedScores:
    """Scores, and what is added to a few items of each row: by memory, or by a baseline of pairs or repeats."""

    dtype = torch.float32

    def __init__(self, base: ScoreBlocks, added: sparse.csr_matrix) -> None:
        """added: [T, V + 1]."""
        self.base, self.added = base, added
        self.num_rows, self.num_columns = base.num_rows, base.num_columns
        self.device = base.device
        self._by_item: sparse.csc_matrix | None = None  # of a first block, for all of them

    def rows(self, chosen: slice) -> "AddedScores":
        return AddedScores(self.base.rows(chosen), self.added[chosen])

    def fill(self, out: Tensor, items: slice | Tensor) -> None:
        self.base.fill(out, items)
        if isinstance(items, Tensor):
            out += torch.from_numpy(self.added[:, items.cpu().numpy()].toarray()).to(self.device)
            return
        if self._by_item is None:
            self._by_item = self.added.tocsc()
        bounds = self._by_item.indptr[items.start : items.stop + 1]
        first, last = bounds[[0, -1]]
        column = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        rows = torch.from_numpy(self._by_item.indices[first:last].astype(np.int64)).to(self.device)
        place = (rows, torch.from_numpy(column).to(self.device))
        # Each place once, so that the sum hangs on no order.
        out[place] += torch.from_numpy(self._by_item.data[first:last]).to(self.device)


def as_blocks(scores: ScoreBlocks | Tensor) -> ScoreBlocks:
    """Wrap a scorer's answer if it is whole rows [T, V + 1]."""
    return WholeScores(scores) if isinstance(scores, Tensor) else scores


def whole(scores: ScoreBlocks | Tensor) -> Tensor:
    """All scores at once, [T, V + 1]: for a look at a few rows, and for tests."""
    blocks = as_blocks(scores)
    out = torch.empty(blocks.num_rows, blocks.num_columns, dtype=blocks.dtype, device=blocks.device)
    blocks.fill(out, slice(0, blocks.num_columns))
    return out

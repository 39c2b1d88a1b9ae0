"""Co-occurrence: counts pairs of items that are near each other in training histories."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mgray.data.dataset import Dataset, Histories, IntArray, drawn_rows

MERGED_PAIRS = 2**24  # pairs in memory before equal ones are merged


def pair_counts(
    dataset: Dataset, weights: Sequence[float], share: float = 1.0, chosen: IntArray | None = None
) -> sparse.csr_matrix:
    """[V + 1, V + 1]: per ordered pair of items, the sum of the weights of their distances.

    weights: of distance 1, 2, ...; share: of the histories to read, 0 to 1, the same ones in every run; chosen: the
    items to count, [M], for [M, M] in their order (memory then does not grow with V but by 4 bytes an item).
    """
    size, rows = dataset.num_items + 1, None
    if chosen is not None:
        size, rows = len(chosen), np.full(dataset.num_items + 1, -1, np.int32)
        rows[chosen] = np.arange(size, dtype=np.int32)
    total = sparse.csr_matrix((size, size), dtype=np.float64)
    held: list[sparse.coo_matrix] = []
    for shard in range(dataset.num_shards):
        held += _pairs(_training(dataset, shard, share), weights, size, rows)
        if sum(pairs.nnz for pairs in held) >= MERGED_PAIRS:
            total, held = total + _merged(held, size), []
    return total + _merged(held, size)


def _training(dataset: Dataset, shard: int, share: float) -> Histories:
    histories = dataset.read(shard, with_users=False)
    if share < 1:
        histories = histories.of_rows(drawn_rows(shard, len(histories.train_end), share))
    return histories.training()


def _pairs(
    histories: Histories, weights: Sequence[float], size: int, rows: npt.NDArray[np.int32] | None
) -> list[sparse.coo_matrix]:
    """rows: [V + 1] row of each item, -1: not counted; None: the item numbers."""
    numbers = histories.columns.items
    items = numbers.astype(np.int64) if rows is None else rows[numbers]
    owner = np.repeat(np.arange(len(histories.train_end)), histories.train_end)
    found = []
    for distance, weight in enumerate(weights, start=1):
        same = owner[:-distance] == owner[distance:]
        if rows is not None:
            same &= (items[:-distance] >= 0) & (items[distance:] >= 0)
        before, after = items[:-distance][same], items[distance:][same]
        found.append(sparse.coo_matrix((np.full(len(before), weight), (before, after)), shape=(size, size)))
    return found


def _merged(held: Sequence[sparse.coo_matrix], size: int) -> sparse.csr_matrix:
    if not held:
        return sparse.csr_matrix((size, size), dtype=np.float64)
    row, column, weight = (np.concatenate(parts) for parts in zip(*((p.row, p.col, p.data) for p in held), strict=True))
    return sparse.coo_matrix((weight, (row, column)), shape=(size, size)).tocsr()

"""What stands near what in the training part, counted."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from mgray.dataset import Dataset


def pair_counts(dataset: Dataset, weights: Sequence[float], share: float = 1.0) -> sparse.csr_matrix:
    """[V + 1, V + 1]: by ordered pair of items, the sum of the weights of the distances between the two.

    weights: of distance 1, 2, ...; share: of the users, as Dataset.read_users draws them.
    """
    size = dataset.num_items + 1
    total = sparse.csr_matrix((size, size), dtype=np.float64)
    for shard in range(dataset.num_shards):
        histories = (
            dataset.read_users(shard, share=share) if share < 1 else dataset.read(shard, with_users=False)
        ).training()
        items = histories.columns.items.astype(np.int64)
        owner = np.repeat(np.arange(len(histories.train_end)), histories.train_end)
        for distance, weight in enumerate(weights, start=1):
            same = owner[:-distance] == owner[distance:]
            before, after = items[:-distance][same], items[distance:][same]
            pairs = sparse.coo_matrix((np.full(len(before), weight), (before, after)), shape=(size, size))
            total = total + pairs.tocsr()
    return total

"""Start of an item's vector: from what stands near it in the histories, instead of at random.

The factors of the positive pointwise mutual information of neighbouring items, which is what word2vec's vectors
approximate (Levy & Goldberg, "Neural word embedding as implicit matrix factorization", NeurIPS 2014), with choices
that Levy, Goldberg & Dagan found to matter (TACL 2015): neighbours weigh less with distance, a context's frequency is
taken to a power, and the eigenvalues enter by their square roots. A model whose scores are products of an interest with
these vectors, and whose blocks start near the identity, begins as a recommender of neighbours; a sparse log does not
have the events to find them from random numbers.

Legend: `V` items (1..V; 0 is padding), `D` width.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor

from mgray.config import TrainConfig
from mgray.data.cooccurrence import pair_counts
from mgray.data.dataset import Dataset
from mgray.model.ensemble import Model

WINDOW = 8  # events to either side
WEIGHTS = tuple(1 - distance / WINDOW for distance in range(WINDOW))
CONTEXT_POWER = 0.5  # 3/4 there: popular items then start too far behind (MovieLens-100K untrained: 0.053, 0.098)
NOISE = 0.1  # of its random start that an item with a vector keeps, for the channels beyond the rank
# What a log of any size is cut to: about a minute of a core, and a gigabyte.
MAX_PAIRS = 2**23  # counted; beyond, a share of the histories is drawn
MAX_ITEMS = 2**18  # with the most training events; the others start at random
MAX_RANK = 128  # channels that tell; a wider model's others start at random
MAX_RESTARTS = 100  # of Lanczos' method, which takes some ten
TOLERANCE = 1e-2  # of an eigenvalue, relative: a start wants no more, and takes two thirds of the time of 1e-4

FloatArray = npt.NDArray[np.float64]


def positive_pmi(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Symmetric counts of neighbours [V, V] -> positive pointwise mutual information, made symmetric again [V, V]."""
    counts = counts.tocoo()
    apart = counts.row != counts.col  # that an item follows itself says nothing of what it is like
    row, column, count = counts.row[apart], counts.col[apart], counts.data[apart]
    total = np.bincount(row, count, counts.shape[0])
    context = total**CONTEXT_POWER
    information = np.log(count * context.sum() / (total[row] * context[column]))
    found = sparse.csr_matrix((np.maximum(information, 0), (row, column)), shape=counts.shape)
    return (found + found.T) / 2


def factors(matrix: sparse.csr_matrix, rank: int) -> FloatArray:
    """A symmetric matrix's [V, V] part of its `rank` largest eigenvalues, none below zero: F F^T with F [V, rank]."""
    size = matrix.shape[0]
    found = np.zeros((size, rank))
    if matrix.count_nonzero() == 0:  # which Lanczos' method does not take
        return found
    if rank >= size // 2:  # it finds some of many
        values, vectors = np.linalg.eigh(matrix.toarray())
        values, vectors = values[-rank:], vectors[:, -rank:]
    else:
        # A start and restarts of its own, so that the same log gives the same vectors.
        source = np.random.default_rng(0)
        start = source.standard_normal(size)
        try:
            values, vectors = eigsh(
                matrix, k=rank, which="LA", v0=start, tol=TOLERANCE, maxiter=MAX_RESTARTS, rng=source
            )
        except ArpackNoConvergence as stopped:
            values, vectors = stopped.eigenvalues, stopped.eigenvectors  # those found so far do
    found[:, : len(values)] = vectors * np.sqrt(np.maximum(values, 0))
    return found


def item_vectors(dataset: Dataset, width: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Items that have neighbours, M of the MAX_ITEMS at most [M], and their vectors [M, D]."""
    pairs = dataset.manifest.train_events * WINDOW
    counts = pair_counts(dataset, WEIGHTS, share=min(1.0, MAX_PAIRS / max(1, pairs)))
    items = np.argsort(-dataset.item_counts[1:], kind="stable")[:MAX_ITEMS] + 1
    counts = counts[items][:, items]
    vectors = np.zeros((len(items), width))
    rank = min(width, MAX_RANK)
    vectors[:, :rank] = factors(positive_pmi(counts + counts.T), rank)
    has_neighbours = (vectors != 0).any(1)
    return items[has_neighbours], vectors[has_neighbours]


@lru_cache(maxsize=1)  # the trials of a search, of one process, ask for the same ones
def _start_vectors(folder: Path, fingerprint: str, width: int) -> tuple[Tensor, Tensor]:
    numbers, vectors = item_vectors(Dataset(folder), width)
    return torch.from_numpy(numbers), torch.from_numpy(vectors).float()


def start_items_(model: Model, dataset: Dataset, config: TrainConfig) -> None:
    """Start the items of a model that recommends as `item_init` says, in place.

    The vectors are turned at random, by torch's generator and for each member of an ensemble anew: a channel's time
    scale is no matter of its eigenvalue. Their root mean square length is that of the random start, of which they keep
    NOISE; an item without neighbours keeps all of it.
    """
    if config.item_init == "random" or model.config.outputs == "rating":
        return
    width = model.config.width
    items, vectors = _start_vectors(dataset.folder, dataset.manifest.fingerprint, width)
    if len(items) == 0:
        return
    length = vectors.square().sum(1).mean().sqrt()
    for member in model.members:
        table = member.embedding.weight
        turn, _ = torch.linalg.qr(torch.randn(width, width))
        rows = items.to(table.device)
        with torch.no_grad():
            table[rows] = (vectors @ turn / length).to(table) + NOISE * table[rows]

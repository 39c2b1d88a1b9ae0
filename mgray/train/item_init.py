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
from mgray.distributed import on_rank_0
from mgray.model.ensemble import Model

WINDOW = 8  # events to either side
WEIGHTS = tuple(1 - distance / WINDOW for distance in range(WINDOW))
CONTEXT_POWER = 0.5  # 3/4 there: popular items then start too far behind (MovieLens-100K untrained: 0.053, 0.098)
BLOCK_PAIRS = 2**20  # whose information is worked out at once
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
    size, ends, column = counts.shape[0], counts.indptr, counts.indices
    row = np.repeat(np.arange(size, dtype=np.int32), np.diff(ends))
    information = np.where(row == column, 0, counts.data)  # that an item follows itself says nothing of what it is like
    total = np.bincount(row, information, size)
    context = total**CONTEXT_POWER
    for begin in range(0, len(information), BLOCK_PAIRS):  # whose temporaries are small
        block = slice(begin, begin + BLOCK_PAIRS)
        count, near, far = information[block], row[block], column[block]
        with np.errstate(divide="ignore"):  # log(0) of what was taken out
            np.log(count * context.sum() / (total[near] * context[far]), out=count)
        np.maximum(count, 0, out=count)
    del row
    found = sparse.csr_matrix((information, column.copy(), ends.copy()), shape=counts.shape)
    found.eliminate_zeros()
    found = found + found.T
    found.data /= 2
    return found


def factors(matrix: sparse.csr_matrix, rank: int) -> FloatArray:
    """A symmetric matrix's [V, V] part of its `rank` largest eigenvalues, none below zero: F F^T with F [V, rank]."""
    size = matrix.shape[0]
    if matrix.count_nonzero() == 0:  # which Lanczos' method does not take
        return np.zeros((size, rank))
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
    vectors *= np.sqrt(np.maximum(values, 0))
    found: FloatArray = vectors
    if len(values) == rank:
        return found
    found = np.zeros((size, rank))
    found[:, : len(values)] = vectors
    return found


def item_vectors(dataset: Dataset, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Items that have neighbours, M of the MAX_ITEMS at most [M], and their vectors [M, D].

    Memory: less than a gigabyte at a width of 64, whatever the log and the catalogue, and some 30 bytes an item. Half
    of it are Lanczos' vectors, which double at 128.
    """
    pairs = dataset.manifest.train_events * WINDOW
    items = np.argsort(-dataset.item_counts[1:], kind="stable")[:MAX_ITEMS] + 1
    counts = pair_counts(dataset, WEIGHTS, min(1.0, MAX_PAIRS / max(1, pairs)), items)
    counts = counts + counts.T
    information = positive_pmi(counts)
    del counts
    rank = min(width, MAX_RANK)
    found = factors(information, rank)
    has_neighbours = (found != 0).any(1)
    vectors = np.zeros((int(has_neighbours.sum()), width), np.float32)
    vectors[:, :rank] = found[has_neighbours]
    return items[has_neighbours], vectors


@lru_cache(maxsize=1)  # the trials of a search, of one process, ask for the same ones
def _start_vectors(folder: Path, fingerprint: str, width: int) -> tuple[Tensor, Tensor]:
    numbers, vectors = item_vectors(Dataset(folder), width)
    return torch.from_numpy(numbers), torch.from_numpy(vectors)


def start_items_on_rank_0_(model: Model, dataset: Dataset, config: TrainConfig) -> None:
    """`start_items_` of rank 0's model; DDP then gives it to the others. Collective: call it on every rank.

    It may take longer than a collective may wait, which `scale.collective_timeout_s` says.
    """
    on_rank_0(lambda: start_items_(model, dataset, config))


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

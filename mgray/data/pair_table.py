"""Pair table: what followed what in the histories that train, a bounded number of successors an item.

A successor at distance d counts d ** -0.5, for d from 1 to MAX_DISTANCE. Pairs are counted range by range of the items
that come first, so that no more than PAIRS_IN_MEMORY are held at once; each range reads the shards anew, one at a time.
The ranks of a process group share the ranges, and all get the whole table.

Memory, for 1e9 events and 1e7 items. The table: 0.6 GB at most (8 bytes a pair, MAX_PAIRS of them, and 8 an item).
Counting: 1.5 GB more a rank for a range (some 45 bytes a pair), and a shard. Time: about a million pairs a second of
one core, so MAX_COUNTED take nine minutes, which the ranks share; of a longer log, a share of the histories is counted,
some 5e7 events.

Legend: `V` items (1..V; 0 is padding), `P` pairs of the table, `n` items of a range, `p` pairs of a range.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from mgray.data.dataset import Dataset, Histories, IntArray, drawn_rows
from mgray.distributed import broadcast_array, failing_together, rank_and_world, sum_over_ranks

MAX_DISTANCE = 10  # events from an item to its successor
DISTANCE_WEIGHTS = np.arange(1, MAX_DISTANCE + 1) ** -0.5
MAX_SUCCESSORS = 1024  # of an item
MAX_PAIRS = 2**26  # of a table; where there are more, every item keeps fewer successors
PAIRS_IN_MEMORY = 2**25  # counted at once
MAX_COUNTED = 2**29  # pairs in all, by occurrence; beyond, a share of the histories is drawn


class Limits(NamedTuple):
    """Bounds of a table and of its counting."""

    successors: int = MAX_SUCCESSORS
    pairs: int = MAX_PAIRS
    in_memory: int = PAIRS_IN_MEMORY
    counted: int = MAX_COUNTED


class PairTable(NamedTuple):
    """Successors of each item with their weights, as compressed rows: row a is offsets[a]..offsets[a + 1]."""

    offsets: IntArray  # [V + 2]; row 0 (padding) is empty
    items: npt.NDArray[np.int32]  # [P] successors, rising within a row
    weights: npt.NDArray[np.float32]  # [P] sum over the occurrences of a pair of distance ** -0.5
    share: float = 1.0  # of the histories that were counted
    max_successors: int = MAX_SUCCESSORS  # that an item could keep: the best by weight, ties by the lower number
    num_found: int = 0  # different pairs before any was left out for Limits

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.offsets) - 2

    def csr(self) -> sparse.csr_matrix:
        """[V + 1, V + 1] view: row a, column b is the weight of b after a."""
        size = self.num_items + 1
        return sparse.csr_matrix((self.weights, self.items, self.offsets), shape=(size, size), copy=False)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The table as named arrays, for safetensors; `from_arrays` reads them."""
        kept = np.array([self.share, self.max_successors, self.num_found], np.float64)
        return {"offsets": self.offsets, "items": self.items, "weights": self.weights, "kept": kept}

    @staticmethod
    def from_arrays(arrays: Mapping[str, npt.NDArray[np.generic]]) -> "PairTable":
        share, successors, found = arrays["kept"].tolist()
        return PairTable(
            arrays["offsets"].astype(np.int64, copy=False),
            arrays["items"].astype(np.int32, copy=False),
            arrays["weights"].astype(np.float32, copy=False),
            share,
            int(successors),
            int(found),
        )


def log_ratios(counts: sparse.csr_matrix, tau: float) -> sparse.csr_matrix:
    """log(1 + C V / tau) of the weights C of pairs, [V + 1, V + 1] float32, on the same indices."""
    num_items = counts.shape[0] - 1
    data = np.log1p(counts.data * (np.float32(num_items) / np.float32(tau)), dtype=np.float32)
    return sparse.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape, copy=False)


class _Range(NamedTuple):
    """Successors of the items from `begin` on."""

    begin: int
    lengths: IntArray  # [n] successors of each item
    items: npt.NDArray[np.int32]  # [p] rising within an item
    weights: npt.NDArray[np.float32]  # [p]


class _Drawn(NamedTuple):
    """The histories of a dataset that are counted: all, or a share of its shards and of the rows of each.

    Users are in shards by a hash of their ids, so the first shards are a fair sample, and the others need no reading.
    """

    dataset: Dataset
    include_valid: bool
    num_shards: int  # from the first on
    row_share: float  # of each of them

    @staticmethod
    def of(dataset: Dataset, include_valid: bool, share: float) -> "_Drawn":
        num_shards = min(dataset.num_shards, int(np.ceil(share * dataset.num_shards)))
        return _Drawn(dataset, include_valid, num_shards, share * dataset.num_shards / max(1, num_shards))

    def read(self, shards: range) -> Iterator[tuple[npt.NDArray[np.int32], IntArray]]:
        """Items of each shard's training events, and how many events of its history follow each."""
        for shard in shards:
            histories = self.dataset.read(shard, with_users=False)
            if self.row_share < 1:
                histories = histories.of_rows(drawn_rows(shard, len(histories.train_end), self.row_share))
            yield _following(histories.training(self.include_valid))


def _following(histories: Histories) -> tuple[npt.NDArray[np.int32], IntArray]:
    ends = np.repeat(histories.offsets[1:], np.diff(histories.offsets))
    return histories.columns.items, np.minimum(ends - np.arange(len(ends)) - 1, MAX_DISTANCE)


def count_pairs(dataset: Dataset, include_valid: bool = False, limits: Limits | None = None) -> PairTable:
    """Count the pairs of the training part. Collective: call it on every rank. The result hangs on no rank count.

    include_valid: the validation part's events too.
    """
    limits = limits or Limits()
    rank, world_size = rank_and_world()
    with failing_together():
        share = min(1.0, limits.counted / max(1, _num_pairs(dataset, include_valid)))
        drawn = _Drawn.of(dataset, include_valid, share)
        totals = np.zeros(dataset.num_items + 1, np.float64)  # pairs that each item begins
        for items, following in drawn.read(range(rank, drawn.num_shards, world_size)):
            totals += np.bincount(items, following, len(totals))
    totals = sum_over_ranks(torch.from_numpy(totals)).numpy()
    edges = _edges(totals.astype(np.int64), limits.in_memory)
    with failing_together():
        found, kept = _count_own(drawn, totals, edges, limits)
    found = sum_over_ranks(torch.from_numpy(found)).numpy()
    most = _successors(found, limits)
    with failing_together():
        kept = {place: _cut(one, most) for place, one in kept.items()}
    table = _gather(kept, np.minimum(found, most), edges)
    return table._replace(share=share, max_successors=most, num_found=int(found.sum()))


def _count_own(
    drawn: _Drawn, totals: npt.NDArray[np.float64], edges: list[int], limits: Limits
) -> tuple[IntArray, dict[int, _Range]]:
    """Count this rank's ranges: different successors of each item, [V + 1], and the ranges by number."""
    found, kept = np.zeros(len(totals), np.int64), dict[int, _Range]()
    rank, world_size = rank_and_world()
    for number in range(rank, len(edges) - 1, world_size):
        begin, end = edges[number : number + 2]
        counted = _count_range(drawn, begin, end, int(totals[begin:end].sum()), limits.in_memory)
        found[begin:end] = counted.lengths
        # No item will keep more than this: what other ranges hold can only lower it.
        most = _successors(found, limits)
        kept[number] = _cut(counted, most)
        if sum(len(one.items) for one in kept.values()) > limits.pairs:
            kept = {place: _cut(one, most) for place, one in kept.items()}
    return found, kept


def _num_pairs(dataset: Dataset, include_valid: bool) -> int:
    """Pairs of the training part by occurrence."""
    total = 0
    for lengths in dataset.train_lengths(include_valid):
        short = np.minimum(lengths, MAX_DISTANCE)
        total += int((short * (short - 1) // 2 + (lengths - short) * MAX_DISTANCE).sum())
    return total


def _edges(totals: IntArray, in_memory: int) -> list[int]:
    """Borders of ranges of items with at most `in_memory` pairs each, or of one item. totals: [V + 1]."""
    before = np.concatenate([[0], np.cumsum(totals)])
    edges = [1]
    while edges[-1] < len(totals):
        last = int(np.searchsorted(before, before[edges[-1]] + in_memory, side="right")) - 1
        edges.append(max(edges[-1] + 1, last))
    return edges


def _count_range(drawn: _Drawn, begin: int, end: int, num_pairs: int, in_memory: int) -> _Range:
    """Successors of the items begin..end, which begin `num_pairs` pairs."""
    if num_pairs > in_memory:
        return _count_item(drawn, begin)
    # One number a pair and distance: a sort of it brings the same ones together, faster than one of records.
    size = (drawn.dataset.num_items + 1) * MAX_DISTANCE
    keys, filled = np.empty(num_pairs, np.int64), 0
    for items, following in drawn.read(range(drawn.num_shards)) if num_pairs else ():
        place = np.flatnonzero((items >= begin) & (items < end))
        for distance in range(1, MAX_DISTANCE + 1):
            place = place[following[place] >= distance]
            into = keys[filled : filled + len(place)]
            np.multiply(items[place] - begin, size, out=into, dtype=np.int64)
            into += items[place + distance].astype(np.int64) * MAX_DISTANCE + (distance - 1)
            filled += len(place)
    assert filled == num_pairs, "the shards are what they were"
    keys.sort()
    first = _first_places(keys)
    times = np.diff(first, append=num_pairs)
    keys = keys[first]
    weights = times * DISTANCE_WEIGHTS[keys % MAX_DISTANCE]
    keys //= MAX_DISTANCE
    first = _first_places(keys)
    owner, successor = np.divmod(keys[first], size // MAX_DISTANCE)
    total = np.add.reduceat(weights, first) if len(first) else weights
    lengths = np.bincount(owner, minlength=end - begin)
    return _Range(begin, lengths, successor.astype(np.int32), total.astype(np.float32))


def _first_places(keys: IntArray) -> IntArray:
    """Where each run of equal keys begins."""
    is_first = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    return np.flatnonzero(is_first)


def _count_item(drawn: _Drawn, item: int) -> _Range:
    """Successors of an item whose pairs are too many to hold: added up shard by shard."""
    total = np.zeros(drawn.dataset.num_items + 1)
    for items, following in drawn.read(range(drawn.num_shards)):
        place = np.flatnonzero(items == item)
        for distance, weight in enumerate(DISTANCE_WEIGHTS.tolist(), start=1):
            place = place[following[place] >= distance]
            total += weight * np.bincount(items[place + distance], minlength=len(total))
    successor = np.flatnonzero(total)
    return _Range(item, np.asarray([len(successor)]), successor.astype(np.int32), total[successor].astype(np.float32))


def _successors(found: IntArray, limits: Limits) -> int:
    """Successors that an item may keep so that all keep at most limits.pairs. found: of each item."""
    longest = np.bincount(np.minimum(found, limits.successors), minlength=limits.successors + 1)
    at_least = np.cumsum(longest[::-1])[::-1][1:]  # items with 1, 2, ... or more
    return int(np.searchsorted(np.cumsum(at_least), limits.pairs, side="right"))


def _cut(counted: _Range, most: int) -> _Range:
    """At most `most` successors an item: the best by weight, ties by the lower number."""
    if counted.lengths.max(initial=0) <= most:
        return counted
    first = np.cumsum(counted.lengths) - counted.lengths
    keep = np.ones(len(counted.items), np.bool_)
    is_long = counted.lengths > most
    keep[np.repeat(is_long, counted.lengths)] = False
    for row in np.flatnonzero(is_long):
        own = slice(first[row], first[row] + counted.lengths[row])
        best = np.argsort(-counted.weights[own], kind="stable")[:most]  # stable: the lower number first
        keep[first[row] + best] = True
    return _Range(counted.begin, np.minimum(counted.lengths, most), counted.items[keep], counted.weights[keep])


def _gather(kept: Mapping[int, _Range], lengths: IntArray, edges: list[int]) -> PairTable:
    """Put the ranges of all ranks together, on every rank. lengths: [V + 1] successors that each item keeps."""
    with failing_together():
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        items, weights = np.zeros(offsets[-1], np.int32), np.zeros(offsets[-1], np.float32)
    world_size = rank_and_world()[1]
    for number, (begin, end) in enumerate(pairwise(edges)):
        own = slice(int(offsets[begin]), int(offsets[end]))
        if number in kept:
            items[own], weights[own] = kept[number].items, kept[number].weights
        for array in (items, weights):
            broadcast_array(array[own], number % world_size)
    return PairTable(offsets, items, weights)

"""Ranking of the whole catalogue for a batch of histories, a block of items at a time.

A block's scores are worked out into one buffer, what may not be recommended is set to minus infinity, and the block is
reduced at once: to the number of scores that are not below the target's (its rank), to the best k so far, or to both.

Ties: a target's rank counts every score that is not smaller, NaN included, so a tie counts against the model. In a
list of the best k, the lower item number comes first among equal scores, but for those of the first items (as many as
a block has for a full batch): among them the order is torch.topk's, which torch does not define, but which is the same
for the same scores, whatever the batch.

Legend: `T` histories, `V` items (1..V; 0 is padding), `n` items of a block, `R` rows that are ranked at once, `N` pairs
of a history and an item.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from mgray.schema import PAD, UNKNOWN
from mgray.serve.score_blocks import ScoreBlocks, as_blocks

MISS = 2**31 - 1  # the rank of a target that cannot be recommended
assert UNKNOWN < PAD, "known targets are told by their sign"

GROUPS = 64  # scores of which the largest is looked at first, in a search for the best

IntArray = npt.NDArray[np.int64]
NO_PAIRS = np.zeros(0, np.int64)


class BlockSize(NamedTuple):
    items: int  # of a block
    scores: int  # held at once, [R, n]


CPU_BLOCK = BlockSize(2**14, 2**22)  # 16 MiB: 256 rows of 16,384 items
CUDA_BLOCK = BlockSize(2**17, 2**27)  # 512 MiB: 1,024 rows of 131,072 items, for fewer and larger launches


class LeftOut(NamedTuple):
    """Items that may not be recommended: those of single histories, in pairs, and those that nobody is to get."""

    rows: IntArray = NO_PAIRS  # [N] rising
    items: npt.NDArray[np.integer] = NO_PAIRS  # [N]
    blocked: IntArray | None = None  # item numbers

    @staticmethod
    def of(items: Sequence[npt.NDArray[np.integer] | Sequence[int]], blocked: IntArray | None = None) -> "LeftOut":
        """items: a list for each history."""
        rows = np.repeat(np.arange(len(items)), [len(own) for own in items])
        return LeftOut(rows, np.concatenate([NO_PAIRS, *items]).astype(np.int64, copy=False), blocked)

    def of_rows(self, begin: int, end: int) -> "LeftOut":
        """Items that the histories begin..end leave out; the histories are numbered from 0."""
        first, last = np.searchsorted(self.rows, [begin, end])
        return LeftOut(self.rows[first:last] - begin, self.items[first:last], self.blocked)


EVERYTHING_STAYS = LeftOut()


class Ranked(NamedTuple):
    """Ranking of a batch. None: not asked for."""

    ranks: Tensor | None  # [T] from 1; MISS where the target cannot be recommended
    items: Tensor | None  # [T, k] best first; PAD where there are no more
    scores: Tensor | None  # [T, k] minus infinity where there are no more


def block_size(device: torch.device) -> BlockSize:
    """Size of a full batch's blocks on a device."""
    return CUDA_BLOCK if device.type == "cuda" else CPU_BLOCK


def borders(num_columns: int, num_rows: int, size: BlockSize) -> list[int]:
    """Borders of the blocks for `num_rows` rows: where each begins, and the end.

    Where rows are few, blocks are wider by a whole factor. The last one takes a rest of less than half a block.
    """
    width = size.items * max(1, size.scores * 2 // (size.items * max(1, num_rows) * 3))
    num_blocks = max(1, (num_columns + width // 2) // width)
    return [*range(0, num_blocks * width, width), num_columns] if num_blocks > 1 else [0, num_columns]


def max_rows(num_columns: int, size: BlockSize) -> int:
    """Rows that may be ranked at once: their scores of a block, which has up to half as many items more, fit."""
    return max(1, size.scores // min(num_columns, size.items + size.items // 2))


def target_ranks(
    scores: ScoreBlocks | Tensor, targets: Tensor, left_out: LeftOut = EVERYTHING_STAYS, size: BlockSize | None = None
) -> Tensor:
    """Rank of each target, [T] from 1; MISS where it cannot be recommended. targets: [T] int64 in 1..V, or UNKNOWN."""
    ranks = rank_catalogue(scores, targets, None, left_out, size).ranks
    assert ranks is not None, "there are targets"
    return ranks


def top_k(
    scores: ScoreBlocks | Tensor, k: int, left_out: LeftOut = EVERYTHING_STAYS, size: BlockSize | None = None
) -> tuple[Tensor, Tensor]:
    """The k best items and their scores, [T, k] each, best first; PAD where there are no more."""
    _, items, values = rank_catalogue(scores, None, k, left_out, size)
    assert items is not None, "k is given"
    assert values is not None, "k is given"
    return items, values


@torch.no_grad()
def rank_catalogue(
    scores: ScoreBlocks | Tensor,
    targets: Tensor | None,
    k: int | None,
    left_out: LeftOut = EVERYTHING_STAYS,
    size: BlockSize | None = None,
) -> Ranked:
    """Ranks of the targets [T], where given, and the k best items, where k is, in one pass over the catalogue.

    size: None: by the device.
    """
    blocks = as_blocks(scores)
    size = size or block_size(blocks.device)
    found = []
    for begin, end in _even_runs(blocks.num_rows, max_rows(blocks.num_columns, size)):
        buffer = _Buffer(blocks.rows(slice(begin, end)), left_out.of_rows(begin, end), size)
        found.append(_rank_rows(buffer, None if targets is None else targets[begin:end], k))
    return Ranked(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*found, strict=True)))


def _even_runs(total: int, longest: int) -> Iterator[tuple[int, int]]:
    """0..total in runs of about equal length: a product with a row or two would be slow, and round in its own way."""
    num_runs = max(1, -(-total // longest))
    return pairwise(number * total // num_runs for number in range(num_runs + 1))


def _rank_rows(buffer: "_Buffer", targets: Tensor | None, k: int | None) -> Ranked:
    """rank_catalogue of the buffer's rows."""
    best = None if k is None else _Best(k, buffer.first)
    ranks = None
    if targets is not None:
        ranks = _count_ranks(buffer, targets, best)
    elif best is not None:
        for number in range(len(buffer.widths)):
            block = buffer.load(number)
            buffer.leave_out(number)
            best.add(block)
    return Ranked(ranks, *((None, None) if best is None else (best.items, best.scores)))


class _Block(NamedTuple):
    """Scores of the items from `begin` on."""

    begin: int
    scores: Tensor  # [R, n], a view of `padded`
    padded: Tensor  # [R, P] contiguous, minus infinity from n on; P is a multiple of GROUPS


class _Buffer:
    """Scores of R rows, a block at a time in the same memory."""

    def __init__(self, scores: ScoreBlocks, left_out: LeftOut, size: BlockSize) -> None:
        self.scores, self.edges = scores, borders(scores.num_columns, scores.num_rows, size)
        self.first = min(size.items, scores.num_columns)  # columns that torch.topk orders
        self.widths = [-(-(end - begin) // GROUPS) * GROUPS for begin, end in pairwise(self.edges)]
        self.memory = torch.empty(scores.num_rows * max(self.widths), dtype=scores.dtype, device=scores.device)
        self.places = self._places(left_out)
        self.blocked = self._blocked(left_out.blocked)

    def load(self, number: int) -> _Block:
        """Work out a block, over the one before it."""
        begin, end = self.edges[number : number + 2]
        padded = self._flat(number).view(self.scores.num_rows, self.widths[number])
        scores = padded[:, : end - begin]
        self.scores.fill(scores, slice(begin, end))
        padded[:, end - begin :] = -torch.inf
        return _Block(begin, scores, padded)

    def leave_out(self, number: int) -> None:
        """Set what may not be recommended to minus infinity."""
        flat = self._flat(number)
        if len(self.places[number]):
            flat.index_fill_(0, self.places[number], -torch.inf)
        if len(self.blocked[number]):
            flat.view(-1, self.widths[number]).index_fill_(1, self.blocked[number], -torch.inf)

    def _flat(self, number: int) -> Tensor:
        return self.memory[: self.scores.num_rows * self.widths[number]]

    def _places(self, left_out: LeftOut) -> list[Tensor]:
        """Places in `memory` of the pairs that are left out, by block."""
        num_blocks = len(self.widths)
        number = np.minimum(left_out.items // self.edges[1], num_blocks - 1).astype(np.int16)
        order = np.argsort(number, kind="stable")  # a radix sort, of int16
        counts = np.bincount(number, minlength=num_blocks)
        begins, widths = np.repeat(self.edges[:-1], counts), np.repeat(self.widths, counts)
        places = left_out.rows[order] * widths + left_out.items[order] - begins
        return list(torch.from_numpy(places).to(self.scores.device).split(counts.tolist()))

    def _blocked(self, blocked: IntArray | None) -> list[Tensor]:
        """Columns of each block that nobody is to get."""
        rising = NO_PAIRS if blocked is None else np.sort(blocked)
        cuts = np.searchsorted(rising, self.edges)
        return [
            torch.from_numpy(rising[first:last] - begin).to(self.scores.device)
            for (first, last), begin in zip(pairwise(cuts), self.edges[:-1], strict=True)
        ]


def _count_ranks(buffer: _Buffer, targets: Tensor, best: "_Best | None") -> Tensor:
    """Ranks [R]; `best` gets the blocks of the same pass.

    Blocks ahead of a target's own are compared with its score from a product of the targets alone, [R, R]. That need
    not round as the block's does: where it did not, the rows are counted again, by the scores that the blocks gave.
    """
    columns = targets.clamp(min=PAD)[:, None]
    own = _target_scores(buffer, columns)
    ranks = torch.zeros_like(targets)
    is_candidate, is_wrong = torch.zeros_like(columns, dtype=torch.bool), torch.zeros_like(columns, dtype=torch.bool)
    for number in range(len(buffer.widths)):
        block = buffer.load(number)
        place = columns - block.begin
        is_here = (place >= 0) & (place < block.scores.shape[1])
        place = torch.where(is_here, place, 0)
        exact = block.scores.gather(1, place)
        if block.begin:  # nothing was compared before the first block
            is_wrong |= is_here & (exact != own)
        own = torch.where(is_here, exact, own)
        buffer.leave_out(number)
        is_candidate |= is_here & (block.scores.gather(1, place) > -torch.inf)
        if best is not None:
            best.add(block)
        ranks += _count_not_smaller(block, own)
    if bool(is_wrong.any()):
        ranks.zero_()
        for number in range(len(buffer.widths)):
            block = buffer.load(number)
            buffer.leave_out(number)
            ranks += _count_not_smaller(block, own)
    return torch.where((targets > PAD) & is_candidate[:, 0], ranks, MISS)


def _target_scores(buffer: _Buffer, columns: Tensor) -> Tensor:
    """A first guess at the scores of the targets, [R, 1]; columns: [R, 1]."""
    scores = buffer.scores
    if len(buffer.widths) == 1:
        return torch.zeros(columns.shape, dtype=scores.dtype, device=scores.device)  # the only block tells
    # A product of fewer columns would round in a way of its own.
    items = F.pad(columns[:, 0], (0, max(0, GROUPS - len(columns))), value=PAD)
    out = torch.empty(len(columns), len(items), dtype=scores.dtype, device=scores.device)
    scores.fill(out, items)
    return out.diagonal()[:, None].clone()


def _count_not_smaller(block: _Block, own: Tensor) -> Tensor:
    """Scores of each row that are not below its own one, [R]; the block's are lost. own: [R, 1]."""
    # "Not smaller", instead of "greater or equal", counts a NaN against the model too. The sum of ones is exact, and
    # a comparison in place many times as fast as one that makes a mask to be added up.
    return block.padded.shape[1] - block.padded.lt_(own).sum(1).long()


class _Best:
    """The best k of each row among the blocks so far."""

    def __init__(self, k: int, first: int) -> None:
        """first: columns of the first block whose order is torch.topk's."""
        self.k, self.first = k, first
        self.scores = self.items = torch.empty(0)  # [R, k] from the first block on

    def add(self, block: _Block) -> None:
        if not block.begin:
            top = block.scores[:, : self.first].topk(min(self.k, self.first), dim=1)
            missing = (0, self.k - top.values.shape[1])
            self.scores = F.pad(top.values, missing, value=-torch.inf)
            self.items = F.pad(top.indices, missing, value=PAD).where(self.scores > -torch.inf, PAD)
        if block.begin + block.scores.shape[1] > self.first:
            self._merge(block, *self._find(block))

    def _find(self, block: _Block) -> tuple[Tensor, Tensor]:
        """(rows, columns) of all scores that come into the lists, or are NaN, in order."""
        num_rows, width = block.padded.shape
        last, grouped = self.scores[:, -1:], block.padded.view(num_rows, GROUPS, width // GROUPS)
        # Nearly all groups of GROUPS scores have none, which their largest tells.
        rows, groups = (~(grouped.amax(1) <= last)).nonzero(as_tuple=True)
        if len(rows) * GROUPS * 8 > block.padded.numel():
            rows, columns = self._find_many(block)
        else:
            found, member = (~(grouped[rows, :, groups] <= last[rows])).nonzero(as_tuple=True)
            flat = (rows[found] * width + member * grouped.shape[2] + groups[found]).sort().values
            rows, columns = flat // width, flat % width
        if block.begin:
            return rows, columns
        is_new = columns >= self.first
        return rows[is_new], columns[is_new]

    def _find_many(self, block: _Block) -> tuple[Tensor, Tensor]:
        """_find where few of the lists' scores are left: a block's own k best are at least as good as its k-th."""
        scores = block.scores
        least = scores.topk(min(self.k, scores.shape[1]), dim=1).values[:, -1:].maximum(self.scores[:, -1:])
        rows, columns = (~((scores < least) | (scores == -torch.inf))).nonzero(as_tuple=True)
        return rows, columns

    def _merge(self, block: _Block, rows: Tensor, columns: Tensor) -> None:
        """Equal scores: those of the lists first, then those of the block in their order."""
        if not len(rows):
            return
        counts = torch.bincount(rows, minlength=len(self.scores))
        place = self.k + torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        scores = F.pad(self.scores, (0, int(counts.max())), value=-torch.inf)
        items = F.pad(self.items, (0, int(counts.max())), value=PAD)
        scores[rows, place] = block.scores[rows, columns]
        items[rows, place] = columns + block.begin
        order = scores.sort(dim=1, descending=True, stable=True)
        self.scores, self.items = order.values[:, : self.k], items.gather(1, order.indices[:, : self.k])

"""Ranks the whole catalogue for a batch of histories, a block of items at a time.

A block's scores are worked out into one buffer, what may not be recommended is set to minus infinity, and the block is
reduced at once: to the number of scores that are not below the target's (its rank), to the best k so far, or to both.

Ties: a target's rank counts every score that is not smaller, NaN included, so a tie counts against the model. In a
list of the best k, equal scores come in the order of the blocks; among those of one block after the first, the lower
item number comes first, and within the first block the order is torch.topk's, which torch does not define but which
is the same for the same scores. The borders of the blocks depend on V and the device alone, never on the batch.

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
    """What may not be recommended: pairs of a history and an item, and items that nobody is to get."""

    rows: IntArray = NO_PAIRS  # [N] rising
    items: npt.NDArray[np.integer] = NO_PAIRS  # [N]
    blocked: IntArray | None = None  # item numbers

    @staticmethod
    def of(items: Sequence[npt.NDArray[np.integer] | Sequence[int]], blocked: IntArray | None = None) -> "LeftOut":
        """items: of each history, those that it leaves out."""
        rows = np.repeat(np.arange(len(items)), [len(own) for own in items])
        return LeftOut(rows, np.concatenate([NO_PAIRS, *items]).astype(np.int64, copy=False), blocked)

    def of_rows(self, begin: int, end: int) -> "LeftOut":
        """That of the histories begin..end, numbered from 0."""
        first, last = np.searchsorted(self.rows, [begin, end])
        return LeftOut(self.rows[first:last] - begin, self.items[first:last], self.blocked)


EVERYTHING_STAYS = LeftOut()


class Ranked(NamedTuple):
    """What was asked for of a batch; None: it was not."""

    ranks: Tensor | None  # [T] from 1; MISS where the target cannot be recommended
    items: Tensor | None  # [T, k] best first; PAD where there are no more
    scores: Tensor | None  # [T, k] minus infinity where there are no more


def block_size(device: torch.device) -> BlockSize:
    return CUDA_BLOCK if device.type == "cuda" else CPU_BLOCK


def borders(num_columns: int, width: int) -> list[int]:
    """Where blocks begin, and the end; the last one takes a rest of less than half a block."""
    num_blocks = max(1, (num_columns + width // 2) // width)
    return [*range(0, num_blocks * width, width), num_columns] if num_blocks > 1 else [0, num_columns]


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
    edges = borders(blocks.num_columns, size.items)
    max_rows = max(1, size.scores // max(end - begin for begin, end in pairwise(edges)))
    found = []
    for begin, end in _even_runs(blocks.num_rows, max_rows):
        own = None if targets is None else targets[begin:end]
        found.append(_rank_rows(blocks.rows(slice(begin, end)), own, k, left_out.of_rows(begin, end), edges))
    return Ranked(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*found, strict=True)))


def _even_runs(total: int, longest: int) -> Iterator[tuple[int, int]]:
    """0..total in runs of about equal length: a product with a row or two would be slow, and round in its own way."""
    num_runs = max(1, -(-total // longest))
    return pairwise(number * total // num_runs for number in range(num_runs + 1))


def _rank_rows(
    scores: ScoreBlocks, targets: Tensor | None, k: int | None, left_out: LeftOut, edges: list[int]
) -> Ranked:
    """rank_catalogue of rows whose blocks fit the buffer."""
    buffer = _Buffer(scores, left_out, edges)
    best = None if k is None else _Best(k)
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

    def __init__(self, scores: ScoreBlocks, left_out: LeftOut, edges: list[int]) -> None:
        self.scores, self.edges = scores, edges
        self.widths = [-(-(end - begin) // GROUPS) * GROUPS for begin, end in pairwise(edges)]
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

    Blocks ahead of a target's own are compared with its score from a product of its own, [R, R]. That rounds as the
    block's does but where R is small; rows where it did not are counted again, by the score that the block gave.
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
    out = torch.empty(len(columns), len(columns), dtype=scores.dtype, device=scores.device)
    scores.fill(out, columns[:, 0])
    return out.diagonal()[:, None].clone()


def _count_not_smaller(block: _Block, own: Tensor) -> Tensor:
    """Scores of each row that are not below its own one, [R]; the block's are lost. own: [R, 1]."""
    # "Not smaller", instead of "greater or equal", counts a NaN against the model too. The sum of ones is exact, and
    # a comparison in place many times as fast as one that makes a mask to be added up.
    return block.padded.shape[1] - block.padded.lt_(own).sum(1).long()


class _Best:
    """The best k of each row among the blocks so far."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.scores = self.items = torch.empty(0)  # [R, k] from the first block on

    def add(self, block: _Block) -> None:
        if not block.begin:
            self.scores, self.items = _best_of_block(block, self.k)
            self.items = torch.where(self.scores > -torch.inf, self.items, PAD)
            return
        rows, columns = self._above(block)
        if rows is None:
            self._merge(*_best_of_block(block, self.k))
        elif len(rows):
            counts = torch.bincount(rows, minlength=len(self.scores))
            within = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
            scores = self.scores.new_full((len(self.scores), int(counts.max())), -torch.inf)
            items = torch.full_like(scores, PAD, dtype=torch.int64)
            scores[rows, within] = block.scores[rows, columns]
            items[rows, within] = columns + block.begin
            self._merge(scores, items)

    def _above(self, block: _Block) -> tuple[Tensor | None, Tensor]:
        """(rows, columns) of the scores above the rows' last best ones, or NaN, in order; None: they are too many.

        Nearly all groups of GROUPS scores have none, which their largest tells.
        """
        num_rows, width = block.padded.shape
        last, grouped = self.scores[:, -1:], block.padded.view(num_rows, GROUPS, width // GROUPS)
        rows, groups = (~(grouped.amax(1) <= last)).nonzero(as_tuple=True)
        if len(rows) * GROUPS * 8 > block.padded.numel():
            return None, rows
        found, member = (~(grouped[rows, :, groups] <= last[rows])).nonzero(as_tuple=True)
        flat = (rows[found] * width + member * grouped.shape[2] + groups[found]).sort().values
        return flat // width, flat % width

    def _merge(self, scores: Tensor, items: Tensor) -> None:
        """Equal scores: those of earlier blocks first, then the others in the order that they are given in."""
        scores, items = torch.cat([self.scores, scores], dim=1), torch.cat([self.items, items], dim=1)
        order = scores.sort(dim=1, descending=True, stable=True)
        self.scores, self.items = order.values[:, : self.k], items.gather(1, order.indices[:, : self.k])


def _best_of_block(block: _Block, k: int) -> tuple[Tensor, Tensor]:
    """(scores, items) of the best k, [R, k], best first; minus infinity and PAD where the block has no more items."""
    top = block.scores.topk(min(k, block.scores.shape[1]), dim=1)
    scores, items = top.values, top.indices + block.begin
    missing = k - scores.shape[1]
    return F.pad(scores, (0, missing), value=-torch.inf), F.pad(items, (0, missing), value=PAD)

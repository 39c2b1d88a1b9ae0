"""Negatives of a step: sampled items that together represent the vocabulary, each with the number that it stands for.

Legend: `T` targets, `D` width, `V` items (1..V; 0 is padding), `N` negatives, `M` items of a pool, `C` candidates, `E`
items seen, over all users of a batch of `B` rows of `L` positions, `H` hard negatives. Where the item table is trained
by rows (mgray.train.item_table), items are the rows 0..U - 1 of a step's small table, and V is U - 1.

A draw is a set. An item that is in it with probability pi stands for 1 / pi items, whatever the way of drawing
(Horvitz & Thompson 1952): the sum over the drawn of exp(score) / pi estimates the sum over all items without bias. For
softmax this is the log-Q correction of Bengio & Senecal 2008.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mgray.config import TrainConfig
from mgray.schema import PAD

POOL_FACTOR = 4  # items among which hard negatives are looked for, as a multiple of N
MIN_POOL_TARGETS = 256  # whose mistakes say which are hard: so many at least, or all where there are fewer


class Negatives(NamedTuple):
    """N distinct items, and the number of items that each stands for: `weight * exp(log_ratio)`."""

    items: Tensor  # [N] int64 in 1..V
    weight: float
    log_ratio: Tensor | None = None  # [N] float32; None: all stand for `weight` items

    def to(self, device: torch.device) -> "Negatives":
        ratio = None if self.log_ratio is None else self.log_ratio.to(device)
        return Negatives(self.items.to(device), self.weight, ratio)

    def columns(self, num_items: int) -> Tensor:
        """[V + 1] int64: the index of each item in `items`, its column of the scores, or -1."""
        column_of = torch.full((num_items + 1,), -1, dtype=torch.int64, device=self.items.device)
        column_of[self.items] = torch.arange(len(self.items), device=self.items.device)
        return column_of


class Seen(NamedTuple):
    """Items that a user has when a target comes: items[e] is no negative of the targets begin[e] .. end[e] - 1 of T.

    One row of items a, b, a, c with a target after each of the first three, T = 3: a is seen by the targets 0, 1, 2 and
    b by 1, 2, so items (a, b), begin (0, 1), end (3, 3).
    """

    items: Tensor  # [E] int64 in 1..V
    begin: Tensor  # [E] int64
    end: Tensor  # [E] int64

    def every(self, step: int) -> "Seen":
        """The same for the targets 0, step, 2 step, ..., renumbered."""
        return Seen(self.items, (self.begin + step - 1) // step, (self.end + step - 1) // step)

    def within(self, columns: Tensor, targets: slice, block: slice) -> "SeenPart":
        """The excluded cells inside one tile, [targets, block], of the [T, C] scores.

        columns: [E] int64, the candidate that each item is, or -1.
        """
        width, column = block.stop - block.start, columns - block.start
        begin, end = self.begin.clamp(min=targets.start), self.end.clamp(max=targets.stop)
        inside = ((begin < end) & (column >= 0) & (column < width)).nonzero()[:, 0]
        column, begin, count = column[inside], begin[inside] - targets.start, (end - begin)[inside]
        # A long history was mostly seen before the tile begins: whole columns, for listing their cells one by one would
        # cost more than the scores themselves.
        is_whole = count == targets.stop - targets.start
        some = ~is_whole
        count, first = count[some], begin[some] * width + column[some]
        # An entry is a column's run of places, `width` apart; the runs follow each other in one range.
        ends = count.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        offset = (first - width * (ends - count)).repeat_interleave(count, output_size=total)
        return SeenPart(column[is_whole], offset + width * torch.arange(total, device=columns.device))


class SeenPart(NamedTuple):
    """The cells of a tile of scores [targets, block] whose items were seen."""

    columns: Tensor  # [n] int64, columns of the items that all the targets have seen
    places: Tensor  # [m] int64, places in the flat tile of all other cells


def seen_items(items: Tensor, is_target: Tensor) -> Seen:
    """Items seen before each target. items: [B, L] inputs, is_target: [B, L] bool, the positions that have one."""
    before = is_target.flatten().cumsum(0)  # number of targets at or before this position
    end = before.view(is_target.shape)[:, -1:].expand_as(items)
    begin = before.view(is_target.shape) - is_target.long()
    # Only an item's first event of a row is kept: it excludes all later targets, and repeats would only cost memory.
    key = items + torch.arange(len(items), device=items.device)[:, None] * (items.max() + 1)
    ordered, order = key.flatten().sort(stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    first = order[is_first & (items.flatten()[order] != PAD)]
    return Seen(items.flatten()[first], begin.flatten()[first], end.flatten()[first])


def draw_items(num_items: int, num_negatives: int, generator: torch.Generator) -> Tensor:
    """At most N distinct item numbers in 1..V, [N] int64, uniform; every item where N >= V."""
    if num_negatives >= num_items:
        return torch.arange(1, num_items + 1)
    if num_items <= 16 * num_negatives:
        return torch.randperm(num_items, generator=generator)[:num_negatives] + 1
    # Among many items a repeat is rare, and a permutation of all of them expensive.
    found: Tensor = torch.randint(1, num_items + 1, (num_negatives,), generator=generator).unique()
    return found


def draw_uniform(num_items: int, num_negatives: int, generator: torch.Generator) -> Negatives:
    """`draw_items` as negatives, each of which stands for V / N items."""
    items = draw_items(num_items, num_negatives, generator)
    return Negatives(items, num_items / len(items))


def max_drawn(config: TrainConfig) -> int:
    """Items that a step draws at most: its negatives, or the pool of hard ones. Targets are not counted."""
    if config.loss == "softmax":
        return 0
    return config.num_negatives * (POOL_FACTOR if config.hard_negatives else 1) + config.popular_negatives


class StepNegatives:
    """Draws the negatives of a step as the config says; the same on all ranks, in-batch and hard ones aside."""

    def __init__(self, config: TrainConfig, item_counts: npt.NDArray[np.int64]) -> None:
        """item_counts: [V + 1] training events, index 0 is padding."""
        self.config, self.num_items = config, len(item_counts) - 1
        self.mixed = None
        if config.popular_negatives or config.in_batch_negatives:
            self.mixed = MixedSampler(
                item_counts, config.num_negatives, config.popular_negatives, config.in_batch_negatives
            )

    def draw(self, targets: Tensor, generator: torch.Generator) -> Negatives | None:
        """targets: [B, L] int64, the rank's own -> negatives, or the candidates for hard ones; None for softmax."""
        config = self.config
        if config.loss == "softmax":
            return None
        if self.mixed is not None:
            return self.mixed.draw(targets[targets != PAD], generator)
        if not config.hard_negatives:
            return draw_uniform(self.num_items, config.num_negatives, generator)
        pool = draw_uniform(self.num_items, POOL_FACTOR * config.num_negatives, generator)
        order = torch.randperm(len(pool.items), generator=generator)
        return pool._replace(items=pool.items[order])


class MixedSampler:
    """The union of a uniform draw, a draw by popularity, and the batch's own targets (Yang et al. 2020, "Mixed negative
    sampling").

    Uniform draws see the long tail, the others the items that the model confuses most; the probability that an item
    is in the union is known, so the mixture is unbiased for these draws. For in-batch targets it is approximate: their
    probability is that of T independent draws by training popularity.
    """

    def __init__(self, item_counts: npt.NDArray[np.int64], num_uniform: int, num_popular: int, in_batch: bool) -> None:
        """item_counts: [V + 1] training events, index 0 is padding; num_popular: draws, repeats among them."""
        self.num_items = len(item_counts) - 1
        self.num_uniform, self.num_popular, self.in_batch = num_uniform, num_popular, in_batch
        popularity = torch.from_numpy(item_counts).double()
        popularity[0] = 0
        self.popularity = popularity / popularity.sum()
        self.cumulative = self.popularity.cumsum(0)

    def draw(self, targets: Tensor, generator: torch.Generator) -> Negatives:
        """targets: [T] int64, the batch's; read only where in-batch negatives are on."""
        uniform = draw_items(self.num_items, self.num_uniform, generator)
        draws, parts = 0, [uniform]
        if self.num_popular:
            points = torch.rand(self.num_popular, dtype=torch.float64, generator=generator) * self.cumulative[-1]
            parts.append(torch.searchsorted(self.cumulative, points, right=True))
            draws += self.num_popular
        if self.in_batch:
            parts.append(targets)
            draws += len(targets)
        items = torch.cat(parts).unique()
        absent = torch.exp(draws * torch.log1p(-self.popularity[items])) * (1 - len(uniform) / self.num_items)
        log_weight = -torch.log1p(-absent)
        mean = float(log_weight.mean())
        return Negatives(items, math.exp(mean), (log_weight - mean).float())


@torch.no_grad()
def take_hardest(
    pool: Negatives,
    num_negatives: int,
    hard_share: float,
    interest: Tensor,
    embedding: Tensor,
    targets: Tensor,
    seen: Seen | None = None,
) -> Negatives:
    """N of the pool: those that the model mistakes most for the target, and a uniform draw of the others.

    pool: M items in random order, all of one weight; interest: [T, D], embedding: [V + 1, D], targets: [T] int64;
    seen: of the same targets.
    A mistake is measured by the probability that the model gives to an item among the pool and the target, summed over
    a sample of MIN_POOL_TARGETS targets or more, where what was seen is no mistake. Relative to the pool, hard
    negatives weigh 1 and the rest (M - H) / (N - H): given the pool the estimate is unbiased, for the uniform draw does
    not depend on which are hard.
    """
    size = len(pool.items)
    num_hard = min(round(hard_share * num_negatives), num_negatives - 1)
    if size <= num_negatives or num_hard == 0 or len(interest) == 0:
        kept = min(size, num_negatives)
        return Negatives(pool.items[:kept], pool.weight * size / kept)
    step = max(1, len(interest) // MIN_POOL_TARGETS)
    sample, own = interest[::step].float(), targets[::step]
    positive = (sample * embedding[own]).sum(1, keepdim=True)
    logits = (sample @ embedding[pool.items].T).masked_fill(own[:, None] == pool.items, -torch.inf)
    if seen is not None:
        columns = pool.columns(len(embedding) - 1)[seen.items]
        part = seen.every(step).within(columns, slice(0, len(sample)), slice(0, size))
        logits.index_fill_(1, part.columns, -torch.inf).view(-1).index_fill_(0, part.places, -torch.inf)
    mistaken = torch.cat([logits, positive], dim=1).softmax(1)[:, :-1].sum(0)
    order = mistaken.topk(num_hard).indices
    is_hard = torch.zeros(size, dtype=torch.bool, device=order.device)
    is_hard[order] = True
    others = (~is_hard).nonzero()[: num_negatives - num_hard, 0]
    stands_for = (size - num_hard) / len(others)
    ratio = interest.new_zeros(num_negatives, dtype=torch.float32)
    ratio[:num_hard] = -math.log(stands_for)
    return Negatives(pool.items[torch.cat([order, others])], pool.weight * stands_for, ratio)

"""Scores many histories at once: whole arrays in, whole arrays out, and no more than a batch of scores in memory.

Legend: `U` users, `E` events, `V` items of the model (1..V; 0 is padding), `B` users of a batch, `L` positions.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from mgray.batch import padded_length
from mgray.engine import ModelScorer
from mgray.errors import InputError
from mgray.schema import PAD, PREDICTION_SCHEMA, UNKNOWN

IntArray = npt.NDArray[np.int64]
Items = npt.NDArray[np.int32]

MAX_BATCH_SCORES = 2**22  # scores [B, V + 1] held at once: 16 MiB, which stays near a core's cache


class RankedLists(NamedTuple):
    items: Items  # [U, k] item numbers, best first; PAD where a list is shorter
    scores: npt.NDArray[np.float32]  # [U, k]
    is_fallback: npt.NDArray[np.bool_]  # [U] no known item: the list is the popularity list

    @property
    def lengths(self) -> IntArray:
        return (self.items != PAD).sum(1)


def translate(items: Items, offsets: IntArray, numbers: Items) -> tuple[Items, IntArray]:
    """Histories in another vocabulary, events without a number there left out.

    items: [E] of 1..V or UNKNOWN, offsets: [U + 1], numbers: what `recommend.number_map` gave.
    """
    translated = numbers[items]
    known = translated != UNKNOWN
    before = np.concatenate([[0], np.cumsum(known)])
    return translated[known], before[offsets]


def plan_batches(lengths: IntArray, batch_events: int, max_rows: int) -> Iterator[IntArray]:
    """Rows [B] of like lengths together, longest first: at most `batch_events` padded events and `max_rows` rows."""
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        longest = padded_length(int(lengths[order[begin]]))
        end = begin + max(1, min(max_rows, batch_events // longest))
        yield order[begin:end]
        begin = end


def pad_rows(items: Items, offsets: IntArray, rows: IntArray, max_length: int) -> Tensor:
    """The last `max_length` items of each of `rows` -> [B, L] int64, 0 = pad, on the left, as `batch.left_pad`."""
    ends = offsets[rows + 1]
    lengths = np.minimum(ends - offsets[rows], max_length)
    length = padded_length(int(lengths.max(initial=1)))
    columns = np.arange(-length, 0)
    padded = np.full((len(rows), length), PAD, dtype=np.int64)
    is_real = columns >= -lengths[:, None]
    padded[is_real] = items[(ends[:, None] + columns)[is_real]]
    return torch.from_numpy(padded)


def flat_places(offsets: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Every event of `rows`: (its row's index in `rows`, its place in `items`), each [events of the rows]."""
    lengths = offsets[rows + 1] - offsets[rows]
    owner = np.repeat(np.arange(len(rows)), lengths)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return owner, offsets[rows][owner] + within


@torch.no_grad()
def rank_lists(
    scorer: ModelScorer,
    items: Items,
    offsets: IntArray,
    k: int,
    remove_seen: bool = True,
    blocked: IntArray | None = None,
    batch_events: int = 8192,
) -> RankedLists:
    """Top k of the full catalogue for each history; `blocked` item numbers are in nobody's list.

    items: [E] of 1..V, oldest first, offsets: [U + 1]. A list is shorter than k only where the catalogue has no more.
    Raises InputError where the model gives a score that is not a number.
    """
    num_users, num_items = len(offsets) - 1, scorer.model.num_items
    lengths = np.diff(offsets)
    width = min(k, num_items)
    lists = RankedLists(
        np.full((num_users, width), PAD, dtype=np.int32),
        np.zeros((num_users, width), dtype=np.float32),
        lengths == 0,
    )
    blocked_columns = None if blocked is None else torch.from_numpy(blocked).to(scorer.device)
    max_rows = max(1, MAX_BATCH_SCORES // (num_items + 1))
    for rows in plan_batches(np.minimum(lengths, scorer.max_length), batch_events, max_rows):
        scores = scorer.score_padded(pad_rows(items, offsets, rows, scorer.max_length))
        if remove_seen:
            owner, places = flat_places(offsets, rows)
            seen = torch.from_numpy(items[places].astype(np.int64)).to(scorer.device)
            scores[torch.from_numpy(owner).to(scorer.device), seen] = -torch.inf
        if blocked_columns is not None:
            scores.index_fill_(1, blocked_columns, -torch.inf)
        top = scores.topk(width, dim=1)
        values = top.values.cpu().numpy()
        if np.isnan(values).any():
            raise InputError("the model gives scores that are not numbers; train it again, or choose another --model")
        lists.scores[rows] = values
        lists.items[rows] = np.where(values > -np.inf, top.indices.cpu().numpy(), PAD)
    return lists


def prediction_table(lists: RankedLists, user_ids: pa.Array, item_ids: pa.Array) -> pa.Table:
    """PREDICTION_SCHEMA, users in their order, best item first. user_ids: [U], item_ids: [V], large_string."""
    is_row = lists.items != PAD
    num_users, width = lists.items.shape
    owner = np.repeat(np.arange(num_users), lists.lengths)
    rank = np.broadcast_to(np.arange(1, width + 1, dtype=np.int32), is_row.shape)[is_row]
    columns = [
        user_ids.take(pa.array(owner)),
        item_ids.take(pa.array(lists.items[is_row] - 1)),
        pa.array(rank),
        pa.array(lists.scores[is_row]),
    ]
    return pa.table(columns, schema=PREDICTION_SCHEMA)

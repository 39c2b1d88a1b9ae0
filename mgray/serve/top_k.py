"""Top-k lists of many histories: whole arrays in, whole arrays out, one block of scores in memory at a time.

Legend: `U` users, `E` events, `V` items of the model (1..V; 0 is padding), `B` users of a batch, `L` positions.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from mgray.data.columns import Columns
from mgray.data.inputs import Inputs
from mgray.data.padding import flat_places, pad_spans, plan_batches
from mgray.errors import InputError
from mgray.schema import PAD, PREDICTION_SCHEMA, OptionalColumn
from mgray.serve.catalogue import LeftOut, top_k
from mgray.serve.score_blocks import ScoreBlocks
from mgray.serve.scorer import ModelScorer
from mgray.serve.translation import Translation

IntArray = npt.NDArray[np.int64]
Items = npt.NDArray[np.int32]

BATCH_EVENTS = 8192  # padded events of a batch, where the caller does not say


class RankedLists(NamedTuple):
    items: Items  # [U, k] item numbers, best first; PAD where a list is shorter
    scores: npt.NDArray[np.float32]  # [U, k]
    is_fallback: npt.NDArray[np.bool_]  # [U] no known item: the list is the popularity list

    @property
    def lengths(self) -> IntArray:
        found: IntArray = (self.items != PAD).sum(1)
        return found


def translate(columns: Columns, offsets: IntArray, translation: Translation) -> tuple[Columns, IntArray]:
    """Histories in the model's numbers, without the events on unknown items. columns: [E], offsets: [U + 1]."""
    translated, known = translation(columns)
    before = np.concatenate([[0], np.cumsum(known)])
    return translated, before[offsets]


def pad_rows(
    columns: Columns, offsets: IntArray, rows: IntArray, max_length: int, names: Collection[OptionalColumn] = ()
) -> Inputs:
    """The last `max_length` events of `rows` -> [B, L], as `padding.left_pad`. names: the event columns to read."""
    ends = offsets[rows + 1]
    return pad_spans(columns, np.maximum(offsets[rows], ends - max_length), ends, names)


def best_items(scores: ScoreBlocks, k: int, left_out: LeftOut) -> tuple[Items, npt.NDArray[np.float32]]:
    """The k best items of B histories and their scores, [B, k] each, best first; PAD where there are no more.

    Raises InputError where a score is not a number.
    """
    items, values = (found.cpu().numpy() for found in top_k(scores, k, left_out))
    if np.isnan(values).any():
        raise InputError("the model gives scores that are not numbers; train it again, or choose another --model")
    return items.astype(np.int32), values


@torch.no_grad()
def rank_lists(
    scorer: ModelScorer,
    columns: Columns,
    offsets: IntArray,
    k: int,
    remove_seen: bool = True,
    blocked: IntArray | None = None,
    batch_events: int = BATCH_EVENTS,
) -> RankedLists:
    """Top k of the full catalogue for each history; `blocked` item numbers are in nobody's list.

    columns: [E] on items 1..V, oldest first, offsets: [U + 1]. A list is shorter than k where no more items may be
    recommended. Raises InputError where the model gives a score that is not a number.
    """
    num_users, num_items = len(offsets) - 1, scorer.model.num_items
    lengths = np.diff(offsets)
    width = min(k, num_items)
    lists = RankedLists(
        np.full((num_users, width), PAD, dtype=np.int32),
        np.zeros((num_users, width), dtype=np.float32),
        lengths == 0,
    )
    for rows in plan_batches(np.minimum(lengths, scorer.max_length), batch_events):
        scores = scorer.score_padded(pad_rows(columns, offsets, rows, scorer.max_length, scorer.columns))
        left_out = LeftOut(blocked=blocked)
        if remove_seen:
            owner, places = flat_places(offsets[rows], offsets[rows + 1])
            left_out = LeftOut(owner, columns.items[places], blocked)
        lists.items[rows], lists.scores[rows] = best_items(scores, width, left_out)
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

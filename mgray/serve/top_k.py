"""Top-k lists of many histories: whole arrays in, whole arrays out, one batch of scores in memory at a time.

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
from mgray.serve.scorer import ModelScorer
from mgray.serve.translation import Translation

IntArray = npt.NDArray[np.int64]
Items = npt.NDArray[np.int32]

BATCH_EVENTS = 8192  # padded events of a batch, where the caller does not say
MAX_BATCH_SCORES = 2**22  # scores [B, V + 1] held at once: 16 MiB, which stays near a core's cache


class RankedLists(NamedTuple):
    items: Items  # [U, k] item numbers, best first; PAD where a list is shorter
    scores: npt.NDArray[np.float32]  # [U, k]
    is_fallback: npt.NDArray[np.bool_]  # [U] no known item: the list is the popularity list

    @property
    def lengths(self) -> IntArray:
        return (self.items != PAD).sum(1)


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


def best_items(scores: torch.Tensor, k: int) -> tuple[Items, npt.NDArray[np.float32]]:
    """The k best items of each row and their scores, [B, k] each, best first; PAD where there are no more.

    scores: [B, V + 1], minus infinity where an item is not to be recommended. Raises InputError where a score is not a
    number.
    """
    top = scores.topk(k, dim=1)
    values = top.values.cpu().numpy()
    if np.isnan(values).any():
        raise InputError("the model gives scores that are not numbers; train it again, or choose another --model")
    return np.where(values > -np.inf, top.indices.cpu().numpy(), PAD).astype(np.int32), values


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
    blocked_columns = None if blocked is None else torch.from_numpy(blocked).to(scorer.device)
    max_rows = max(1, MAX_BATCH_SCORES // (num_items + 1))
    for rows in plan_batches(np.minimum(lengths, scorer.max_length), batch_events, max_rows):
        scores = scorer.score_padded(pad_rows(columns, offsets, rows, scorer.max_length, scorer.columns))
        if remove_seen:
            owner, places = flat_places(offsets[rows], offsets[rows + 1])
            seen = torch.from_numpy(columns.items[places].astype(np.int64)).to(scorer.device)
            scores[torch.from_numpy(owner).to(scorer.device), seen] = -torch.inf
        if blocked_columns is not None:
            scores.index_fill_(1, blocked_columns, -torch.inf)
        lists.items[rows], lists.scores[rows] = best_items(scores, width)
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

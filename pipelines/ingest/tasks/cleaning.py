"""The clean task: the rules over the events of one bucket's users, whole histories in memory."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mgray.ingest import clean
from mgray.ingest.clean import Events
from mgray.schema import EVENT_TYPE, NUMBER_COLUMNS
from pipelines.ingest.arrow_files import read_batch
from pipelines.ingest.context import IngestContext, Rules
from pipelines.ingest.id_notes import places_of
from pipelines.ingest.results import CleanedBucket, TwoWays
from pipelines.ingest.tasks.histories import CLEAN, SHORT, finish_bucket, stage_users
from pipelines.ingest.tasks.items import count_two_ways, item_codes, merge_batches, save_counts
from pipelines.ingest.tasks.units import check_shared


class _Bucket(NamedTuple):
    """The events of a bucket's users."""

    events: Events  # in the order of the log
    ids: pa.Array  # of the users, sorted
    hashes: npt.NDArray[np.uint64]  # of the ids
    two_ways: TwoWays


def clean_bucket(context: IngestContext, bucket: int) -> CleanedBucket:
    """Applies the rules to one bucket's events and stages what they leave."""
    check_shared(context)
    found = _read_bucket(context, bucket)
    rules, num_users = context.rules, len(found.ids)
    events, dropped = _apply_rules(found.events, rules, num_users)
    lengths = np.bincount(events.user, minlength=num_users)
    # The k-core takes users out later, and by then those without any event are no longer there.
    is_short = lengths < (1 if context.has_core else rules.min_user_events)
    stage_users(context, SHORT, bucket, events, found.ids, found.hashes, is_short)
    if not context.has_core:
        dropped["short_users"] = int(lengths[is_short].sum())
        events = events.take(~is_short[events.user]) if dropped["short_users"] else events
    stage_users(context, CLEAN, bucket, events, found.ids, found.hashes, ~is_short)
    if context.has_core:
        save_counts(context, "first", bucket, events.item)
    return CleanedBucket(
        read=len(found.events.user),
        dropped=dropped,
        kept=len(events.user),
        two_ways=found.two_ways,
        met=places_of(context.odd_users, found.ids),
        finished=None if context.has_core else finish_bucket(context, bucket),
    )


def _read_bucket(context: IngestContext, bucket: int) -> _Bucket:
    rows = [read_batch(context.piece_file("rows", piece), bucket) for piece in context.pieces]
    users = [read_batch(context.piece_file("users", piece), bucket) for piece in context.pieces]
    merged = merge_batches(users)
    by_id = pc.sort_indices(merged.ids).to_numpy()
    rank = np.empty(len(by_id), np.int32)
    rank[by_id] = np.arange(len(by_id), dtype=np.int32)
    codes = rank[merged.codes]
    count, features = sum(batch.num_rows for batch in rows), len(context.layers.features)
    events = Events(
        user=np.empty(count, np.int32),
        item=np.empty(count, np.int32),
        time=np.empty(count, np.float64),
        numbers={column.name: np.full(count, np.nan, column.dtype) for column in NUMBER_COLUMNS},
        event_type=np.full(count, -1, np.int16),
        features=np.empty((count, features), np.float64),
    )
    at = first_user = 0
    for index, (batch, own_users) in enumerate(zip(rows, users, strict=True)):
        here = slice(at, at + batch.num_rows)
        events.user[here] = codes[first_user:][batch["user"].to_numpy()]
        events.item[here] = item_codes(context, index)[batch["item"].to_numpy()]
        events.time[here] = batch["time"].to_numpy()
        for column in NUMBER_COLUMNS:
            if column.role in batch.schema.names:
                events.numbers[column.name][here] = batch[column.role].to_numpy()
        if EVENT_TYPE in batch.schema.names:
            own = np.asarray((-1, *context.event_types[index]), np.int16)
            events.event_type[here] = own[batch[EVENT_TYPE].to_numpy() + 1]
        for place in range(features):
            events.features[here, place] = batch[f"feature_{place}"].to_numpy()
        at, first_user = at + batch.num_rows, first_user + own_users.num_rows
    ids = merged.ids.take(pa.array(by_id))
    return _Bucket(events, ids, merged.hashes[by_id], count_two_ways(users, codes, ids))


def _apply_rules(events: Events, rules: Rules, num_users: int) -> tuple[Events, dict[str, int]]:
    """The events by user and time that the rules leave, and how many events each rule that is on dropped."""
    dropped: dict[str, int] = {}

    def keep(rule: str, chosen: clean.Mask) -> Events:
        dropped[rule] = len(chosen) - int(np.count_nonzero(chosen))
        return events.take(chosen) if dropped[rule] else events

    if rules.min_timestamp is not None or rules.max_timestamp is not None:
        events = keep("timestamps", ~_is_outside(events.time, rules.min_timestamp, rules.max_timestamp))
    if rules.min_rating is not None or rules.max_rating is not None:
        # no rating, NaN, is not outside
        events = keep("ratings", ~_is_outside(events.numbers["ratings"], rules.min_rating, rules.max_rating))
    events = events.take(clean.order_events(events.user, events.time))
    if rules.duplicates:
        events = keep("duplicates", clean.are_first(events))
    if rules.max_user_events_per_day is not None:
        offsets = clean.user_offsets(events.user, num_users)
        bots = clean.are_bots(offsets, events.time, rules.max_user_events_per_day)
        events = keep("bots", ~bots[events.user])
    if rules.repeat_window_s is not None:
        events = keep("repeats", ~clean.are_repeats(events, rules.repeat_window_s))
    return events, dropped


def _is_outside(values: npt.NDArray[np.floating], low: float | None, high: float | None) -> clean.Mask:
    return (values < (-np.inf if low is None else low)) | (values > (np.inf if high is None else high))

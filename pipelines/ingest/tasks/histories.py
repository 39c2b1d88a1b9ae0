"""Histories of a bucket's users between the rules and the shards: staged, cut by the k-core, split, measured."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mgray.data import moments
from mgray.data.columns import parts_of
from mgray.ingest import clean
from mgray.ingest.clean import Events
from mgray.schema import EVENT_TYPE, NUMBER_COLUMNS, TEST, TRAIN, VALID
from pipelines.ingest.arrow_files import read_batch, save_array, write_batches
from pipelines.ingest.context import IngestContext
from pipelines.ingest.results import CoreTurn, FinishedBucket
from pipelines.ingest.tasks.items import save_counts

TIME_BINS = 60  # bins of the plot of events over time


class StagedKind(NamedTuple):
    """Names of the two work files that hold some users of a bucket."""

    events: str
    users: str


CLEAN = StagedKind("clean", "users")  # users with events enough, before any k-core
SHORT = StagedKind("short", "short_users")  # users with too few


class Histories(NamedTuple):
    """Users of a bucket and their events. Legend: `U` users, `E` events; user u has offsets[u]..offsets[u + 1]."""

    rows: pa.RecordBatch  # [E] item (code), time, rating, ... of NUMBER_COLUMNS, event_type, feature_0, ...
    ids: pa.Array  # [U] sorted
    hashes: npt.NDArray[np.uint64]  # [U] of the ids
    offsets: clean.Ints  # [U + 1]

    def column(self, name: str) -> npt.NDArray[Any]:
        return self.rows[name].to_numpy()

    @property
    def features(self) -> npt.NDArray[np.float64]:
        names = [name for name in self.rows.schema.names if name.startswith("feature_")]
        return np.column_stack([self.column(name) for name in names]) if names else np.zeros((len(self.rows), 0))


class Split(NamedTuple):
    """The split of some histories."""

    part: npt.NDArray[np.int8]  # [E] TRAIN, VALID or TEST
    train_end: npt.NDArray[np.int32]  # [U]
    valid_end: npt.NDArray[np.int32]  # [U]


def stage_users(
    context: IngestContext,
    kind: StagedKind,
    bucket: int,
    events: Events,
    ids: pa.Array,
    hashes: npt.NDArray[np.uint64],
    chosen: npt.NDArray[np.bool_],
) -> None:
    """Stages some users of a bucket, with the lengths of their histories, and their events. chosen: [U]."""
    lengths, places = np.bincount(events.user, minlength=len(ids)), np.flatnonzero(chosen)
    events = events if len(places) == len(ids) else events.take(chosen[events.user])
    columns: dict[str, npt.NDArray[Any]] = {"item": events.item, "time": events.time}
    columns |= {column.role: events.numbers[column.name] for column in NUMBER_COLUMNS}
    columns[EVENT_TYPE] = events.event_type
    columns |= {f"feature_{place}": events.features[:, place] for place in range(events.features.shape[1])}
    rows = pa.record_batch({name: pa.array(column) for name, column in columns.items()})
    users = pa.record_batch(
        {"id": ids.take(pa.array(places)), "hash": pa.array(hashes[places]), "length": pa.array(lengths[places])}
    )
    write_batches(context.work_file(kind.events, bucket), rows.schema, [rows])
    write_batches(context.work_file(kind.users, bucket), users.schema, [users])


def _read_staged(context: IngestContext, kind: StagedKind, bucket: int) -> Histories:
    """Reads what `stage_users` left."""
    rows = read_batch(context.work_file(kind.events, bucket), 0)
    users = read_batch(context.work_file(kind.users, bucket), 0)
    offsets = np.concatenate([[0], np.cumsum(users["length"].to_numpy())])
    return Histories(rows, users["id"], users["hash"].to_numpy(), offsets)


def _kept(context: IngestContext, bucket: int) -> clean.Mask:
    """Which of a bucket's CLEAN events the last turn of the k-core kept."""
    return np.load(context.work_file("kept", bucket, "npy"))


def read_measured(context: IngestContext, bucket: int) -> Histories:
    """The users of a bucket who train and are measured, with their events."""
    staged = _read_staged(context, CLEAN, bucket)
    if not context.has_core:
        return staged
    kept = _kept(context, bucket)
    lengths = clean.sums(staged.offsets, kept)
    left = lengths > 0
    offsets = np.concatenate([[0], np.cumsum(lengths[left])])
    ids = staged.ids.filter(pa.array(left))
    return Histories(staged.rows.filter(pa.array(kept)), ids, staged.hashes[left], offsets)


def read_short(context: IngestContext, bucket: int) -> Histories:
    """The other users of a bucket, with all that the cleaning rules leave of their events."""
    short = _read_staged(context, SHORT, bucket)
    if not context.has_core:
        return short
    staged = _read_staged(context, CLEAN, bucket)
    out = clean.sums(staged.offsets, _kept(context, bucket)) == 0
    lengths = np.diff(staged.offsets)
    rows = staged.rows.filter(pa.array(np.repeat(out, lengths)))
    ids = pa.concat_arrays([short.ids, staged.ids.filter(pa.array(out))])
    order = pc.sort_indices(ids)
    # Those of `short` have no event here, so the events stay in the order of their users.
    lengths = np.concatenate([np.zeros(len(short.ids), np.int64), lengths[out]])[order.to_numpy()]
    hashes = np.concatenate([short.hashes, staged.hashes[out]])[order.to_numpy()]
    return Histories(rows, ids.take(order), hashes, np.concatenate([[0], np.cumsum(lengths)]))


def split_histories(context: IngestContext, histories: Histories) -> Split:
    rules, time = context.rules, histories.column("time")
    ends = clean.split_ends(histories.offsets, time, rules.split, rules.valid_from, rules.test_from)
    if rules.split == "random":
        return Split(clean.random_parts(histories.offsets, time, histories.hashes), *ends)
    return Split(parts_of(histories.offsets, *ends), *ends)


def core_bucket(context: IngestContext, turn: int, bucket: int) -> CoreTurn:
    """One turn of the k-core: drops events on items that are out, then those of users with too few left."""
    staged = _read_staged(context, CLEAN, bucket)
    item = staged.column("item")
    alive = np.load(context.alive_file(turn), mmap_mode="r")
    kept, on_alive = clean.core_step(staged.offsets, item, alive, context.rules.min_user_events)
    save_array(context.work_file("kept", bucket, "npy"), kept)
    save_counts(context, "core", bucket, item[kept])
    return CoreTurn(
        rows=len(item),
        kept=int(np.count_nonzero(kept)),
        dropped={
            "rare_items": int(np.count_nonzero(~on_alive)),
            "short_users": int(np.count_nonzero(on_alive & ~kept)),
        },
    )


def finish_bucket(context: IngestContext, bucket: int) -> FinishedBucket:
    """Splits a bucket's histories, counts the items and event types of the training part, measures its features."""
    measured, short = read_measured(context, bucket), read_short(context, bucket)
    time, item, kinds = measured.column("time"), measured.column("item"), measured.column(EVENT_TYPE)
    part = split_histories(context, measured).part
    train = part == TRAIN
    save_counts(context, "counts", bucket, item[train])
    lengths, length_users = np.unique(np.diff(measured.offsets), return_counts=True)
    first, last = context.times
    bins = ((time - first) * (TIME_BINS / max(last - first, 1e-9))).astype(np.int64)
    return FinishedBucket(
        written=len(item),
        users=len(measured.ids),
        short_users=len(short.ids),
        part_events=[int(np.count_nonzero(part == one)) for one in (TRAIN, VALID, TEST)],
        first_timestamp=float(time.min()) if len(time) else None,
        last_timestamp=float(time.max()) if len(time) else None,
        number_columns=[
            column.name
            for column in NUMBER_COLUMNS
            if not all(np.isnan(users.column(column.role)).all() for users in (measured, short))
        ],
        lengths=lengths.tolist(),
        length_users=length_users.tolist(),
        by_time=np.bincount(np.clip(bins, 0, TIME_BINS - 1), minlength=TIME_BINS).tolist(),
        event_types=np.bincount(kinds[kinds >= 0]).tolist(),
        train_event_types=np.bincount(kinds[train & (kinds >= 0)]).tolist(),
        feature_moments=[column.tolist() for column in moments.measure(measured.features[train])],
    )

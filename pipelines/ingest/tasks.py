"""The tasks of an ingest, each a function of (job, index): what a Ray Data worker runs. Results are JSON values.

Errors that the user can mend come back as {"error": text}: a traceback through Ray would bury them. A task that Ray, or
the next run after a kill, runs again overwrites its own work and nothing else; one that is done is not run again.
"""

import hashlib
import itertools
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mgray.data import moments
from mgray.data.columns import parts_of
from mgray.errors import InputError
from mgray.ingest import clean as histories
from mgray.ingest.clean import Events
from mgray.ingest.hashing import merge_ids
from mgray.schema import TEST, TRAIN, UNKNOWN, VALID
from pipelines.ingest.id_notes import TwoWays, places_of
from pipelines.ingest.source.blocks import AS_IT_IS, BOTH_WAYS, Block
from pipelines.ingest.source.layouts import Layout, layout_error, read_layout
from pipelines.ingest.source.log_files import READ_ERRORS, LogFile, read_error
from pipelines.ingest.source.ranges import Range, inspect_file
from pipelines.ingest.source.readers import read_range
from pipelines.ingest.staging import (
    Layers,
    PieceWriter,
    commit_unit,
    read_batch,
    read_batch_again,
    read_done,
    write_batches,
)
from pipelines.runtime.versions import place_error

ROW_GROUP_USERS = 1024  # a reader of a shard holds one row group at a time
BLOCK_BYTES = 32 << 20  # of decompressed text that a task holds at a time
# Half the time and two thirds of the bytes of Parquet's defaults, which try a dictionary of distinct times first.
HISTORY_ENCODING: dict[str, Any] = {
    "use_dictionary": ["ratings.list.element", "event_types.list.element", "parts.list.element"],
    "column_encoding": {"timestamps.list.element": "BYTE_STREAM_SPLIT"},
}
TIME_BINS = 60  # of the picture of events over time
RESULTS_FORM = 3  # of what tasks return: a run that goes on after a kill does not read what an older mgray left

_SHARED = "logs and --data.out must be on storage that every node sees under the same path"

Result = dict[str, Any]


class Unit(NamedTuple):
    """What one read task reads: ranges, in the order of the log."""

    key: str  # digest of the bytes and of the settings that shape its staged rows
    parts: tuple[tuple[LogFile, Layout, Range], ...]


class Rules(NamedTuple):
    """What of mgray.config a clean task needs: CleanConfig's fields, and the split's."""

    min_timestamp: float | None
    max_timestamp: float | None
    min_rating: float | None
    max_rating: float | None
    duplicates: bool
    max_user_events_per_day: int | None
    repeat_window_s: float | None
    min_item_events: int
    min_user_events: int
    split: histories.SplitKind
    valid_from: float | None = None
    test_from: float | None = None


class IngestJob(NamedTuple):
    """What every task of one ingest knows."""

    folder: Path  # the version's staging folder, on storage that every node sees
    staged: Path  # the folder of staged units
    units: tuple[Unit, ...]
    layers: Layers
    unit: str  # of timestamps that are numbers
    rules: Rules
    pieces: tuple[tuple[str, int, int], ...] = ()  # (unit's key, number in it, rows), in the order of the log
    pieces_key: str = ""  # of what the pieces are made from: another run's codes are not these
    partition_starts: tuple[int, ...] = ()  # code of each item partition's first item
    num_items: int = 0
    event_types: tuple[tuple[int, ...], ...] = ()  # a piece's own number of an event type -> the log's code
    event_type_numbers: tuple[int, ...] = ()  # the log's code of an event type -> the version's number
    times: tuple[float, float] = (0.0, 0.0)  # first and last of the log
    odd_users: tuple[str, ...] = ()  # the usual spellings of users that are numbers in another one
    has_ratings: bool = False
    has_outside_items: bool = False
    features: tuple[tuple[float, float], ...] = ()  # mean, standard deviation

    def work(self, kind: str, index: int, suffix: str = "arrow") -> Path:
        return self.folder / "work" / f"{kind}-{index:05d}.{suffix}"

    @property
    def has_core(self) -> bool:
        return self.rules.min_item_events > 1


def guarded(task: Callable[..., Result], *args: Any) -> Result:
    """The task's result, or {"error": text} where the user can mend what went wrong."""
    try:
        return task(*args)
    except InputError as error:
        return {"error": str(error)}
    except OSError as error:
        mendable = place_error(error)
        if mendable is None:
            raise
        return {"error": str(mendable)}


def once(done: Path, task: Callable[..., Result], *args: Any) -> Result:
    """The result that an earlier run of this task left in the file `done`, else the task's, which is left there."""
    try:
        found: Result = json.loads(done.read_text())
    except (FileNotFoundError, ValueError):
        found = guarded(task, *args)
        if "error" not in found:
            draft = done.with_name(f".{done.name}.{uuid.uuid4().hex}")
            draft.write_text(json.dumps(found))
            os.replace(draft, done)
    return found


def scan_files(files: tuple[LogFile, ...], columns: Any, range_bytes: int) -> Result:
    """Layout, digest, size and ranges of each file."""
    found = []
    for file in files:
        layout = read_layout(file, columns)
        try:
            one = inspect_file(file, layout, range_bytes)
        except READ_ERRORS as error:
            raise layout_error(file, error) from error
        found.append({"bytes": one.bytes, "sha256": one.sha256, "layout": layout._asdict(), "ranges": one.ranges})
    return {"files": found, "bytes": sum(one["bytes"] for one in found)}


def read_unit(job: IngestJob, index: int) -> Result:
    """Parses one unit and stages its events, unless that was done before."""
    unit = job.units[index]
    _check_shared(job)
    folder = job.staged / unit.key
    found = read_done(folder)
    if found is not None:
        return found
    assert unit.parts, f"{unit.key}: the staged events of an append are there, or it was refused"
    draft = job.staged / f".{unit.key}.{uuid.uuid4().hex}"
    draft.mkdir(parents=True)
    try:
        writer = PieceWriter(draft, job.layers)
        for file, layout, part in unit.parts:
            for block in _blocks(job, file, layout, part):
                writer.add(block, file.name)
        done = writer.close()
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return commit_unit(draft, folder, done)


def _blocks(job: IngestJob, file: LogFile, layout: Layout, part: Range) -> Iterator[Block]:
    """read_range, whose errors are the log's: those of staging are the output place's."""
    blocks = read_range(file, layout, part, job.unit, BLOCK_BYTES)
    while True:
        try:
            block = next(blocks, None)
        except READ_ERRORS as error:
            raise read_error(file, error, "cannot be read") from error
        if block is None:
            return
        yield block


def sort_times(job: IngestJob, piece: int) -> Result:
    """The sorted times of a piece's events, for the quantiles of a temporal split."""
    key, number, _ = job.pieces[piece]
    with pa.memory_map(str(job.staged / key / f"rows-{number}.arrow")) as source:
        times = np.sort(pa.ipc.open_file(source).read_all()["time"].to_numpy())
    batch = pa.record_batch({"time": times})
    write_batches(job.work("times", piece), batch.schema, [batch])
    return {}


def merge_items(job: IngestJob, partition: int) -> Result:
    """The distinct items of one partition, and for each piece the code in it of each of the piece's own items."""
    batches = [read_batch(job.staged / key / f"items-{number}.arrow", partition) for key, number, _ in job.pieces]
    table = pa.Table.from_batches(batch.select(["hash", "id"]) for batch in batches)
    merged = merge_ids(table["hash"].to_numpy(), table["id"].cast(pa.large_string()).combine_chunks())
    schema = pa.schema([("id", pa.large_string())])
    write_batches(job.work("items", partition), schema, [pa.record_batch({"id": merged.ids})])
    codes = pa.record_batch({"code": merged.codes})
    starts = np.concatenate([[0], np.cumsum([batch.num_rows for batch in batches])]).tolist()
    slices = (codes.slice(low, high - low) for low, high in itertools.pairwise(starts))
    write_batches(job.work("codes", partition), codes.schema, slices)
    return {"items": len(merged.ids), "two_ways": _two_ways(batches, merged.codes, merged.ids)}


def _two_ways(batches: list[pa.RecordBatch], codes: npt.NDArray[np.int32], ids: pa.Array) -> TwoWays:
    """Counts the ids [D] that the pieces spell both as they are and in another way. codes: [E], of the batches' ids."""
    if not any("spelled" in batch.schema.names for batch in batches):
        return TwoWays(0, None)
    ways = np.zeros(len(ids), np.uint8)
    np.bitwise_or.at(ways, codes, np.concatenate([_ways(batch) for batch in batches]))
    found = np.flatnonzero(ways == BOTH_WAYS)
    return TwoWays(len(found), ids[int(found[0])].as_py() if len(found) else None)


def _ways(batch: pa.RecordBatch) -> npt.NDArray[np.uint8]:
    is_noted = "spelled" in batch.schema.names
    return batch["spelled"].to_numpy() if is_noted else np.full(batch.num_rows, AS_IT_IS, np.uint8)


def _item_codes(job: IngestJob, piece: int) -> npt.NDArray[np.int32]:
    """The run's code of each of a piece's own items: a map of a file that the first task to ask leaves for the others.

    Else every bucket would open every partition's file for every piece: the cube of the log's size.
    """
    path = job.folder / "work" / f"codes-{job.pieces_key}-{piece:05d}.bin"
    try:
        return np.memmap(path, np.int32, "r")
    except FileNotFoundError:
        parts = [
            read_batch_again(job.work("codes", partition), piece)["code"].to_numpy() + np.int32(start)
            for partition, start in enumerate(job.partition_starts)
        ]
        codes = np.concatenate(parts)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        codes.tofile(draft)
        os.replace(draft, path)
        return codes


def _read_bucket(job: IngestJob, bucket: int) -> tuple[Events, pa.Array, npt.NDArray[np.uint64], TwoWays]:
    """The events of a bucket's users in the order of the log; the users' ids and hashes, in the order of the ids."""
    rows = [read_batch(job.staged / key / f"rows-{number}.arrow", bucket) for key, number, _ in job.pieces]
    users = [read_batch(job.staged / key / f"users-{number}.arrow", bucket) for key, number, _ in job.pieces]
    table = pa.Table.from_batches(batch.select(["hash", "id"]) for batch in users)
    merged = merge_ids(table["hash"].to_numpy(), table["id"].cast(pa.large_string()).combine_chunks())
    by_id = pc.sort_indices(merged.ids).to_numpy()
    rank = np.empty(len(by_id), np.int32)
    rank[by_id] = np.arange(len(by_id), dtype=np.int32)
    codes = rank[merged.codes]
    count, features = sum(batch.num_rows for batch in rows), len(job.layers.features)
    events = Events(
        np.empty(count, np.int32),
        np.empty(count, np.int32),
        np.empty(count, np.float64),
        np.full(count, np.nan, np.float32),
        np.full(count, -1, np.int16),
        np.empty((count, features), np.float64),
    )
    at = first_user = 0
    for piece, (batch, own_users) in enumerate(zip(rows, users, strict=True)):
        here = slice(at, at + batch.num_rows)
        events.user[here] = codes[first_user:][batch["user"].to_numpy()]
        events.item[here] = _item_codes(job, piece)[batch["item"].to_numpy()]
        events.time[here] = batch["time"].to_numpy()
        if "rating" in batch.schema.names:
            events.rating[here] = batch["rating"].to_numpy()
        if "event_type" in batch.schema.names:
            own = np.asarray((-1, *job.event_types[piece]), np.int16)
            events.event_type[here] = own[batch["event_type"].to_numpy() + 1]
        for place in range(features):
            events.features[here, place] = batch[f"feature_{place}"].to_numpy()
        at, first_user = at + batch.num_rows, first_user + own_users.num_rows
    ids = merged.ids.take(pa.array(by_id))
    return events, ids, merged.hashes[by_id], _two_ways(users, codes, ids)


def clean_bucket(job: IngestJob, bucket: int) -> Result:
    """Applies the rules to the events of one bucket's users, whole histories in memory, and stages the result."""
    _check_shared(job)
    events, ids, hashes, two_ways = _read_bucket(job, bucket)
    rules = job.rules
    dropped: dict[str, int] = {}
    read = len(events.user)

    def drop(rule: str, keep: npt.NDArray[np.bool_]) -> None:
        nonlocal events
        lost = len(keep) - int(np.count_nonzero(keep))
        dropped[rule] = dropped.get(rule, 0) + lost
        if lost:
            events = events.take(keep)

    if rules.min_timestamp is not None or rules.max_timestamp is not None:
        low, high = rules.min_timestamp, rules.max_timestamp
        drop(
            "timestamps",
            (events.time >= (-np.inf if low is None else low)) & (events.time <= (np.inf if high is None else high)),
        )
    if rules.min_rating is not None or rules.max_rating is not None:
        low, high = rules.min_rating, rules.max_rating
        wrong = (events.rating < (-np.inf if low is None else low)) | (
            events.rating > (np.inf if high is None else high)
        )
        drop("ratings", ~wrong)  # no rating, NaN, is neither
    events = events.take(histories.order_events(events.user, events.time))
    if rules.duplicates:
        drop("duplicates", histories.are_first(events))
    if rules.max_user_events_per_day is not None:
        offsets = histories.user_offsets(events.user, len(ids))
        bots = histories.are_bots(offsets, events.time, rules.max_user_events_per_day)
        drop("bots", ~bots[events.user])
    if rules.repeat_window_s is not None:
        drop("repeats", ~histories.are_repeats(events, rules.repeat_window_s))
    lengths = np.bincount(events.user, minlength=len(ids))
    # The k-core takes users out later, and by then those without any event are no longer there.
    is_short = lengths < (1 if job.has_core else rules.min_user_events)
    _stage_users(job, ("short", "short_users"), bucket, events, ids, hashes, is_short)
    if not job.has_core:
        drop("short_users", ~is_short[events.user])
    _stage_users(job, ("clean", "users"), bucket, events, ids, hashes, ~is_short)
    if job.has_core:
        _save_counts(job, "first", bucket, events.item)
    result: Result = {"read": read, "rows": read, "dropped": dropped, "kept": len(events.user)}
    result |= {"two_ways": two_ways, "met": places_of(job.odd_users, ids)}
    return result if job.has_core else result | finish_bucket(job, bucket)


def _stage_users(
    job: IngestJob,
    kinds: tuple[str, str],
    bucket: int,
    events: Events,
    ids: pa.Array,
    hashes: npt.NDArray[np.uint64],
    chosen: npt.NDArray[np.bool_],
) -> None:
    """Stages some users of a bucket, with the lengths of their histories, and their events. chosen: [U].

    kinds: names of the file of events and of the file of users.
    """
    lengths, places = np.bincount(events.user, minlength=len(ids)), np.flatnonzero(chosen)
    events = events if len(places) == len(ids) else events.take(chosen[events.user])
    columns = {"item": events.item, "time": events.time, "rating": events.rating, "event_type": events.event_type}
    columns |= {f"feature_{place}": events.features[:, place] for place in range(events.features.shape[1])}
    rows = pa.record_batch({name: pa.array(column) for name, column in columns.items()})
    users = pa.record_batch(
        {"id": ids.take(pa.array(places)), "hash": pa.array(hashes[places]), "length": pa.array(lengths[places])}
    )
    write_batches(job.work(kinds[0], bucket), rows.schema, [rows])
    write_batches(job.work(kinds[1], bucket), users.schema, [users])


class _Clean(NamedTuple):
    rows: pa.RecordBatch
    ids: pa.Array
    hashes: npt.NDArray[np.uint64]
    offsets: histories.Ints

    def column(self, name: str) -> npt.NDArray[Any]:
        return self.rows[name].to_numpy()

    @property
    def features(self) -> npt.NDArray[np.float64]:
        names = [name for name in self.rows.schema.names if name.startswith("feature_")]
        return np.column_stack([self.column(name) for name in names]) if names else np.zeros((len(self.rows), 0))


def _read_staged(job: IngestJob, kinds: tuple[str, str], bucket: int) -> _Clean:
    """What `_stage_users` left."""
    rows, users = read_batch(job.work(kinds[0], bucket), 0), read_batch(job.work(kinds[1], bucket), 0)
    offsets = np.concatenate([[0], np.cumsum(users["length"].to_numpy())])
    return _Clean(rows, users["id"], users["hash"].to_numpy(), offsets)


def _read_clean(job: IngestJob, bucket: int) -> _Clean:
    """The users of a bucket who train and are measured, and their events: of the k-core what its last turn kept."""
    staged = _read_staged(job, ("clean", "users"), bucket)
    if not job.has_core:
        return staged
    kept = np.load(job.work("kept", bucket, "npy"))
    lengths = histories.sums(staged.offsets, kept)
    left = lengths > 0
    offsets = np.concatenate([[0], np.cumsum(lengths[left])])
    return _Clean(staged.rows.filter(pa.array(kept)), staged.ids.filter(pa.array(left)), staged.hashes[left], offsets)


def _read_short(job: IngestJob, bucket: int) -> _Clean:
    """The other users of a bucket, in the order of the ids, with all that the cleaning rules leave of their events."""
    short = _read_staged(job, ("short", "short_users"), bucket)
    if not job.has_core:
        return short
    staged = _read_staged(job, ("clean", "users"), bucket)
    out = histories.sums(staged.offsets, np.load(job.work("kept", bucket, "npy"))) == 0
    lengths = np.diff(staged.offsets)
    rows = staged.rows.filter(pa.array(np.repeat(out, lengths)))
    ids = pa.concat_arrays([short.ids, staged.ids.filter(pa.array(out))])
    order = pc.sort_indices(ids)
    # Those of `short` have no event here, so the events stay in the order of their users.
    lengths = np.concatenate([np.zeros(len(short.ids), np.int64), lengths[out]])[order.to_numpy()]
    hashes = np.concatenate([short.hashes, staged.hashes[out]])[order.to_numpy()]
    return _Clean(rows, ids.take(order), hashes, np.concatenate([[0], np.cumsum(lengths)]))


def core_bucket(job: IngestJob, turn: int, bucket: int) -> Result:
    """One turn of the k-core: events on items that are out, then those of users with too few left."""
    rows, users = read_batch(job.work("clean", bucket), 0), read_batch(job.work("users", bucket), 0)
    offsets = np.concatenate([[0], np.cumsum(users["length"].to_numpy())])
    item = rows["item"].to_numpy()
    alive = np.load(job.folder / "work" / f"alive-{turn}.npy", mmap_mode="r")
    kept, on_alive = histories.core_step(offsets, item, alive, job.rules.min_user_events)
    _save(job.work("kept", bucket, "npy"), kept)
    _save_counts(job, "core", bucket, item[kept])
    return {
        "rows": len(item),
        "kept": int(np.count_nonzero(kept)),
        "dropped": {
            "rare_items": int(np.count_nonzero(~on_alive)),
            "short_users": int(np.count_nonzero(on_alive & ~kept)),
        },
    }


def finish_bucket(job: IngestJob, bucket: int) -> Result:
    """Splits a bucket's histories, counts the items and event types of the training part, measures its features."""
    clean = _read_clean(job, bucket)
    time, item = clean.column("time"), clean.column("item")
    parts, _, _ = _parts(job, clean)
    train = parts == TRAIN
    _save_counts(job, "counts", bucket, item[train])
    measured = moments.measure(clean.features[train])
    lengths, length_counts = np.unique(np.diff(clean.offsets), return_counts=True)
    first, last = job.times
    bins = ((time - first) * (TIME_BINS / max(last - first, 1e-9))).astype(np.int64)
    kinds = clean.column("event_type")
    short = _read_short(job, bucket)
    ratings = (clean.column("rating"), short.column("rating"))
    return {
        "written": len(item),
        "users": len(clean.ids),
        "short_users": len(short.ids),
        "parts": [int(np.count_nonzero(parts == part)) for part in (TRAIN, VALID, TEST)],
        "first_timestamp": float(time.min()) if len(time) else None,
        "last_timestamp": float(time.max()) if len(time) else None,
        "has_ratings": not all(bool(np.isnan(column).all()) for column in ratings),
        "lengths": [lengths.tolist(), length_counts.tolist()],
        "by_time": np.bincount(np.clip(bins, 0, TIME_BINS - 1), minlength=TIME_BINS).tolist(),
        "event_types": np.bincount(kinds[kinds >= 0]).tolist(),
        "train_event_types": np.bincount(kinds[train & (kinds >= 0)]).tolist(),
        "moments": [column.tolist() for column in measured],
    }


def _parts(job: IngestJob, clean: _Clean) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(part of each event, train_end, valid_end)."""
    rules, time = job.rules, clean.column("time")
    train_end, valid_end = histories.split_ends(clean.offsets, time, rules.split, rules.valid_from, rules.test_from)
    if rules.split == "random":
        return histories.random_parts(clean.offsets, time, clean.hashes), train_end, valid_end
    return parts_of(clean.offsets, train_end, valid_end), train_end, valid_end


def write_shard(job: IngestJob, bucket: int) -> Result:
    """Encodes one bucket's histories by the vocabulary and writes them as Parquet shards named by their digests.

    `shard` holds the users who train and are measured, `short_shard` the others; None where there is no such user.
    """
    clean, short = _read_clean(job, bucket), _read_short(job, bucket)
    nothing = np.zeros(len(short.ids), np.int32)  # of a short user no event trains, validates or tests
    return {
        "shard": _write_histories(job, clean, f"part-{bucket:05d}", *_parts(job, clean)),
        "short_shard": _write_histories(
            job, short, f"short-{bucket:05d}", np.full(len(short.rows), TEST, np.int8), nothing, nothing
        ),
        "rows": len(clean.rows),
    }


def _write_histories(
    job: IngestJob,
    users: _Clean,
    name: str,
    parts: npt.NDArray[np.int8],
    train_end: npt.NDArray[np.int32],
    valid_end: npt.NDArray[np.int32],
) -> Result | None:
    if not len(users.ids):
        return None
    codes = users.column("item")
    numbers = np.load(job.folder / "work" / "numbers.npy", mmap_mode="r")[codes]
    outside = np.load(job.folder / "work" / "outside.npy", mmap_mode="r")[codes] if job.has_outside_items else None
    kinds = np.asarray((-1, *job.event_type_numbers), np.int16)[users.column("event_type") + 1]
    table = histories.history_table(
        users.ids,
        users.offsets,
        np.where(numbers > 0, numbers, np.int32(UNKNOWN)),
        users.column("time"),
        users.column("rating") if job.has_ratings else None,
        kinds if job.event_type_numbers else None,
        moments.scale(users.features, *np.array(job.features).T) if job.features else None,
        parts if job.rules.split == "random" else None,
        train_end,
        valid_end,
        outside,
    )
    size, sha256, draft = write_parquet(table, job.folder, name, **HISTORY_ENCODING)
    file = f"{name}-{sha256[:16]}.parquet"
    os.replace(draft, job.folder / file)
    return {"file": file, "users": table.num_rows, "events": len(users.rows), "bytes": size, "sha256": sha256}


def write_parquet(
    table: pa.Table, folder: Path, name: str, row_group_rows: int = ROW_GROUP_USERS, **options: Any
) -> tuple[int, str, Path]:
    """Writes a draft file, on disk for good when this returns: its bytes, its sha256, its path (to rename)."""
    draft = folder / f".{name}.{uuid.uuid4().hex}"
    # our own write of one table: row order is certain, and the same rows give the same bytes
    pq.write_table(table, draft, compression="zstd", row_group_size=row_group_rows, **options)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return draft.stat().st_size, sha256, draft


def _save(path: Path, values: npt.NDArray[Any]) -> None:
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with draft.open("wb") as file:
        np.save(file, values)
    os.replace(draft, path)


def _save_counts(job: IngestJob, kind: str, bucket: int, item: npt.NDArray[np.int32]) -> None:
    """Items that occur, and how often: a batch that `add_counts` reads."""
    counts = np.bincount(item, minlength=1)
    codes = np.flatnonzero(counts)
    batch = pa.record_batch({"code": pa.array(codes.astype(np.int32)), "count": pa.array(counts[codes])})
    write_batches(job.work(kind, bucket), batch.schema, [batch])


def add_counts(job: IngestJob, kind: str) -> npt.NDArray[np.int64]:
    """Events of each item over all buckets, [number of items]."""
    total = np.zeros(job.num_items, np.int64)
    for bucket in range(job.layers.num_buckets):
        batch = read_batch(job.work(kind, bucket), 0)
        total[batch["code"].to_numpy()] += batch["count"].to_numpy()
    return total


def _check_shared(job: IngestJob) -> None:
    if not job.folder.is_dir():
        raise InputError(f"{job.folder.parent}: not seen by node {socket.gethostname()}; {_SHARED}")

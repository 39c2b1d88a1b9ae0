"""The tasks of an ingest, each a function of (job, index): what a Ray Data worker runs. Results are JSON values.

Errors that the user can mend come back as {"error": text}: a traceback through Ray would bury them. Every file is
written under a name of its own and renamed, so a task that Ray runs again overwrites its own work and nothing else.
"""

import hashlib
import os
import socket
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mgray import features
from mgray.errors import InputError
from mgray.schema import EVENT_SCHEMA, EVENT_TYPE, ITEM_ID, QUARANTINE_SCHEMA, RATING, TIMESTAMP, USER_ID
from pipelines.readers import Range, read_range, scan
from pipelines.sources import LogFile
from pipelines.versions import place_error

ROW_GROUP_USERS = 1024  # a reader of a shard holds one row group at a time
MAX_RAW_CHARS = 10_000  # of a quarantined row: an unmatched quote can make one row of the rest of a file
FILE_BITS = 40  # `order` is the file's place in the log << 40 | line

_SHARED = "logs and --data.out must be on storage that every node sees under the same path"

Result = dict[str, Any]


class IngestJob(NamedTuple):
    """What every task of one ingest knows."""

    files: tuple[LogFile, ...]
    ranges: tuple[tuple[int, Range], ...]  # (index of the file, range), in the order of the log
    folder: Path  # the version's staging folder, on storage that every node sees
    num_buckets: int
    min_user_events: int
    split: features.SplitKind
    valid_from: float | None = None
    test_from: float | None = None
    has_ratings: bool = False
    has_event_types: bool = False

    def piece(self, kind: str, index: int) -> Path:
        return self.folder / "work" / f"{kind}-{index:06d}.arrow"


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


def scan_file(file: LogFile, range_bytes: int) -> Result:
    """Digest, size and ranges of one file."""
    try:
        found = scan(file, range_bytes)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{file.path}: cannot be read on {socket.gethostname()} ({error}); {_SHARED}") from error
    return {"bytes": found.bytes, "sha256": found.sha256, "ranges": [list(part) for part in found.ranges]}


def read_part(job: IngestJob, index: int) -> Result:
    """Reads and parses one range, and stages its events by bucket of user: one record batch a bucket, in one file."""
    file_index, part = job.ranges[index]
    file = job.files[file_index]
    _check_shared(job)
    try:
        rows = read_range(file, part)
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise InputError(f"{file.path}: cannot be read ({error}); mend or remove the file") from error
    rows = rows.with_columns((pl.lit(file_index, pl.Int64) * 2**FILE_BITS + pl.col("line")).alias("order"))
    events, bad = features.parse_events(rows)
    result: Result = {"good": events.height, "bad": bad.height}
    if bad.height:
        bad = bad.with_columns(pl.lit(file.name).alias("file"), pl.col("raw").str.head(MAX_RAW_CHARS))
        _write_arrow(job.piece("bad", index), [_arrow(bad, QUARANTINE_SCHEMA)])
    if job.split == "temporal":
        times = events.group_by(TIMESTAMP).agg(pl.len().cast(pl.Int64).alias("count"))
        _write_arrow(job.piece("times", index), [times.to_arrow()])
    buckets = features.stable_bucket(events[USER_ID], job.num_buckets)
    ordered = _arrow(events[np.argsort(buckets, kind="stable")], EVENT_SCHEMA)
    ends = np.cumsum(np.bincount(buckets, minlength=job.num_buckets))
    starts = ends - np.bincount(buckets, minlength=job.num_buckets)
    slices = [ordered.slice(start, end - start) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    _write_arrow(job.piece("events", index), slices)
    return result


def clean_bucket(job: IngestJob, bucket: int) -> Result:
    """Cleans, sorts and splits the events of one bucket's users, whole histories in memory, and stages the result.

    A bucket is about 64 MB of the log unless data.num_shards says otherwise; a task's peak is several times that.
    """
    _check_shared(job)
    batches = []
    for index in range(len(job.ranges)):
        with pa.memory_map(str(job.piece("events", index))) as source:
            batches.append(pa.ipc.open_file(source).get_batch(bucket))
    events = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(batches)))
    distinct = features.drop_duplicates(events)
    kept = features.drop_short_users(features.sort_events(distinct), job.min_user_events)
    kept = features.assign_splits(kept, job.split, job.valid_from, job.test_from)
    _write_arrow(job.piece("clean", bucket), [kept.to_arrow()])
    _write_arrow(job.piece("counts", bucket), [features.count_train_items(kept).to_arrow()])
    in_train = kept["position"] < kept["train_end"]
    in_valid = ~in_train & (kept["position"] < kept["valid_end"])
    num_train, num_valid = int(in_train.sum()), int(in_valid.sum())
    return {
        "read": events.height,
        "dropped_duplicates": events.height - distinct.height,
        "dropped_short_users": distinct.height - kept.height,
        "written": kept.height,
        "users": kept[USER_ID].n_unique(),
        "train_events": num_train,
        "valid_events": num_valid,
        "test_events": kept.height - num_train - num_valid,
        "first_timestamp": kept[TIMESTAMP].min(),
        "last_timestamp": kept[TIMESTAMP].max(),
        "has_ratings": kept[RATING].null_count() < kept.height,
        "has_event_types": kept[EVENT_TYPE].null_count() < kept.height,
    }


def write_shard(job: IngestJob, bucket: int) -> Result:
    """Encodes one bucket's histories by the vocabulary and writes them as a Parquet shard named by its digest."""
    events = read_arrow(job.piece("clean", bucket))
    if not events.height:
        return {"shard": None}
    vocabulary = pl.DataFrame(pl.from_arrow(pq.read_table(job.folder / "vocabulary.parquet", partitioning=None)))
    wanted = vocabulary.join(events.select(ITEM_ID).unique(), on=ITEM_ID, how="semi")
    table = features.encode_histories(events, wanted, job.has_ratings, job.has_event_types)
    size, sha256, draft = write_parquet(table, job.folder, f"part-{bucket:05d}")
    name = f"part-{bucket:05d}-{sha256[:16]}.parquet"
    os.replace(draft, job.folder / name)
    record = {"file": name, "users": table.num_rows, "events": events.height, "bytes": size, "sha256": sha256}
    return {"shard": record}


def write_parquet(
    table: pa.Table, folder: Path, name: str, row_group_rows: int = ROW_GROUP_USERS
) -> tuple[int, str, Path]:
    """Writes a draft file, on disk for good when this returns: its bytes, its sha256, its path (to rename)."""
    draft = folder / f".{name}.{uuid.uuid4().hex}"
    # our own write of one table: row order is certain, and the same rows give the same bytes
    pq.write_table(table, draft, compression="zstd", row_group_size=row_group_rows)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return draft.stat().st_size, sha256, draft


def read_arrow(path: Path) -> pl.DataFrame:
    with pa.memory_map(str(path)) as source:
        return pl.DataFrame(pl.from_arrow(pa.ipc.open_file(source).read_all()))


def _arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    return frame.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema).combine_chunks()


def _write_arrow(path: Path, tables: list[pa.Table]) -> None:
    """One record batch a table, empty ones too, so that a reader can take the batch of its bucket alone."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    schema = tables[0].schema
    with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        for table in tables:
            batches = table.combine_chunks().to_batches()
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema))
    os.replace(draft, path)


def _check_shared(job: IngestJob) -> None:
    if not job.folder.is_dir():
        raise InputError(f"{job.folder.parent}: not seen by node {socket.gethostname()}; {_SHARED}")

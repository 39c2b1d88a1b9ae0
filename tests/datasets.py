"""A dataset version made in the test's own process: the pure functions of ingest, without Ray."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mgray import __version__, features, histories, ids
from mgray.dataset import Dataset
from mgray.manifest import Shard, Split, Vocabulary, commit, file_sha256, seal
from mgray.schema import ITEM_ID, RATING, SCHEMA_VERSION, TIMESTAMP, TRAIN, UNKNOWN, USER_ID


def write_dataset(folder: Path, log: pl.DataFrame, num_shards: int = 2) -> Dataset:
    """A committed leave-one-out version of `log` (user_id, item_id, timestamp, rating)."""
    folder.mkdir(parents=True)
    users, items = (
        ids.merge_ids(ids.stable_hash(column), column)
        for column in (
            log[name].cast(pl.String).to_arrow(compat_level=pl.CompatLevel.oldest()) for name in (USER_ID, ITEM_ID)
        )
    )
    rating = (
        log[RATING].cast(pl.Float32).to_numpy() if RATING in log.columns else np.full(log.height, np.nan, np.float32)
    )
    events = histories.Events(
        users.codes,
        items.codes,
        log[TIMESTAMP].cast(pl.Float64).to_numpy(),
        rating,
        np.full(log.height, -1, np.int16),
        np.zeros((log.height, 0)),
    )
    bucket = ids.bucket_of(users.hashes, num_shards)
    lengths = np.bincount(users.codes)
    events = events.take(histories.order_events(events.user, events.time))
    offsets = histories.user_offsets(events.user, len(lengths))
    ends = histories.split_ends(offsets, events.time, "leave_one_out")
    train = histories.parts_of(offsets, *ends) == TRAIN
    counts = np.bincount(events.item[train], minlength=len(items.ids))
    vocabulary = features.build_vocabulary(items.ids, counts)
    numbers = np.where(vocabulary.numbers > 0, vocabulary.numbers, UNKNOWN).astype(np.int32)
    pq.write_table(vocabulary.warm, folder / "vocabulary.parquet")
    shards = []
    for number in range(num_shards):
        chosen = np.flatnonzero(bucket == number)
        mine = np.isin(events.user, chosen)
        table = histories.history_table(
            users.ids.take(pa.array(chosen)),
            np.concatenate([[0], np.cumsum(lengths[chosen])]),
            numbers[events.item[mine]],
            events.time[mine],
            events.rating[mine] if RATING in log.columns else None,
            None,
            None,
            None,
            *(end[chosen] for end in ends),
        ).sort_by(USER_ID)
        path = folder / f"part-{number}.parquet"
        pq.write_table(table, path)
        shards.append(
            Shard(
                file=path.name,
                users=table.num_rows,
                events=int(mine.sum()),
                bytes=path.stat().st_size,
                sha256=file_sha256(path),
            )
        )
    num_users = len(lengths)
    manifest = seal(
        {
            "schema_version": SCHEMA_VERSION,
            "created": "2026-01-01T00:00:00+00:00",
            "mgray_version": __version__,
            "ingest_key": "test",
            "config": {},
            "sources": [],
            "rows": {"read": log.height, "written": log.height},
            "users": num_users,
            "items": vocabulary.warm.num_rows,
            "train_events": log.height - 2 * num_users,
            "valid_events": num_users,
            "test_events": num_users,
            "first_timestamp": log[TIMESTAMP].min(),
            "last_timestamp": log[TIMESTAMP].max(),
            "has_ratings": RATING in log.columns,
            "has_event_types": False,
            "vocabulary": Vocabulary(
                file="vocabulary.parquet",
                items=vocabulary.warm.num_rows,
                sha256=file_sha256(folder / "vocabulary.parquet"),
            ),
            "shards": shards,
            "quarantine_file": None,
            "split": Split(kind="leave_one_out", valid_from=None, test_from=None),
        }
    )
    commit(manifest, folder)
    return Dataset(folder)

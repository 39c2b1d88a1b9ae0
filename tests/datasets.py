"""A dataset version made in the test's own process: the pure functions of ingest, without Ray."""

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from mgray import __version__, features
from mgray.dataset import Dataset
from mgray.manifest import Shard, Split, Vocabulary, commit, file_sha256, seal
from mgray.schema import EVENT_TYPE, RATING, SCHEMA_VERSION, TIMESTAMP, USER_ID


def write_dataset(folder: Path, log: pl.DataFrame, num_shards: int = 2) -> Dataset:
    """A committed leave-one-out version of `log` (user_id, item_id, timestamp, rating)."""
    folder.mkdir(parents=True)
    rows = log.with_row_index("order").with_columns(
        pl.col("order").cast(pl.Int64), pl.lit(None, dtype=pl.String).alias(EVENT_TYPE)
    )
    events = features.assign_splits(features.sort_events(rows), "leave_one_out")
    vocabulary = features.build_vocabulary(features.count_train_items(events))
    pq.write_table(vocabulary, folder / "vocabulary.parquet")
    bucket = pl.Series(features.stable_bucket(events[USER_ID], num_shards))
    shards = []
    for number in range(num_shards):
        part = events.filter(bucket == number)
        encoded = features.encode_histories(part, pl.from_arrow(vocabulary), RATING in log.columns, False)
        path = folder / f"part-{number}.parquet"
        pq.write_table(encoded, path)
        shards.append(
            Shard(
                file=path.name,
                users=encoded.num_rows,
                events=part.height,
                bytes=path.stat().st_size,
                sha256=file_sha256(path),
            )
        )
    users = events[USER_ID].n_unique()
    manifest = seal(
        {
            "schema_version": SCHEMA_VERSION,
            "created": "2026-01-01T00:00:00+00:00",
            "mgray_version": __version__,
            "ingest_key": "test",
            "config": {},
            "sources": [],
            "rows": {"read": log.height, "written": log.height},
            "users": users,
            "items": vocabulary.num_rows,
            "train_events": log.height - 2 * users,
            "valid_events": users,
            "test_events": users,
            "first_timestamp": log[TIMESTAMP].min(),
            "last_timestamp": log[TIMESTAMP].max(),
            "has_ratings": RATING in log.columns,
            "has_event_types": False,
            "vocabulary": Vocabulary(
                file="vocabulary.parquet",
                items=vocabulary.num_rows,
                sha256=file_sha256(folder / "vocabulary.parquet"),
            ),
            "shards": shards,
            "quarantine_file": None,
            "split": Split(kind="leave_one_out", valid_from=None, test_from=None),
        }
    )
    commit(manifest, folder)
    return Dataset(folder)

"""A dataset version made in the test's own process: the pure functions of ingest, without Ray."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mgray import __version__
from mgray.data import moments
from mgray.data.columns import parts_of
from mgray.data.dataset import Dataset
from mgray.data.manifest import EventType, Feature, Shard, Split, Vocabulary, commit, file_sha256, seal
from mgray.ingest import clean, hashing
from mgray.ingest.clean import SplitKind
from mgray.ingest.vocabulary import Vocabularies, build_vocabulary, list_outside, order_event_types
from mgray.schema import (
    EVENT_TYPE,
    FEATURE,
    ITEM_ID,
    NUMBER_COLUMNS,
    SCHEMA_VERSION,
    TEST,
    TIMESTAMP,
    TRAIN,
    UNKNOWN,
    USER_ID,
    VALID,
    EventColumn,
    OptionalColumn,
)

ORIGIN: dict[str, Any] = {  # of every manifest made here
    "schema_version": SCHEMA_VERSION,
    "created": "2026-01-01T00:00:00+00:00",
    "mgray_version": __version__,
    "ingest_key": "test",
    "config": {},
    "sources": [],
    "quarantine_file": None,
}
TEMPORAL_CUTS = (0.8, 0.9)  # shares of the events before the validation and the test part


class LogEvents(NamedTuple):
    """A log's events as numbers, in its own order."""

    users: hashing.Merged
    items: hashing.Merged
    types: list[str]  # names of event types
    names: list[str]  # columns of features
    events: clean.Events


def read_numbers(log: pl.DataFrame, column: EventColumn) -> np.ndarray:
    """An event column of numbers; NaN where the log has none."""
    if column.role not in log.columns:
        return np.full(log.height, np.nan, column.dtype)
    return log[column.role].cast(pl.Float64).to_numpy().astype(column.dtype)


def read_log(log: pl.DataFrame) -> LogEvents:
    users, items = (
        hashing.merge_ids(hashing.stable_hash(column), column)
        for column in (
            log[name].cast(pl.String).to_arrow(compat_level=pl.CompatLevel.oldest()) for name in (USER_ID, ITEM_ID)
        )
    )
    types = sorted(log[EVENT_TYPE].drop_nulls().unique()) if EVENT_TYPE in log.columns else []
    code = {name: i for i, name in enumerate(types)}
    event_types = [code.get(name, -1) for name in log[EVENT_TYPE]] if types else [-1] * log.height
    names = [name for name in log.columns if name.startswith(FEATURE)]
    events = clean.Events(
        users.codes,
        items.codes,
        log[TIMESTAMP].cast(pl.Float64).to_numpy(),
        {one.name: read_numbers(log, one) for one in NUMBER_COLUMNS},
        np.asarray(event_types, np.int16),
        log.select(pl.col(name).cast(pl.Float64) for name in names).to_numpy().reshape(log.height, len(names)),
    )
    return LogEvents(users, items, types, names, events)


def number_event_types(
    types: list[str], event_type: np.ndarray, train: np.ndarray
) -> tuple[list[str], list[str], np.ndarray]:
    """Event types of the training part, by falling count; the other ones; and the number of every event's type."""
    type_counts = np.bincount(event_type[train & (event_type >= 0)], minlength=len(types))
    kinds = order_event_types(dict(zip(types, type_counts.tolist(), strict=True)))
    outside_kinds = sorted(set(types).difference(kinds))
    number = {name: i for i, name in enumerate([*kinds, *outside_kinds])}
    type_numbers = np.asarray([-1, *(number[name] for name in types)], np.int16)[event_type + 1]
    return kinds, outside_kinds, type_numbers


class Columns(NamedTuple):
    """All events of a version, user after user; None: a column that the log has not."""

    user_ids: pa.Array
    lengths: np.ndarray  # events of each user
    events: clean.Events
    numbers: np.ndarray  # by item code
    values: dict[OptionalColumn, npt.NDArray[Any]]  # of the event columns that the log has
    parts: np.ndarray | None
    ends: tuple[np.ndarray, np.ndarray]
    outside_rows: np.ndarray | None  # by item code

    def histories(self, chosen: np.ndarray) -> pa.Table:
        """Histories of the users at the places `chosen`."""
        mine = np.isin(self.events.user, chosen)
        return clean.history_table(
            self.user_ids.take(pa.array(chosen)),
            np.concatenate([[0], np.cumsum(self.lengths[chosen])]),
            self.numbers[self.events.item[mine]],
            {name: column[mine] for name, column in self.values.items()},
            self.parts[mine] if self.parts is not None else None,
            *(end[chosen] for end in self.ends),
            self.outside_rows[self.events.item[mine]] if self.outside_rows is not None else None,
        ).sort_by(USER_ID)


def write_shards(
    folder: Path, columns: Columns, bucket: np.ndarray, is_short: np.ndarray, num_shards: int
) -> dict[str, list[Shard]]:
    shards: dict[str, list[Shard]] = {"part": [], "short": []}
    for kind, number in itertools.product(shards, range(num_shards)):
        chosen = np.flatnonzero((bucket == number) & (is_short == (kind == "short")))
        if kind == "short" and not len(chosen):
            continue
        table = columns.histories(chosen)
        path = folder / f"{kind}-{number}.parquet"
        pq.write_table(table, path)
        shards[kind].append(
            Shard(
                file=path.name,
                users=table.num_rows,
                events=int(columns.lengths[chosen].sum()),
                bytes=path.stat().st_size,
                sha256=file_sha256(path),
            )
        )
    return shards


def manifest_parts(log: pl.DataFrame, kinds: list[str], names: list[str], measured: moments.Moments) -> dict[str, Any]:
    """The manifest's records of a log's times, event types and features."""
    return {
        "first_timestamp": log[TIMESTAMP].min(),
        "last_timestamp": log[TIMESTAMP].max(),
        **{f"has_{one.name}": one.role in log.columns for one in NUMBER_COLUMNS},
        "has_event_types": bool(kinds),
        "event_types": [EventType(name=name, events=int((log[EVENT_TYPE] == name).sum())) for name in kinds],
        "features": [
            Feature(name=name.removeprefix(FEATURE), mean=float(mean), std=float(std))
            for name, mean, std in zip(names, measured.mean, measured.std, strict=True)
        ],
    }


def write_items(folder: Path, vocabulary: Vocabularies, outside: pa.Table) -> dict[str, Any]:
    """Write the files of items; gives the manifest's records of them."""
    pq.write_table(vocabulary.warm, folder / "vocabulary.parquet")
    pq.write_table(outside, folder / "outside_items.parquet")
    return {
        "items": vocabulary.warm.num_rows,
        "cold_items": vocabulary.cold.num_rows,
        "outside_items_file": "outside_items.parquet" if outside.num_rows else None,
        "vocabulary": Vocabulary(
            file="vocabulary.parquet",
            items=vocabulary.warm.num_rows,
            sha256=file_sha256(folder / "vocabulary.parquet"),
        ),
    }


def count_events(parts: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    """The manifest's row counts; `kept` are the events of users that are not short."""
    read, written = len(parts), int(kept.sum())
    return {
        "rows": {"read": read, "written": written, "dropped_short_users": read - written},
        "train_events": int(((parts == TRAIN) & kept).sum()),
        "valid_events": int(((parts == VALID) & kept).sum()),
        "test_events": int(((parts == TEST) & kept).sum()),
    }


def write_dataset(
    folder: Path,
    log: pl.DataFrame,
    num_shards: int = 2,
    split: SplitKind = "leave_one_out",
    min_item_count: int = 1,
    min_user_events: int = 1,
) -> Dataset:
    """A committed version of `log`: user_id, item_id, timestamp, and rating, event_type and feature:NAME if there."""
    folder.mkdir(parents=True)
    users, items, types, names, events = read_log(log)
    bucket = hashing.bucket_of(users.hashes, num_shards)
    lengths = np.bincount(users.codes)
    events = events.take(clean.order_events(events.user, events.time))
    offsets = clean.user_offsets(events.user, len(lengths))
    cuts = np.quantile(events.time, TEMPORAL_CUTS).tolist() if split == "temporal" else [None, None]
    ends = clean.split_ends(offsets, events.time, split, *cuts)
    parts = clean.random_parts(offsets, events.time, users.hashes) if split == "random" else parts_of(offsets, *ends)
    is_short = lengths < min_user_events
    measured_events = ~is_short[events.user]
    train = (parts == TRAIN) & measured_events
    counts = np.bincount(events.item[train], minlength=len(items.ids))
    vocabulary = build_vocabulary(items.ids, counts, min_count=min_item_count)
    kinds, outside_kinds, type_numbers = number_event_types(types, events.event_type, train)
    measured = moments.measure(events.features[train])
    scaled = moments.scale(events.features, measured.mean, measured.std)
    numbers = np.where(vocabulary.numbers > 0, vocabulary.numbers, UNKNOWN).astype(np.int32)
    outside, outside_rows = list_outside(items.ids, vocabulary.numbers)
    values: dict[OptionalColumn, npt.NDArray[Any]] = {"times": events.time}
    values |= {one.name: events.numbers[one.name] for one in NUMBER_COLUMNS if one.role in log.columns}
    values |= {"event_types": type_numbers} if types else {}
    values |= {"features": scaled} if names else {}
    columns = Columns(
        users.ids,
        lengths,
        events,
        numbers,
        values,
        parts if split == "random" else None,
        ends,
        outside_rows if outside.num_rows else None,
    )
    shards = write_shards(folder, columns, bucket, is_short, num_shards)
    num_short = int(is_short.sum())
    manifest = seal(
        ORIGIN
        | manifest_parts(log, kinds, names, measured)
        | write_items(folder, vocabulary, outside)
        | count_events(parts, measured_events)
        | {
            "users": len(lengths) - num_short,
            "outside_event_types": outside_kinds,
            "shards": shards["part"],
            "short_users": num_short,
            "short_shards": shards["short"],
            "split": Split(kind=split, valid_from=cuts[0], test_from=cuts[1]),
        }
    )
    commit(manifest, folder)
    return Dataset(folder)

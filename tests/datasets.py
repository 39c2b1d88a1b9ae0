"""A dataset version made in the test's own process: the pure functions of ingest, without Ray."""

import itertools
from pathlib import Path
from typing import Any

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
from mgray.ingest.vocabulary import build_vocabulary, list_outside, order_event_types
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
    OptionalColumn,
)

TEMPORAL_CUTS = (0.8, 0.9)  # shares of the events before the validation and the test part


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
    users, items = (
        hashing.merge_ids(hashing.stable_hash(column), column)
        for column in (
            log[name].cast(pl.String).to_arrow(compat_level=pl.CompatLevel.oldest()) for name in (USER_ID, ITEM_ID)
        )
    )
    given = {one.name: log[one.role].cast(pl.Float64).to_numpy() for one in NUMBER_COLUMNS if one.role in log.columns}
    types = sorted(log[EVENT_TYPE].drop_nulls().unique()) if EVENT_TYPE in log.columns else []
    code = {name: i for i, name in enumerate(types)}
    event_types = [code.get(name, -1) for name in log[EVENT_TYPE]] if types else [-1] * log.height
    names = [name for name in log.columns if name.startswith(FEATURE)]
    events = clean.Events(
        users.codes,
        items.codes,
        log[TIMESTAMP].cast(pl.Float64).to_numpy(),
        {
            one.name: given[one.name].astype(one.dtype) if one.name in given else np.full(log.height, np.nan, one.dtype)
            for one in NUMBER_COLUMNS
        },
        np.asarray(event_types, np.int16),
        log.select(pl.col(name).cast(pl.Float64) for name in names).to_numpy().reshape(log.height, len(names)),
    )
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
    type_counts = np.bincount(events.event_type[train & (events.event_type >= 0)], minlength=len(types))
    kinds = order_event_types(dict(zip(types, type_counts.tolist(), strict=True)))
    outside_kinds = sorted(set(types).difference(kinds))
    number = {name: i for i, name in enumerate([*kinds, *outside_kinds])}
    type_numbers = np.asarray([-1, *(number[name] for name in types)], np.int16)[events.event_type + 1]
    measured = moments.measure(events.features[train])
    scaled = moments.scale(events.features, measured.mean, measured.std)
    numbers = np.where(vocabulary.numbers > 0, vocabulary.numbers, UNKNOWN).astype(np.int32)
    values: dict[OptionalColumn, npt.NDArray[Any]] = {"times": events.time}
    values |= {name: events.numbers[name] for name in given}
    values |= {"event_types": type_numbers} if types else {}
    values |= {"features": scaled} if names else {}
    outside, outside_rows = list_outside(items.ids, vocabulary.numbers)
    pq.write_table(vocabulary.warm, folder / "vocabulary.parquet")
    pq.write_table(outside, folder / "outside_items.parquet")
    shards: dict[str, list[Shard]] = {"part": [], "short": []}
    for kind, number in itertools.product(shards, range(num_shards)):
        chosen = np.flatnonzero((bucket == number) & (is_short == (kind == "short")))
        if kind == "short" and not len(chosen):
            continue
        mine = np.isin(events.user, chosen)
        table = clean.history_table(
            users.ids.take(pa.array(chosen)),
            np.concatenate([[0], np.cumsum(lengths[chosen])]),
            numbers[events.item[mine]],
            {name: column[mine] for name, column in values.items()},
            parts[mine] if split == "random" else None,
            *(end[chosen] for end in ends),
            outside_rows[events.item[mine]] if outside.num_rows else None,
        ).sort_by(USER_ID)
        path = folder / f"{kind}-{number}.parquet"
        pq.write_table(table, path)
        shards[kind].append(
            Shard(
                file=path.name,
                users=table.num_rows,
                events=int(mine.sum()),
                bytes=path.stat().st_size,
                sha256=file_sha256(path),
            )
        )
    num_short = int(is_short.sum())
    written = int(measured_events.sum())
    manifest = seal(
        {
            "schema_version": SCHEMA_VERSION,
            "created": "2026-01-01T00:00:00+00:00",
            "mgray_version": __version__,
            "ingest_key": "test",
            "config": {},
            "sources": [],
            "rows": {"read": log.height, "written": written, "dropped_short_users": log.height - written},
            "users": len(lengths) - num_short,
            "items": vocabulary.warm.num_rows,
            "cold_items": vocabulary.cold.num_rows,
            "train_events": int(train.sum()),
            "valid_events": int(((parts == VALID) & measured_events).sum()),
            "test_events": int(((parts == TEST) & measured_events).sum()),
            "first_timestamp": log[TIMESTAMP].min(),
            "last_timestamp": log[TIMESTAMP].max(),
            **{f"has_{one.name}": one.name in given for one in NUMBER_COLUMNS},
            "has_event_types": bool(kinds),
            "outside_event_types": outside_kinds,
            "outside_items_file": "outside_items.parquet" if outside.num_rows else None,
            "event_types": [EventType(name=name, events=int((log[EVENT_TYPE] == name).sum())) for name in kinds],
            "features": [
                Feature(name=name.removeprefix(FEATURE), mean=float(mean), std=float(std))
                for name, mean, std in zip(names, measured.mean, measured.std, strict=True)
            ],
            "vocabulary": Vocabulary(
                file="vocabulary.parquet",
                items=vocabulary.warm.num_rows,
                sha256=file_sha256(folder / "vocabulary.parquet"),
            ),
            "shards": shards["part"],
            "short_users": num_short,
            "short_shards": shards["short"],
            "quarantine_file": None,
            "split": Split(kind=split, valid_from=cuts[0], test_from=cuts[1]),
        }
    )
    commit(manifest, folder)
    return Dataset(folder)

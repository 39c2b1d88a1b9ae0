"""The write task: one bucket's histories as Parquet shards, encoded by the vocabulary."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from mgray.data import moments
from mgray.data.manifest import Shard, short_key
from mgray.ingest.clean import history_table
from mgray.schema import EVENT_COLUMNS, EVENT_TYPE, NUMBER_COLUMNS, OPTION_COLUMNS, TEST, UNKNOWN, OptionalColumn
from pipelines.ingest.context import IngestContext
from pipelines.ingest.results import WrittenBucket
from pipelines.ingest.tasks.histories import Histories, Split, read_measured, read_short, split_histories
from pipelines.ingest.tasks.newest import stage_times
from pipelines.runtime.parquet import write_parquet

ROW_GROUP_USERS = 1024  # a reader of a shard holds one row group at a time
# Half the time and two thirds of the bytes of Parquet's defaults, which try a dictionary of distinct times first.
HISTORY_ENCODING: dict[str, Any] = {
    "use_dictionary": [f"{name}.list.element" for name in (*(one.list_name for one in OPTION_COLUMNS), "parts")],
    "column_encoding": {
        f"{column.list_name}.list.element": "BYTE_STREAM_SPLIT" for column in EVENT_COLUMNS if column.kind == "time"
    },
}


def write_shard(context: IngestContext, bucket: int) -> WrittenBucket:
    """Encodes one bucket's histories and writes them as shards that are named by their digests.

    Leaves a sample of the times for the counts of the newest events.
    """
    measured, short = read_measured(context, bucket), read_short(context, bucket)
    nothing = np.zeros(len(short.ids), np.int32)  # no event of a short user trains, validates or tests
    unused = Split(np.full(len(short.rows), TEST, np.int8), nothing, nothing)
    split = split_histories(context, measured)
    stage_times(context, bucket, measured, split)
    return WrittenBucket(
        shard=_write_histories(context, measured, split, f"part-{bucket:05d}"),
        short_shard=_write_histories(context, short, unused, f"short-{bucket:05d}"),
        rows=len(measured.rows),
    )


def _values(context: IngestContext, users: Histories) -> dict[OptionalColumn, npt.NDArray[Any]]:
    """The values of each event column that the log has, [E] or [E, F], as shards hold them; no name is -1."""
    values: dict[OptionalColumn, npt.NDArray[Any]] = {"times": users.column("time")}
    values |= {one.name: users.column(one.role) for one in NUMBER_COLUMNS if one.name in context.number_columns}
    if context.event_type_numbers:
        numbers = np.asarray((-1, *context.event_type_numbers), np.int16)
        values["event_types"] = numbers[users.column(EVENT_TYPE) + 1]
    if context.features:
        values["features"] = moments.scale(users.features, *np.array(context.features).T)
    return values


def _write_histories(context: IngestContext, users: Histories, split: Split, name: str) -> Shard | None:
    if not len(users.ids):
        return None
    codes = users.column("item")
    numbers = np.load(context.numbers_file, mmap_mode="r")[codes]
    outside = np.load(context.outside_file, mmap_mode="r")[codes] if context.has_outside_items else None
    table = history_table(
        users.ids,
        users.offsets,
        np.where(numbers > 0, numbers, np.int32(UNKNOWN)),
        _values(context, users),
        split.part if context.rules.split == "random" else None,
        split.train_end,
        split.valid_end,
        outside,
    )
    draft = write_parquet(table, context.folder, name, ROW_GROUP_USERS, **HISTORY_ENCODING)
    file = f"{name}-{short_key(draft.sha256)}.parquet"
    os.replace(draft.path, context.folder / file)
    return Shard(file=file, users=table.num_rows, events=len(users.rows), bytes=draft.bytes, sha256=draft.sha256)

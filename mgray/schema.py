"""Event columns, Arrow schemas and special item numbers: the contract between ingest, training and serving.

Legend used in every module: `B` sequences, `L` positions, `D` width, `G` granularities, `K` kernel taps,
`N` negatives, `V` items (numbered 1..V; 0 is padding), `T` targets.
"""

from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

SCHEMA_VERSION = 3
SCHEMA_WITHOUT_OUTSIDE = 2  # names no item outside its vocabulary, and holds no short users
READABLE_VERSIONS = (SCHEMA_WITHOUT_OUTSIDE, SCHEMA_VERSION)

PAD = 0  # the item number of a padded position; real items are 1..V
TRAIN, VALID, TEST = 0, 1, 2  # the part that an event belongs to
UNKNOWN = -1  # an item outside the vocabulary: never an input, always a miss as a target

USER_ID = "user_id"
ITEM_ID = "item_id"
TIMESTAMP = "timestamp"
RATING = "rating"
EVENT_TYPE = "event_type"
FEATURE = "feature:"  # + the log's column name: the role of a numeric feature

# An event column, by the field of Columns and of Inputs that holds it.
OptionalColumn = Literal["times", "ratings", "event_types", "features"]
# What a model can read of an event beside its item (`model.inputs`).
Input = Literal["event_type", "features", "rating", "time_gap", "hour", "weekday"]
# How the values of a column are written in a request, stored in a shard, and read from there:
# time: seconds since 1970, rising, never missing. number: finite, NaN = none. name: text, stored as a number of the
# manifest's list of names, null = none; 1.. of the model's list once read, 0 = none. vector: F numbers, standardized.
ValueKind = Literal["time", "number", "name", "vector"]


class EventColumn(NamedTuple):
    """One kind of value that an event may have beside its item: what every place from the log to the batch reads."""

    name: OptionalColumn
    role: str  # `data.columns.ROLE` names the log's column; of a vector, the prefix of its columns' roles
    list_name: str  # in a shard, and in a request to a served model
    kind: ValueKind
    dtype: type[np.generic]  # in a shard and in Columns
    batch_dtype: type[np.generic]  # in Inputs
    padding: float  # its value in Inputs where there is no event
    moves_with_item: bool  # where augmentation shuffles items; else the values stay in order
    inputs: tuple[Input, ...]  # that read it; `model.inputs: auto` takes the first
    meaning: str  # in errors about a request
    is_required: bool = False  # in a shard: never null


# In the order of a shard. To add one: docs/extending, "An event column".
EVENT_COLUMNS: tuple[EventColumn, ...] = (
    EventColumn(
        name="times",
        role=TIMESTAMP,
        list_name="timestamps",
        kind="time",
        dtype=np.float64,
        batch_dtype=np.float64,
        padding=0.0,
        moves_with_item=False,
        inputs=("time_gap", "hour", "weekday"),
        meaning="seconds since 1970, oldest first",
        is_required=True,
    ),
    EventColumn(
        name="ratings",
        role=RATING,
        list_name="ratings",
        kind="number",
        dtype=np.float32,
        batch_dtype=np.float32,
        padding=np.nan,
        moves_with_item=True,
        inputs=("rating",),
        meaning="ratings, none where an event has none",
    ),
    EventColumn(
        name="event_types",
        role=EVENT_TYPE,
        list_name="event_types",
        kind="name",
        dtype=np.int16,
        batch_dtype=np.int64,
        padding=0,
        moves_with_item=True,
        inputs=("event_type",),
        meaning="names of event types, none where an event has none",
    ),
    EventColumn(
        name="features",
        role=FEATURE,
        list_name="features",
        kind="vector",
        dtype=np.float32,
        batch_dtype=np.float32,
        padding=0.0,
        moves_with_item=True,
        inputs=("features",),
        meaning="lists of numbers in the order of the model's features, none where there is none",
    ),
)
COLUMN_BY_NAME: dict[OptionalColumn, EventColumn] = {column.name: column for column in EVENT_COLUMNS}
NUMBER_COLUMNS = tuple(column for column in EVENT_COLUMNS if column.kind == "number")
# An option of their role, `data.columns.ROLE`, names the log's column; without it, ROLE is read if the log has it.
OPTION_COLUMNS = tuple(column for column in EVENT_COLUMNS if column.kind in ("number", "name"))
# What `model.inputs: auto` takes where the dataset has it; in the order of the names, which fixes that of the weights.
AUTO_INPUTS: tuple[Input, ...] = tuple(sorted(column.inputs[0] for column in EVENT_COLUMNS))


def value_kind(role: str) -> ValueKind | None:
    """Kind of the values under a role of the log's columns; None: an id."""
    role = FEATURE if role.startswith(FEATURE) else role
    return next((column.kind for column in EVENT_COLUMNS if column.role == role), None)


# One row a user, oldest event first. Events [0, train_end) train, [train_end, valid_end) validate, the rest test.
HISTORY_SCHEMA = pa.schema(
    [
        pa.field(USER_ID, pa.large_string(), nullable=False),
        pa.field("items", pa.large_list(pa.int32()), nullable=False),  # 1..V, or UNKNOWN
        # For each UNKNOWN of `items`, in their order, its row in the file of outside items; null where there is none.
        pa.field("outside_items", pa.large_list(pa.int32())),
        # Values of each event column: null where the log does not have it. Of names, the number in the manifest's
        # event_types, then in its outside_event_types; null: none. Of vectors, [events * F] numbers,
        # (value - mean) / std, by 1 where std is 0; NaN: missing.
        *(
            pa.field(one.list_name, pa.large_list(pa.from_numpy_dtype(one.dtype)), nullable=not one.is_required)
            for one in EVENT_COLUMNS
        ),
        pa.field("parts", pa.large_list(pa.int8())),  # random split only: TRAIN, VALID or TEST of each event
        pa.field("train_end", pa.int32(), nullable=False),
        pa.field("valid_end", pa.int32(), nullable=False),
    ]
)

# Item numbers by falling count in the training part, ties by raw id: number 1 is the most popular item.
NUMBERED_SCHEMA = pa.schema(
    [
        pa.field("item", pa.int32(), nullable=False),  # 1..V
        pa.field(ITEM_ID, pa.large_string(), nullable=False),
        pa.field("num_train_events", pa.int64(), nullable=False),
        pa.field("title", pa.large_string()),  # null where no title is known
    ]
)
# By whether the validation part trains too: events among the newest POPULAR_SHARE of those that train. Versions of
# older mgrays do not have them.
NEWEST_COLUMNS = {False: "num_newest_events", True: "num_newest_events_with_valid"}
VOCABULARY_SCHEMA = pa.schema(
    [*NUMBERED_SCHEMA, *(pa.field(name, pa.int64(), nullable=False) for name in NEWEST_COLUMNS.values())]
)

# Items of the log that are not in the vocabulary, in the order of their ids: a model trained elsewhere may know them.
OUTSIDE_SCHEMA = pa.schema([pa.field(ITEM_ID, pa.large_string(), nullable=False)])

# Each user's best items. A user with no known item has the popularity list, whose scores compare with no other.
PREDICTION_SCHEMA = pa.schema(
    [
        pa.field(USER_ID, pa.large_string(), nullable=False),
        pa.field(ITEM_ID, pa.large_string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1..k
        pa.field("score", pa.float32(), nullable=False),  # comparable within a user only
    ]
)

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("file", pa.large_string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),  # 1 is the file's first line; for Parquet the row number, from 1
        pa.field("reason", pa.large_string(), nullable=False),
        pa.field("raw", pa.large_string(), nullable=False),
    ]
)

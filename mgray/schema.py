"""Column names, Arrow schemas and special item numbers: the contract between ingest, training and serving.

Legend used in every module: `B` sequences, `L` positions, `D` width, `G` granularities, `K` kernel taps,
`N` negatives, `V` items (numbered 1..V; 0 is padding), `T` targets.
"""

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

# One row a user, oldest event first. Events [0, train_end) train, [train_end, valid_end) validate, the rest test.
HISTORY_SCHEMA = pa.schema(
    [
        pa.field(USER_ID, pa.large_string(), nullable=False),
        pa.field("items", pa.large_list(pa.int32()), nullable=False),  # 1..V, or UNKNOWN
        # For each UNKNOWN of `items`, in their order, its row in the file of outside items; null where there is none.
        pa.field("outside_items", pa.large_list(pa.int32())),
        pa.field("timestamps", pa.large_list(pa.float64()), nullable=False),  # seconds since 1970-01-01 UTC
        pa.field("ratings", pa.large_list(pa.float32())),  # null where the log has none
        # Numbers of the manifest's event_types, then of its outside_event_types; null: none.
        pa.field("event_types", pa.large_list(pa.int16())),
        # [events * F], (value - mean) / std, by 1 where std is 0; NaN: missing; null where none is configured.
        pa.field("features", pa.large_list(pa.float32())),
        pa.field("parts", pa.large_list(pa.int8())),  # random split only: TRAIN, VALID or TEST of each event
        pa.field("train_end", pa.int32(), nullable=False),
        pa.field("valid_end", pa.int32(), nullable=False),
    ]
)

# Item numbers by falling count in the training part, ties by raw id: number 1 is the most popular item.
VOCABULARY_SCHEMA = pa.schema(
    [
        pa.field("item", pa.int32(), nullable=False),  # 1..V
        pa.field(ITEM_ID, pa.large_string(), nullable=False),
        pa.field("num_train_events", pa.int64(), nullable=False),
        pa.field("title", pa.large_string()),  # null where no title is known
    ]
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

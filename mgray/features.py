"""Pure functions from a log's raw columns to histories: parse, clean, sort, split, count, number, encode.

Every function takes whole columns and returns whole columns; none reads a file, and none loops over rows in Python.
Legend: `E` events, `U` users, `V` items. Timestamps are seconds since 1970-01-01 UTC throughout.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mgray.schema import EVENT_TYPE, HISTORY_SCHEMA, ITEM_ID, RATING, TIMESTAMP, UNKNOWN, USER_ID, VOCABULARY_SCHEMA

SplitKind = Literal["leave_one_out", "temporal"]

_ISO_FORMAT = "%Y-%m-%dT%H:%M:%S%.f%:z"
_BLANK = r"^\s*$"


class Parsed(NamedTuple):
    events: pl.DataFrame  # [E] the columns of EVENT_SCHEMA
    bad: pl.DataFrame  # rows set aside: line, reason, raw (QUARANTINE_SCHEMA without the file)


def id_text(column: pl.Series) -> pl.Series:
    """Ids as text, whatever the log has: 12 and 12.0 are both "12"; null, NaN and blank text are null."""
    if column.dtype.is_float():
        integral = column.is_finite() & (column == column.round()) & (column.abs() < 2**53)
        whole = column.cast(pl.Int64, strict=False).cast(pl.String)
        text = column.fill_nan(None).cast(pl.String)
        return pl.select(pl.when(integral).then(whole).otherwise(text).alias(column.name)).to_series()
    text = column.cast(pl.String)
    return pl.select(pl.when(~text.str.contains(_BLANK)).then(text).alias(column.name)).to_series()


def epoch_seconds(column: pl.Series) -> pl.Series:
    """Float64 seconds since 1970 UTC from numbers, dates, or text that is a number or ISO 8601 (without offset: UTC).

    What cannot be read, and what is not finite, is null.
    """
    if column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
        return column.cast(pl.Datetime("us")).dt.timestamp("us").cast(pl.Float64) / 1e6
    if column.dtype.is_numeric():
        seconds = column.cast(pl.Float64)
    else:
        text = column.cast(pl.String).str.strip_chars()
        seconds = text.cast(pl.Float64, strict=False)
        if seconds.null_count() > text.null_count():
            seconds = seconds.fill_null(_iso_seconds(text))
    return pl.select(pl.when(seconds.is_finite()).then(seconds).alias(column.name)).to_series()


def _iso_seconds(text: pl.Series) -> pl.Series:
    """Brings each spelling of ISO 8601 to one (`T` between, seconds, an offset), so that one format reads them all."""
    spelled = (
        text.str.to_uppercase()
        .str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T")
        .str.replace(r"^(\d{4}-\d\d-\d\d)$", "${1}T00:00:00")
        .str.replace(r"(T\d\d:\d\d)($|[Z+-])", "${1}:00${2}")
        .str.replace(r"\s*Z$", "+00:00")
    )
    has_offset = spelled.str.contains(r"T.*[+-]\d\d:?\d\d$")
    spelled = pl.select(pl.when(has_offset).then(spelled).otherwise(spelled + "+00:00")).to_series()
    return spelled.str.to_datetime(_ISO_FORMAT, strict=False, time_unit="us").dt.timestamp("us").cast(pl.Float64) / 1e6


def parse_events(rows: pl.DataFrame) -> Parsed:
    """Raw columns to typed events, and the rows that cannot be read with their reasons.

    `rows` [E]: `line` and `order` Int64; user_id, item_id, timestamp and, where the log has them, rating and
    event_type, each text or typed; optionally `problem` (text: what the reader found wrong, else null) and `raw`
    (the row as the log spells it; without it, the row's JSON). len(events) + len(bad) == E.
    """
    if "problem" not in rows.columns:
        rows = rows.with_columns(pl.lit(None, pl.String).alias("problem"))
    nothing = pl.repeat(None, rows.height, dtype=pl.String, eager=True)
    rating = rows[RATING] if RATING in rows.columns else nothing
    rating_text = rating.cast(pl.String).str.strip_chars()
    rating_value = rating_text.cast(pl.Float64, strict=False)
    kind = rows[EVENT_TYPE].cast(pl.String) if EVENT_TYPE in rows.columns else nothing
    parsed = pl.DataFrame(
        {
            USER_ID: id_text(rows[USER_ID]),
            ITEM_ID: id_text(rows[ITEM_ID]),
            TIMESTAMP: epoch_seconds(rows[TIMESTAMP]),
            RATING: rating_value.cast(pl.Float32, strict=False),
            EVENT_TYPE: pl.select(pl.when(~kind.str.contains(_BLANK)).then(kind)).to_series(),
            "order": rows["order"],
            "has_rating": rating_text.is_not_null() & ~rating_text.str.contains(_BLANK),
        }
    )
    given_time = rows[TIMESTAMP].cast(pl.String)
    reason = parsed.select(
        pl.coalesce(
            rows["problem"],
            pl.when(pl.col(USER_ID).is_null()).then(pl.lit("user_id is empty")),
            pl.when(pl.col(ITEM_ID).is_null()).then(pl.lit("item_id is empty")),
            pl.when(pl.col(TIMESTAMP).is_null()).then(
                pl.when(given_time.is_null() | given_time.str.contains(_BLANK))
                .then(pl.lit("timestamp is empty"))
                .otherwise(pl.format("timestamp '{}' is neither seconds since 1970 nor ISO 8601", given_time))
            ),
            pl.when(pl.col("has_rating") & ~pl.col(RATING).is_finite().fill_null(False)).then(
                pl.format("rating '{}' is not a number", rating_text)
            ),
        ).alias("reason")
    ).to_series()
    good = reason.is_null()
    bad = rows.filter(~good).with_columns(reason.filter(~good))
    if "raw" not in bad.columns:
        given = [c for c in (USER_ID, ITEM_ID, TIMESTAMP, RATING, EVENT_TYPE) if c in bad.columns]
        bad = bad.with_columns(pl.struct(given).struct.json_encode().alias("raw"))
    return Parsed(parsed.filter(good).drop("has_rating"), bad.select("line", "reason", pl.col("raw").fill_null("")))


def stable_bucket(ids: pl.Series, num_buckets: int) -> npt.NDArray[np.int64]:
    """Bucket 0..num_buckets-1 of each id [E], the same on every machine and in every version of every library.

    A polynomial hash of the UTF-8 bytes and murmur3's finalizer, in wrapping 64-bit arithmetic: polars' and pandas'
    own hashes may change with their versions, and with them the shard that a user is in and the fingerprint.
    """
    if not len(ids):
        return np.zeros(0, np.int64)
    distinct = ids.unique()
    array = distinct.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_string())
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(array.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64)
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    assert lengths.min() > 0, "ids are never empty"
    place = np.arange(len(data)) - np.repeat(starts, lengths)
    powers = np.cumprod(np.full(int(lengths.max()), 0x100000001B3, np.uint64))
    value = np.add.reduceat((data + np.uint64(1)) * powers[place], starts)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ (value >> np.uint64(33))) * np.uint64(factor)
    bucket = ((value ^ (value >> np.uint64(33))) % np.uint64(num_buckets)).astype(np.int64)
    table = pl.DataFrame({"id": distinct, "bucket": bucket})
    return ids.to_frame("id").join(table, on="id", how="left", maintain_order="left")["bucket"].to_numpy()


def drop_duplicates(events: pl.DataFrame) -> pl.DataFrame:
    """[E] -> [<= E]: of events equal in everything but `order`, the first of the log stays."""
    same = [USER_ID, ITEM_ID, TIMESTAMP, RATING, EVENT_TYPE]
    return events.sort("order").unique(subset=same, keep="first", maintain_order=True)


def sort_events(events: pl.DataFrame) -> pl.DataFrame:
    """[E] by user, time, and place in the log where times are equal."""
    return events.sort(USER_ID, TIMESTAMP, "order")


def drop_short_users(events: pl.DataFrame, min_user_events: int) -> pl.DataFrame:
    """[E] -> [<= E]: the events of users who have at least `min_user_events` of them, in the order given."""
    return events.filter(pl.len().over(USER_ID) >= min_user_events)


def temporal_cuts(
    times: pl.DataFrame, valid_from: float | None = None, test_from: float | None = None
) -> tuple[float, float]:
    """Cut times, seconds since 1970: those given, else the exact 80% and 90% quantiles.

    `times`: `timestamp` and `count`, in any order, a timestamp any number of times. The q-quantile of n events is the
    timestamp at index floor(q * n) of the sorted log, so that a log of distinct times has exactly that share before it.
    """
    ranked = times.group_by(TIMESTAMP).agg(pl.col("count").sum()).sort(TIMESTAMP)
    ends = ranked["count"].cum_sum().to_numpy()

    def quantile(tenths: int) -> float:
        return float(ranked[TIMESTAMP][int(np.searchsorted(ends, int(ends[-1]) * tenths // 10, side="right"))])

    return (
        quantile(8) if valid_from is None else valid_from,
        quantile(9) if test_from is None else test_from,
    )


def assign_splits(
    events: pl.DataFrame, kind: SplitKind, valid_from: float | None = None, test_from: float | None = None
) -> pl.DataFrame:
    """Adds `position` in the user's history, `train_end` and `valid_end` (Int32, [E]) to events that are sorted.

    Events [0, train_end) of a user train, [train_end, valid_end) validate, the rest test. `leave_one_out`: the last
    event tests, the last but one validates. `temporal`: an event at or after a cut is behind it; a user whose first
    event is behind `valid_from` has train_end 0.
    """
    if kind == "leave_one_out":
        train_end, valid_end = pl.len() - 2, pl.len() - 1
    else:
        train_end = (pl.col(TIMESTAMP) < valid_from).sum()
        valid_end = (pl.col(TIMESTAMP) < test_from).sum()
    return events.with_columns(
        pl.int_range(pl.len(), dtype=pl.Int32).over(USER_ID).alias("position"),
        train_end.cast(pl.Int32).over(USER_ID).alias("train_end"),
        valid_end.cast(pl.Int32).over(USER_ID).alias("valid_end"),
    )


def count_train_items(events: pl.DataFrame) -> pl.DataFrame:
    """[E] with splits -> item_id, num_train_events: how often each item occurs in the training part."""
    train = events.filter(pl.col("position") < pl.col("train_end"))
    return train.group_by(ITEM_ID).agg(pl.len().cast(pl.Int64).alias("num_train_events"))


def build_vocabulary(counts: pl.DataFrame, titles: pl.DataFrame | None = None) -> pa.Table:
    """Counts (item_id, num_train_events; an item any number of times) -> VOCABULARY_SCHEMA [V].

    Numbers 1..V by falling count, ties by raw id, byte by byte. `titles`: item_id, title; the first title of an id
    counts, and an item without one has null.
    """
    total = counts.group_by(ITEM_ID).agg(pl.col("num_train_events").sum())
    total = total.sort(["num_train_events", ITEM_ID], descending=[True, False])
    if titles is None:
        titles = pl.DataFrame(schema={ITEM_ID: pl.String, "title": pl.String})
    titles = titles.unique(subset=ITEM_ID, keep="first", maintain_order=True)
    numbered = total.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("item"))
    joined = numbered.join(titles, on=ITEM_ID, how="left", maintain_order="left")
    return _to_arrow(joined, VOCABULARY_SCHEMA)


def encode_histories(
    events: pl.DataFrame, vocabulary: pl.DataFrame, has_ratings: bool, has_event_types: bool
) -> pa.Table:
    """Sorted events with splits [E] -> HISTORY_SCHEMA [U], users by id; items outside `vocabulary` become UNKNOWN.

    `has_ratings` and `has_event_types` are facts of the whole log: without them the column is null for every user.
    """
    numbers = vocabulary.select(ITEM_ID, pl.col("item").cast(pl.Int32))
    encoded = events.join(numbers, on=ITEM_ID, how="left", maintain_order="left")
    histories = encoded.group_by(USER_ID, maintain_order=True).agg(
        pl.col("item").fill_null(UNKNOWN).alias("items"),
        pl.col(TIMESTAMP).alias("timestamps"),
        pl.col(RATING).alias("ratings"),
        pl.col(EVENT_TYPE).alias("event_types"),
        pl.col("train_end", "valid_end").first(),
    )
    if not has_ratings:
        histories = histories.with_columns(pl.lit(None, pl.List(pl.Float32)).alias("ratings"))
    if not has_event_types:
        histories = histories.with_columns(pl.lit(None, pl.List(pl.String)).alias("event_types"))
    return _to_arrow(histories, HISTORY_SCHEMA)


def _to_arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    table = frame.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest())
    # rechunked, so that the bytes of the file written from it do not depend on how the work was split
    return table.cast(schema).combine_chunks()

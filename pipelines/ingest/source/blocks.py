"""Blocks of parsed rows, in the one form that every reader gives them: events, rows set aside, ids spelled anew."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mgray.ingest.parse import MAX_TIME_S, UNITS, date_format, epoch_seconds, finer_unit, id_text, parse_events
from mgray.schema import FEATURE, ITEM_ID, NUMBER_COLUMNS, TIMESTAMP, USER_ID
from pipelines.ingest.source.layouts import Layout
from pipelines.ingest.source.rows import TORN

DATE_ROWS = 1000  # rows of a range whose times are looked at for dates written as numbers

# Role (user_id, item_id) -> ids that the rule of ids changed: id, and by: RESPELLED, or BOTH_WAYS where the log has the
# id as it is too. Rows that are set aside count, so an id need not be among the events.
Respelled = Mapping[str, pa.Table]
AS_IT_IS, RESPELLED = 1, 2
BOTH_WAYS = AS_IT_IS | RESPELLED
_RESPELLED_SCHEMA = pa.schema([("id", pa.string()), ("by", pa.uint8())])


class Block(NamedTuple):
    """Rows of a log: `events` has ids and columns of names as text; timestamp, numbers and features as float64."""

    events: pa.Table
    bad: pl.DataFrame | None  # line, reason, raw
    finer: Counter[str] | None = None  # rows of `bad` by the unit in which their time seems to be
    respelled: Respelled = MappingProxyType({})
    dates: str | None = None  # the format of dates in which the times seem to be written, where no row is good


def parse_block(rows: pl.DataFrame, layout: Layout, unit: str) -> Block:
    """Parses rows, of text or of typed columns. What the path tells, and a missing time, is the same in every row."""
    given = {role: pl.lit(value, pl.String) for role, value in (layout.partitions or {}).items()}
    if not layout.has_times:
        given[TIMESTAMP] = pl.lit("0")
    rows = rows.with_columns(**given)
    events, bad = parse_events(rows, unit, layout.timestamp_format)
    dates = date_format(rows[TIMESTAMP].head(DATE_ROWS)) if bad.height and not events.height else None
    is_unit = bad.height and layout.timestamp_format is None
    finer = Counter(finer_unit(rows[TIMESTAMP], unit).drop_nulls().to_list()) if is_unit else Counter[str]()
    del finer[""]  # a time in no unit
    torn = bad["reason"] == TORN
    if torn.any():
        # Two stray quotes make one row of all lines between them. Counted as one, they would slip under the limit of
        # data.max_quarantined_share.
        lines = pl.when(torn).then(pl.col("raw").str.split("\n")).otherwise(pl.concat_list("raw"))
        bad = bad.with_columns(lines.alias("raw")).with_columns(pl.int_ranges(pl.col("raw").list.len()).alias("at"))
        bad = bad.explode("raw", "at").with_columns(pl.col("line") + pl.col("at")).drop("at")
    texts = {role: rows[role].cast(pl.String) for role in (USER_ID, ITEM_ID) if not rows[role].dtype.is_numeric()}
    distinct = {role: text.drop_nulls().unique() for role, text in texts.items()}
    found = {role: respelled_ids(text, id_text(text)) for role, text in distinct.items()}
    return Block(
        events.to_arrow(compat_level=pl.CompatLevel.oldest()),
        bad if bad.height else None,
        finer or None,
        {role: table for role, table in found.items() if table is not None},
        dates,
    )


def with_bad(block: Block, lines: npt.NDArray[np.int64], reasons: dict[int, str], raws: list[str]) -> Block:
    """Adds rows set aside to a block. reasons: by place in `lines`; raws: a text for each reason."""
    if not reasons:
        return block
    found = {"line": lines[list(reasons)], "reason": list(reasons.values()), "raw": raws}
    bad = pl.DataFrame(found, {"line": pl.Int64, "reason": pl.String, "raw": pl.String})
    bad = bad if block.bad is None else pl.concat([bad, block.bad.select(bad.columns)])
    return block._replace(bad=bad.sort("line", maintain_order=True))


def respelled_ids(given: pl.Series, text: pl.Series) -> pa.Table | None:
    """The table of `Respelled` for one column; None: no id changed. given: distinct texts [D]; text: their ids [D]."""
    changed = (given != text).fill_null(False)
    if not changed.any():
        return None
    ids = text.filter(changed)
    again = ids.is_in(text.filter(~changed).implode()) | ids.is_duplicated()
    by = pl.select(pl.when(again).then(BOTH_WAYS).otherwise(RESPELLED).cast(pl.UInt8).alias("by")).to_series()
    table = pl.DataFrame({"id": ids, "by": by})
    table = table.unique("id") if again.any() else table
    return table.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(_RESPELLED_SCHEMA)


def checked_block(table: pa.Table, unit: str, form: str | None = None) -> Block | None:
    """The block of typed columns; None where a row needs a reason: no id, no number, or a time beyond MAX_TIME_S."""
    respelled: dict[str, pa.Table] = {}
    for role in (USER_ID, ITEM_ID):
        ids = table[role].combine_chunks()
        if isinstance(ids, pa.ChunkedArray):  # no chunk at all
            ids = pa.chunked_array(ids).combine_chunks() if ids.num_chunks else pa.array([], pa.string())
        ids = ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()
        given = pl.Series(role, pl.from_arrow(ids.dictionary))
        # by the rule of the careful path: Arrow's own regular expressions take a no-break space for text
        text = id_text(given)
        if ids.null_count or text.null_count():
            return None
        found = respelled_ids(given, text)
        if found is not None:
            respelled[role] = found
            meet = pc.any(pc.equal(found["by"], BOTH_WAYS)).as_py()
            ids = merge_words(ids, text) if meet else replace_words(ids, text)
        table = table.set_column(table.column_names.index(role), role, ids)
    time = table[TIMESTAMP]
    if pa.types.is_string(time.type):
        seconds = epoch_seconds(pl.Series(TIMESTAMP, pl.from_arrow(time)), unit, form)
        time = seconds.to_arrow(compat_level=pl.CompatLevel.oldest())
    elif UNITS[unit] != 1:
        time = pc.divide(time, UNITS[unit])
    if time.null_count or not _all(pc.less(pc.abs(time), MAX_TIME_S)):  # false for NaN
        return None
    table = table.set_column(table.column_names.index(TIMESTAMP), TIMESTAMP, time)
    stored = {column.role: pa.from_numpy_dtype(column.dtype) for column in NUMBER_COLUMNS}
    for name in table.column_names:
        if name in stored or name.startswith(FEATURE):
            numbers = table[name].drop_null()
            if pa.types.is_string(numbers.type):  # from the file's path
                return None
            if not _all(pc.is_finite(numbers.cast(stored[name]) if name in stored else numbers)):
                return None
    return Block(table, None, None, respelled)


def replace_words(ids: pa.DictionaryArray, text: pl.Series) -> pa.DictionaryArray:
    """Replaces the dictionary's words by others [D], all different."""
    return pa.DictionaryArray.from_arrays(
        ids.indices, text.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
    )


def merge_words(ids: pa.DictionaryArray, text: pl.Series) -> pa.DictionaryArray:
    """Replaces the dictionary's words by others [D], of which some may be equal."""
    words = text.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(words.indices.take(ids.indices), words.dictionary)


def _all(values: pa.Array) -> bool:
    return bool(pc.all(values, min_count=0).as_py())

"""Reads ranges of Parquet files, whose columns have types, into blocks."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.parquet as pq

from mgray.ingest.parse import epoch_seconds, id_text
from mgray.schema import ITEM_ID, TIMESTAMP, value_kind
from pipelines.ingest.source import nested
from pipelines.ingest.source.blocks import Block, checked_block, merge_words, parse_block, replace_words, with_bad
from pipelines.ingest.source.filesystems import open_random
from pipelines.ingest.source.layouts import Layout
from pipelines.ingest.source.log_files import LogFile
from pipelines.ingest.source.ranges import CHUNK_BYTES, Range

PARQUET_ROWS = 1 << 20  # rows in memory at a time; a row group may hold any number
HISTORY_ROWS = 1 << 12  # the same where a row is a list of events


def read_parquet(file: LogFile, layout: Layout, extent: Range, unit: str) -> Iterator[Block]:
    names = list(dict.fromkeys(layout.columns.values()))
    stored = [name for name in layout.header if name in names or any(one.startswith(f"{name}.") for one in names)]
    row, size = extent.first_line, HISTORY_ROWS if layout.is_histories else PARQUET_ROWS
    # with a buffer, pages are read as they are needed, not a whole row group's at once
    with open_random(file.path) as source, pq.ParquetFile(source, buffer_size=CHUNK_BYTES) as parquet:
        stop = parquet.num_row_groups if extent.stop is None else extent.stop
        for batch in parquet.iter_batches(size, row_groups=range(extent.start, stop), columns=stored):
            yield read_parquet_batch(batch, layout, row, unit)
            row += batch.num_rows


def read_parquet_batch(batch: pa.RecordBatch, layout: Layout, first_row: int, unit: str) -> Block:
    table = pa.Table.from_batches([batch])
    lines, reasons = np.arange(first_row, first_row + batch.num_rows), dict[int, str]()
    try:
        names = dict.fromkeys(layout.columns.values())
        columns = {name: nested.column_at(table, name) for name in names}
        if layout.is_histories:
            found = nested.explode(columns, layout.columns[ITEM_ID], batch.num_rows, layout.columns)
            events, row_lines, reasons = pa.table(found.columns), lines[found.row], found.reasons
        else:
            events, row_lines = pa.table({name: column.values for name, column in columns.items()}), lines
        fast = _fast_columns(events, layout, unit)
        if fast is not None:
            block = fast
        else:
            frame = pl.DataFrame(pl.from_arrow(events)).with_columns(cs.binary().cast(pl.String))
            by_role = {role: frame[name].rename(role) for role, name in layout.columns.items()}
            block = parse_block(pl.DataFrame({"line": row_lines, **by_role}), layout, unit)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException) as error:
        # bytes that are no UTF-8, or a type that is not handled
        raise pa.ArrowInvalid(f"a column cannot be read as text: {error}") from error
    return with_bad(block, lines, reasons, nested.raw_rows(table, list(reasons)))


def _fast_columns(table: pa.Table, layout: Layout, unit: str) -> Block | None:
    """Reads typed columns as events, each distinct id spelled once; None: some row needs a reason."""
    columns: dict[str, pa.ChunkedArray] = {}
    for role, name in layout.columns.items():
        column, kind = table[name], value_kind(role)
        if kind is None:
            encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            encoded = encoded.unify_dictionaries().combine_chunks()
            if not len(encoded):
                return None
            encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
            values = pl.Series(name, pl.from_arrow(encoded.dictionary))
            text = values.cast(pl.String) if values.dtype in (pl.String, pl.Binary) else id_text(values)
            if encoded.null_count or text.null_count():
                return None
            may_meet = values.dtype.is_float()  # 0.0 and -0.0 are one
            columns[role] = merge_words(encoded, text) if may_meet else replace_words(encoded, text)
        elif kind == "time":
            seconds = epoch_seconds(pl.Series(name, pl.from_arrow(column)), unit, layout.timestamp_format)
            columns[role] = seconds.to_arrow(compat_level=pl.CompatLevel.oldest())
        elif kind == "name":  # by polars, like the careful path: Arrow spells 1.0 as "1"
            text = pl.Series(name, pl.from_arrow(column)).cast(pl.String)
            columns[role] = text.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            columns[role] = column.cast(pa.float64(), safe=False)  # whole numbers from 2**53 on are rounded
        else:
            return None
    for role, value in (layout.partitions or {}).items():
        kind = value_kind(role)
        if kind == "time":
            time = epoch_seconds(pl.Series([value], dtype=pl.String), unit, layout.timestamp_format)[0]
            columns[role] = pa.repeat(pa.scalar(time, pa.float64()), table.num_rows)
        elif kind in (None, "name"):
            columns[role] = pa.repeat(pa.scalar(value, pa.string()), table.num_rows)
        else:  # text where a number belongs
            return None
    if not layout.has_times:
        columns[TIMESTAMP] = pa.array(np.zeros(table.num_rows))
    # seconds by now, whatever the unit was
    return checked_block(pa.table(columns), "s")

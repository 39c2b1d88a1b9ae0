"""Reads a range of a log file into blocks of typed events.

Text has two paths. The fast one hands whole blocks to Arrow's CSV reader, after checks that leave it no room to guess
(no stray quote, no lone carriage return, no NUL). Where Arrow refuses, or an id is blank, the careful one reads the
block row by row, and names the line and the reason of each row that cannot be read. A test holds the two equal.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa

from mgray.errors import InputError
from mgray.ingest.parse import UNITS, date_format
from mgray.schema import TIMESTAMP
from pipelines.ingest.source import ranges
from pipelines.ingest.source.blocks import DATE_ROWS, Block
from pipelines.ingest.source.careful_text import read_careful
from pipelines.ingest.source.dialects import transcode
from pipelines.ingest.source.fast_text import BOM, read_fast
from pipelines.ingest.source.filesystems import open_random
from pipelines.ingest.source.layouts import Layout, open_text
from pipelines.ingest.source.log_files import LogFile
from pipelines.ingest.source.parquet_rows import read_parquet
from pipelines.ingest.source.ranges import Range, endless_error, last_row_end

RETRY_BYTES = 1 << 20  # a block that the fast path refuses is tried again in pieces of about this size
UNIT_ROWS = 100  # rows that tell whether times are in another unit than data.columns.timestamp_unit
UNIT_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}
UNIT_NAMES = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def read_range(file: LogFile, layout: Layout, extent: Range, unit: str, block_bytes: int) -> Iterator[Block]:
    """Yields the events of a range, in blocks of about `block_bytes` of text. Blank lines are no rows.

    unit: what timestamps that are numbers count. Raises one of READ_ERRORS where the bytes cannot be read, and
    InputError where a row does not end within MAX_ROW_BYTES, or where most times seem to be in another unit, or all to
    be dates.
    """
    blocks = (
        read_parquet(file, layout, extent, unit)
        if file.format == "parquet"
        else _read_text_range(file, layout, extent, unit, block_bytes)
    )
    num_rows, finer = 0, Counter[str]()
    for block in blocks:
        if not num_rows:
            _check_no_dates(file, layout, block, unit)
        num_rows += block.events.num_rows + (0 if block.bad is None else block.bad.height)
        finer.update(block.finer or {})
        if finer and num_rows >= UNIT_ROWS and 2 * max(finer.values()) > num_rows:
            ((found, count),) = finer.most_common(1)
            mend = "divide them by 1000 and set it to us" if found == "ns" else f"set it to {found}"
            raise InputError(
                f"{file.path}: {count} of {num_rows} timestamps from line {extent.first_line} on look like "
                f"{UNIT_NAMES[found]}, and data.columns.timestamp_unit is {unit}: {mend}"
            )
        yield block


def _check_no_dates(file: LogFile, layout: Layout, block: Block, unit: str) -> None:
    """Raises InputError where the times of a range's first block are numbers such as 20191001."""
    if layout.is_unit_given or layout.timestamp_format is not None or not layout.has_times:
        return
    form = block.dates
    if block.events.num_rows:
        seconds = block.events[TIMESTAMP][:DATE_ROWS].to_numpy()
        form = date_format(pl.Series(np.rint(seconds * UNITS[unit] * 1e3) / 1e3))
    if form is not None:
        raise InputError(
            f"{file.path}: its timestamps look like dates written as numbers, and would be read as {UNIT_WORDS[unit]} "
            f"since 1970; give --data.columns.timestamp_format {form}, or, where they are no dates, "
            f"--data.columns.timestamp_unit {unit}"
        )


def _read_text_range(file: LogFile, layout: Layout, extent: Range, unit: str, block_bytes: int) -> Iterator[Block]:
    line = extent.first_line
    for number, data in enumerate(_text_blocks(file, layout, extent, block_bytes)):
        block = data.removeprefix(BOM) if extent.start == 0 and not number else data
        yield from _read_text(block, file, layout, line, unit)
        line += 0 if layout.splits(file) else data.count(b"\n")  # a range of a file that can be split is one block


def _text_blocks(file: LogFile, layout: Layout, extent: Range, block_bytes: int) -> Iterator[bytes]:
    """Yields bytes of whole rows, converted to UTF-8."""
    encoding = None if layout.is_wide else layout.encoding
    if layout.splits(file):
        with open_random(file.path) as stream:
            stream.seek(extent.start)
            data = stream.read(None if extent.stop is None else extent.stop - extent.start)
        if extent.stop is not None and len(data) < extent.stop - extent.start:
            raise EOFError("it became shorter while it was read")
        yield transcode(data, encoding)
        return
    quoted = layout.has_quoting(file)
    with open_text(file, layout.encoding) as stream:
        _skip(stream, extent.start)
        left, line = b"", extent.first_line
        while chunk := stream.read(block_bytes):
            data = left + chunk
            end = last_row_end(data, quoted)
            if end:
                yield transcode(data[:end], encoding)
                line += data.count(b"\n", 0, end)
            left = data[end:]
            if len(left) > ranges.MAX_ROW_BYTES:
                raise endless_error(file, layout, left, line)
        if left:
            yield transcode(left, encoding)


def _skip(stream: pa.NativeFile, count: int) -> None:
    while count > 0:
        got = len(stream.read(min(count, ranges.CHUNK_BYTES)))
        if not got:
            return
        count -= got


def _read_text(data: bytes, file: LogFile, layout: Layout, first_line: int, unit: str) -> Iterator[Block]:
    if file.format != "jsonl" or layout.is_histories:
        fast = read_fast(data, file, layout, unit)
        if fast is not None:
            yield fast
            return
        if b'"' not in data or not layout.has_quoting(file):
            # Smaller pieces: one odd row should not make a whole range slow, nor a block of histories large.
            while len(data) > RETRY_BYTES:
                end = data.find(b"\n", RETRY_BYTES) + 1
                if not end:
                    break
                piece, data = data[:end], data[end:]
                yield read_fast(piece, file, layout, unit) or read_careful(piece, file, layout, first_line, unit)
                first_line += piece.count(b"\n")
    if data:
        yield read_careful(data, file, layout, first_line, unit)

"""Reads log files by ranges: digests and cuts a file into ranges, and a range into raw columns with line numbers."""

import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mgray.schema import ITEM_ID, TIMESTAMP, USER_ID
from pipelines.sources import SEPARATORS, LogFile

CHUNK_BYTES = 4 << 20
BOM = b"\xef\xbb\xbf"


class Range(NamedTuple):
    """Bytes [start, stop) of a text file, or row groups [start, stop) of a Parquet file; stop None: to the end."""

    start: int
    stop: int | None
    first_line: int  # of the range's first row


class Scan(NamedTuple):
    bytes: int
    sha256: str
    ranges: list[Range]


def scan(file: LogFile, range_bytes: int) -> Scan:
    """One pass over a file's bytes: its digest, and ranges of about `range_bytes` that end where a row ends.

    A newline inside a CSV's quotes ends no row: a cut needs an even number of quotes before it. A compressed file is
    one range. Line numbers are counted on the way, so that a range knows its own without reading those before it.
    """
    sha256 = hashlib.sha256()
    cuts: list[tuple[int, int]] = []  # offset, lines before it
    split = file.format != "parquet" and not file.compressed
    next_cut, offset, num_lines, num_quotes = file.data_start + range_bytes, 0, 0, 0
    with file.path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            sha256.update(chunk)
            done = 0  # bytes of the chunk whose quotes are counted
            while split and next_cut <= offset + len(chunk):
                end = chunk.find(b"\n", max(next_cut - 1 - offset, 0)) + 1
                if not end:
                    break
                if file.format == "csv":
                    num_quotes += chunk.count(b'"', done, end)
                    done = end
                if num_quotes % 2:
                    next_cut = offset + end + 1
                    continue
                cuts.append((offset + end, num_lines + chunk.count(b"\n", 0, end)))
                next_cut = offset + end + range_bytes
            num_quotes += chunk.count(b'"', done) if file.format == "csv" else 0
            num_lines += chunk.count(b"\n")
            offset += len(chunk)
    if file.format == "parquet":
        return Scan(offset, sha256.hexdigest(), _row_group_ranges(file.path, range_bytes))
    if file.compressed:
        return Scan(offset, sha256.hexdigest(), [Range(file.data_start, None, file.first_line)])
    starts = [(file.data_start, file.first_line - 1), *(cut for cut in cuts if cut[0] < offset)]
    stops = [start for start, _ in starts[1:]] + [offset]
    ranges = [Range(start, stop, lines + 1) for (start, lines), stop in zip(starts, stops, strict=True) if start < stop]
    return Scan(offset, sha256.hexdigest(), ranges)


def _row_group_ranges(path: Path, range_bytes: int) -> list[Range]:
    metadata = pq.read_metadata(path)
    ranges: list[Range] = []
    start, size, row, first_row = 0, 0, 1, 1
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        size += group.total_byte_size
        row += group.num_rows
        if size >= range_bytes or index + 1 == metadata.num_row_groups:
            ranges.append(Range(start, index + 1, first_row))
            start, size, first_row = index + 1, 0, row
    return ranges


def read_range(file: LogFile, part: Range) -> pl.DataFrame:
    """The rows of a range: `line`, a column a role (text, or typed from Parquet), and from text `raw` and `problem`.

    Blank lines are no rows. Raises OSError, EOFError, zlib.error or pa.ArrowInvalid where the bytes cannot be read.
    """
    if file.format == "parquet":
        stop = pq.read_metadata(file.path).num_row_groups if part.stop is None else part.stop
        names = list(dict.fromkeys(file.columns.values()))
        with pq.ParquetFile(file.path) as parquet:
            table = parquet.read_row_groups(range(part.start, stop), columns=names)
        frame = pl.DataFrame(pl.from_arrow(table))
        columns = {role: frame[name].rename(role) for role, name in file.columns.items()}
        lines = pl.int_range(part.first_line, part.first_line + frame.height, dtype=pl.Int64, eager=True)
        return pl.DataFrame({"line": lines, **columns})
    if file.compressed:
        with gzip.open(file.path) as packed:
            data = packed.read()[part.start :]
    else:
        with file.path.open("rb") as plain:
            plain.seek(part.start)
            data = plain.read(-1 if part.stop is None else part.stop - part.start)
    if part.start == 0:
        data = data.removeprefix(BOM)
    records = split_records(data, part.first_line, quoted=file.format == "csv")
    if file.format == "jsonl":
        return _json_columns(records, file.columns)
    return _separated_columns(records, file)


def split_records(data: bytes, first_line: int, quoted: bool) -> pl.DataFrame:
    """Text of rows to `line`, `raw`, `problem` (null, or that its bytes are no UTF-8), blank lines left out.

    With `quoted`, a row goes on past newlines inside double quotes; its line is its first one.
    """
    array = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(array == ord("\n"))
    ends, lines = newlines, np.arange(len(newlines))
    if quoted and b'"' in data:
        outside = np.searchsorted(np.flatnonzero(array == ord('"')), newlines) % 2 == 0
        ends, lines = newlines[outside], lines[outside]
    lines = np.concatenate([[0], lines + 1]) + first_line
    offsets = np.concatenate([[0], ends + 1, [len(data)] if not len(ends) or ends[-1] + 1 < len(data) else []])
    offsets = offsets.astype(np.int64)
    try:
        data.decode()
        valid, kind = data, pa.large_string()
    except UnicodeDecodeError:
        valid, kind = data, pa.large_binary()
    text = pa.Array.from_buffers(kind, len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(valid)])
    column = pl.Series("raw", pl.from_arrow(text))
    problem = pl.repeat(None, len(column), dtype=pl.String, eager=True)
    if kind == pa.large_binary():
        decoded = _decode_lossy(data, offsets)
        problem = pl.select(
            pl.when(decoded.cast(pl.Binary) != column).then(pl.lit("the row is not valid UTF-8"))
        ).to_series()
        column = decoded
    records = pl.DataFrame(
        {"line": lines[: len(column)], "raw": column.str.strip_chars_end("\r\n"), "problem": problem},
        schema_overrides={"line": pl.Int64},
    )
    # a TSV row of tabs alone is a row of empty fields, not a blank line
    return records.filter(~pl.col("raw").str.contains("^ *$"))


def _decode_lossy(data: bytes, offsets: np.ndarray) -> pl.Series:
    """Rows with U+FFFD in place of what is no UTF-8. Newlines stay, and so does the number of rows."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    lossy = data.decode(errors="replace").encode()
    lossy_ends = np.flatnonzero(np.frombuffer(lossy, np.uint8) == ord("\n"))
    assert len(ends) == len(lossy_ends), "a newline is never part of a broken sequence"
    moved = np.concatenate([[0], lossy_ends + 1, [len(lossy)]])
    places = np.searchsorted(np.concatenate([[0], ends + 1]), offsets[:-1])
    starts = np.concatenate([moved[places], [len(lossy)]]).astype(np.int64)
    array = pa.Array.from_buffers(pa.large_string(), len(starts) - 1, [None, pa.py_buffer(starts), pa.py_buffer(lossy)])
    return pl.Series("raw", pl.from_arrow(array))


def _separated_columns(records: pl.DataFrame, file: LogFile) -> pl.DataFrame:
    separator = SEPARATORS[file.format]
    raw = records["raw"]
    fields = raw.str.split(separator)
    problem = records["problem"]
    if file.format == "csv":
        has_quotes = raw.str.contains('"', literal=True)
        if has_quotes.any():
            quoted, wrong = _unquote(raw.filter(has_quotes), separator)
            places = has_quotes.arg_true()
            table = fields.to_frame("fields").with_row_index("row")
            fields = table.update(pl.DataFrame({"row": places, "fields": quoted}), on="row")["fields"]
            problem = problem.scatter(places.filter(wrong), "its quotes do not match")
    expected = len(file.header)
    wrong_number = pl.when(fields.list.len() != expected).then(
        pl.format("{} fields where the header names {}", fields.list.len(), pl.lit(expected))
    )
    columns = {
        role: fields.list.get(file.header.index(name), null_on_oob=True).rename(role)
        for role, name in file.columns.items()
    }
    return records.with_columns(pl.coalesce(problem, wrong_number).alias("problem"), *columns.values())


def _unquote(raw: pl.Series, separator: str) -> tuple[pl.Series, pl.Series]:
    """Rows with quotes to lists of fields without them, and which rows break the rule (RFC 4180)."""
    led = separator + raw  # so that every field, the first one too, begins with a separator
    parts = led.str.extract_all(f'{separator}(?:"(?:[^"]|"")*"|[^"{separator}]*)')
    wrong = parts.list.join("") != led
    field = pl.element().str.slice(1)
    plain = pl.when(field.str.starts_with('"')).then(
        field.str.slice(1, field.str.len_chars() - 2).str.replace_all('""', '"', literal=True)
    )
    return parts.list.eval(plain.otherwise(field)), wrong


def _json_columns(records: pl.DataFrame, columns: dict[str, str]) -> pl.DataFrame:
    raw = records["raw"]
    found: dict[str, pl.Series] = {}
    for role, name in columns.items():
        key = name.replace("\\", "\\\\").replace("'", "\\'")
        value = raw.str.json_path_match(f"$['{key}']").rename(role)
        # a path's answer does not tell the number 12.0 from the text "12.0": both are the id 12
        found[role] = value.str.replace(r"^(-?\d+)\.0+$", "${1}") if role in (USER_ID, ITEM_ID) else value
    frame = records.with_columns(*found.values())
    missing = frame.select(pl.any_horizontal(pl.col(USER_ID, ITEM_ID, TIMESTAMP).is_null())).to_series()
    no_object = pl.when(missing & ~raw.str.json_path_match("$").fill_null("").str.starts_with("{")).then(
        pl.lit("the row is not a JSON object")
    )
    inexact = pl.any_horizontal(pl.col(USER_ID, ITEM_ID).str.contains(r"^-?\d(\.\d+)?e[+]?\d+$"))
    too_large = pl.when(inexact).then(pl.lit("an id is a number too large to be exact: write it as text"))
    return frame.with_columns(pl.coalesce("problem", no_object, too_large).alias("problem"))

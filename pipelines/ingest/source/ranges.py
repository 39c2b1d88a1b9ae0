"""Inspects a log file: its digest, and the ranges of whole rows in which it can be read."""

import hashlib
from typing import NamedTuple

import pyarrow.parquet as pq

from mgray.errors import InputError
from pipelines.ingest.source.filesystems import open_random
from pipelines.ingest.source.layouts import Layout
from pipelines.ingest.source.log_files import LogFile

CHUNK_BYTES = 4 << 20
MAX_ROW_BYTES = 64 << 20  # of text; a longer row has an open quote, or the file is no text of rows


class Range(NamedTuple):
    """Bytes [start, stop) of a text file, or row groups [start, stop) of a Parquet file; stop None: to the end."""

    start: int
    stop: int | None
    first_line: int  # of the range's first row
    bytes: int  # about how much there is to read


class Inspection(NamedTuple):
    """Findings of one pass over a file's bytes."""

    bytes: int
    sha256: str
    ranges: list[Range]


def inspect_file(file: LogFile, layout: Layout, range_bytes: int) -> Inspection:
    """Finds a file's digest, and ranges of about `range_bytes` that end where a row ends, in one pass over its bytes.

    A newline inside a CSV's quotes ends no row: a cut needs an even number of quotes before it. A compressed file is
    one range. Lines are counted on the way, so that a range has its first line number without reading those before.
    Raises InputError: a row does not end within MAX_ROW_BYTES.
    """
    sha256 = hashlib.sha256()
    cuts: list[tuple[int, int]] = []  # offset, lines before it
    split = file.format != "parquet" and layout.splits(file)
    quoted = layout.has_quoting(file)
    wanted = next_cut = layout.data_start + range_bytes
    offset, num_lines, num_quotes = 0, 0, 0
    with open_random(file.path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            sha256.update(chunk)
            # bytes of the chunk whose quotes are counted; the header's are no rows'
            done = min(max(layout.data_start - offset, 0), len(chunk))
            while split and next_cut <= offset + len(chunk):
                end = chunk.find(b"\n", max(next_cut - 1 - offset, 0)) + 1
                if not end:
                    break
                if quoted:
                    num_quotes += chunk.count(b'"', done, end)
                    done = end
                if num_quotes % 2:  # no row ends before the next quote
                    quote = chunk.find(b'"', end)
                    next_cut = offset + (quote if quote >= 0 else len(chunk)) + 1
                    continue
                cuts.append((offset + end, num_lines + chunk.count(b"\n", 0, end)))
                wanted = next_cut = offset + end + range_bytes
            if split:
                if offset + len(chunk) - wanted > MAX_ROW_BYTES:
                    start, lines = cuts[-1] if cuts else (layout.data_start, layout.first_line - 1)
                    stream.seek(start)
                    raise endless_error(file, layout, stream.read(wanted + MAX_ROW_BYTES - start), lines + 1)
                num_quotes += chunk.count(b'"', done) if quoted else 0
                num_lines += chunk.count(b"\n")
            offset += len(chunk)
    if file.format == "parquet":
        return Inspection(offset, sha256.hexdigest(), _row_group_ranges(file.path, range_bytes))
    if not layout.splits(file):
        text_bytes = 4 * offset if file.compression else offset
        return Inspection(offset, sha256.hexdigest(), [Range(layout.data_start, None, layout.first_line, text_bytes)])
    starts = [(layout.data_start, layout.first_line - 1), *(cut for cut in cuts if cut[0] < offset)]
    stops = [start for start, _ in starts[1:]] + [offset]
    ranges = [
        Range(start, stop, lines + 1, stop - start)
        for (start, lines), stop in zip(starts, stops, strict=True)
        if start < stop
    ]
    return Inspection(offset, sha256.hexdigest(), ranges)


def endless_error(file: LogFile, layout: Layout, data: bytes, first_line: int) -> InputError:
    """Makes the error of a row that does not end: the last one in `data`, which begins with a row."""
    quoted = layout.has_quoting(file)
    end = last_row_end(data, quoted)
    line, size = first_line + data.count(b"\n", 0, end), f"{MAX_ROW_BYTES >> 20} MB"
    if quoted and b'"' in data[end:]:
        return InputError(
            f"{file.path}: a quote that opens in the row of line {line} is not closed within {size}; close or double "
            "it, or, where quotes are text, give the log as .tsv, which has no quoting"
        )
    return InputError(
        f"{file.path}: the row of line {line} does not end within {size}; a row ends with a newline: mend or remove "
        "the file"
    )


def _row_group_ranges(path: str, range_bytes: int) -> list[Range]:
    with open_random(path) as source:
        metadata = pq.read_metadata(source)
    ranges: list[Range] = []
    start, size, row, first_row = 0, 0, 1, 1
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        size += group.total_byte_size
        row += group.num_rows
        if size >= range_bytes or index + 1 == metadata.num_row_groups:
            ranges.append(Range(start, index + 1, first_row, size))
            start, size, first_row = index + 1, 0, row
    return ranges


def last_row_end(data: bytes, quoted: bool) -> int:
    end = data.rfind(b"\n") + 1
    num_quotes = data.count(b'"', 0, end) if quoted else 0
    while num_quotes % 2:
        earlier = data.rfind(b"\n", 0, data.rfind(b'"', 0, end)) + 1
        num_quotes -= data.count(b'"', earlier, end)
        end = earlier
    return end

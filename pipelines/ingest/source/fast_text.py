"""Reads blocks of separated text by Arrow's CSV reader, wherever that cannot differ from the careful path."""

import numpy as np
import pyarrow as pa
import pyarrow.csv

from mgray.ingest.spelling import NO_VALUE
from mgray.schema import TIMESTAMP, value_kind
from pipelines.ingest.source.blocks import Block, checked_block
from pipelines.ingest.source.dialects import BLANKS, to_tabs
from pipelines.ingest.source.layouts import Layout
from pipelines.ingest.source.log_files import LogFile

BOM = b"\xef\xbb\xbf"


def read_fast(data: bytes, file: LogFile, layout: Layout, unit: str) -> Block | None:
    """Reads a text block by Arrow's CSV reader; None where the result could differ from that of `read_careful`."""
    if layout.is_histories:
        return None
    separator, quoted = layout.dialect(file)
    if b"\0" in data or (b"\r" in data and data.count(b"\r") != data.count(b"\r\n")):
        return None
    if data.startswith(BOM):  # text of the first row: the file's own mark is gone by now, and Arrow would drop this one
        return None
    has_quotes = quoted and b'"' in data
    if has_quotes and not (separator.isascii() and _is_well_quoted(data, separator)):
        return None
    if len(separator) > 1 or separator == BLANKS or not separator.isascii():
        tabbed = to_tabs(data, separator)
        if tabbed is None:
            return None
        data, separator = tabbed, "\t"
    names = [str(number) for number in range(len(layout.header))]  # a header may repeat a name
    places = {role: layout.header.index(name) for role, name in layout.columns.items()}
    has_numeric_times = (
        TIMESTAMP in places
        and layout.timestamp_format is None
        and _is_number(_first_field(data, separator, places[TIMESTAMP], has_quotes))
    )
    by_place: dict[str, pa.DataType] = {}
    for role, place in places.items():
        kind = value_kind(role)
        is_numeric = kind in ("number", "vector") or (kind == "time" and has_numeric_times)
        wanted = pa.float64() if is_numeric else pa.string()
        if by_place.setdefault(str(place), wanted) != wanted:
            return None  # one column in two roles that read it differently
    if len(by_place) < len(names) and not _is_utf8(data):  # Arrow checks only the columns that it reads
        return None
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=1 << 20, column_names=names),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if has_quotes else False,
                double_quote=has_quotes,
                newlines_in_values=has_quotes,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=by_place,
                include_columns=list(by_place),
                null_values=["", *NO_VALUE],
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return None
    table = pa.table({role: table[str(place)] for role, place in places.items()})
    return checked_block(_with_constants(table, layout), unit, layout.timestamp_format)


def _with_constants(table: pa.Table, layout: Layout) -> pa.Table:
    """Adds the columns that are the same in every row: what the path tells, and the time of a log without times."""
    for role, value in (layout.partitions or {}).items():
        table = table.append_column(role, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
    if not layout.has_times:
        table = table.append_column(TIMESTAMP, pa.array(np.zeros(table.num_rows)))
    return table


def _first_field(data: bytes, separator: str, place: int, has_quotes: bool) -> str:
    for line in data[: 1 << 16].split(b"\n", 2)[:2]:
        fields = line.rstrip(b"\r").split(separator.encode())
        if line.strip() and place < len(fields):
            return fields[place].decode(errors="replace").strip('"' if has_quotes else None)
    return ""


def _is_utf8(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_well_quoted(data: bytes, separator: str) -> bool:
    """Whether quotes obey RFC 4180: each pair opens at a field's start and closes at its end, or doubles."""
    text = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(text == ord('"'))
    if len(quotes) % 2:
        return False
    opening, closing = quotes[::2], quotes[1::2]
    borders = np.zeros(256, bool)
    borders[[ord(separator), ord("\n"), ord("\r")]] = True
    doubled = opening[1:] == closing[:-1] + 1
    starts_field = (opening == 0) | borders[text[opening - 1]]
    starts_field[1:] |= doubled
    ends_field = (closing == len(text) - 1) | borders[text[np.minimum(closing + 1, len(text) - 1)]]
    ends_field[:-1] |= doubled
    return bool(starts_field.all() and ends_field.all())

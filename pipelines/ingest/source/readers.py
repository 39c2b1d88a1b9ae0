"""Reads log files by ranges: digests a file and cuts it into ranges, and reads a range into typed events.

Text has two paths. The fast one hands whole blocks to Arrow's CSV reader, after checks that leave it no room to guess
(no stray quote, no lone carriage return, no NUL). Where Arrow refuses, or an id is blank, the careful one reads the
block by records, and names the line and the reason of each row that cannot be read. A test holds them equal.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from mgray.errors import InputError
from mgray.ingest.parse import MAX_TIME_S, UNITS, date_format, epoch_seconds, finer_unit, id_text, parse_events
from mgray.ingest.spelling import NO_VALUE
from mgray.schema import EVENT_TYPE, FEATURE, ITEM_ID, RATING, TIMESTAMP, USER_ID
from pipelines.ingest.source import nested
from pipelines.ingest.source.dialects import BLANKS, to_tabs, transcode
from pipelines.ingest.source.layouts import Layout, open_text
from pipelines.ingest.source.records import TORN, json_columns, json_ids, separated_columns, split_fields, split_records
from pipelines.ingest.source.resolve import LogFile, open_random

CHUNK_BYTES = 4 << 20
RETRY_BYTES = 1 << 20  # a block that the fast path refuses is tried again in pieces of about this size
MAX_ROW_BYTES = 64 << 20  # of text: what has no end by then has an open quote, or is no text of rows
PARQUET_ROWS = 1 << 20  # of a row group, which may hold any number, that are in memory at a time
HISTORY_ROWS = 1 << 12  # the same where a row is a list of events
UNIT_ROWS = 100  # as few tell whether a log's times are in another unit than data.columns.timestamp_unit
DATE_ROWS = 1000  # of a range, whose times are looked at for numbers that are dates
UNIT_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}
UNIT_NAMES = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
BOM = b"\xef\xbb\xbf"


class Range(NamedTuple):
    """Bytes [start, stop) of a text file, or row groups [start, stop) of a Parquet file; stop None: to the end."""

    start: int
    stop: int | None
    first_line: int  # of the range's first row
    bytes: int  # about how much there is to read


class Scan(NamedTuple):
    bytes: int
    sha256: str
    ranges: list[Range]


# user_id, item_id -> the ids that the log spells in another way too (id, by: RESPELLED or BOTH_WAYS); rows that are set
# aside count, so an id need not be among the events.
Respelled = Mapping[str, pa.Table]
AS_IT_IS, RESPELLED = 1, 2
BOTH_WAYS = AS_IT_IS | RESPELLED
_RESPELLED_SCHEMA = pa.schema([("id", pa.string()), ("by", pa.uint8())])


class Block(NamedTuple):
    """Rows of a log: `events` has user_id, item_id, event_type as text, timestamp, rating and features as float64."""

    events: pa.Table
    bad: pl.DataFrame | None  # line, reason, raw
    finer: Counter[str] | None = None  # rows of `bad` by the unit that their time seems to be in
    respelled: Respelled = MappingProxyType({})
    dates: str | None = None  # the format of dates that the times of `bad` are numbers of, where no row is good


def scan(file: LogFile, layout: Layout, range_bytes: int) -> Scan:
    """One pass over a file's bytes: its digest, and ranges of about `range_bytes` that end where a row ends.

    A newline inside a CSV's quotes ends no row: a cut needs an even number of quotes before it. A compressed file is
    one range. Line numbers are counted on the way, so that a range knows its own without reading those before it.
    Raises InputError: a row does not end within MAX_ROW_BYTES.
    """
    sha256 = hashlib.sha256()
    cuts: list[tuple[int, int]] = []  # offset, lines before it
    split = file.format != "parquet" and layout.splits(file)
    quoted = _has_quoting(file, layout)
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
                    raise _endless(file, layout, stream.read(wanted + MAX_ROW_BYTES - start), lines + 1)
                num_quotes += chunk.count(b'"', done) if quoted else 0
                num_lines += chunk.count(b"\n")
            offset += len(chunk)
    if file.format == "parquet":
        return Scan(offset, sha256.hexdigest(), _row_group_ranges(file.path, range_bytes))
    if not layout.splits(file):
        text_bytes = 4 * offset if file.compression else offset
        return Scan(offset, sha256.hexdigest(), [Range(layout.data_start, None, layout.first_line, text_bytes)])
    starts = [(layout.data_start, layout.first_line - 1), *(cut for cut in cuts if cut[0] < offset)]
    stops = [start for start, _ in starts[1:]] + [offset]
    ranges = [
        Range(start, stop, lines + 1, stop - start)
        for (start, lines), stop in zip(starts, stops, strict=True)
        if start < stop
    ]
    return Scan(offset, sha256.hexdigest(), ranges)


def _has_quoting(file: LogFile, layout: Layout) -> bool:
    return file.format not in ("parquet", "jsonl") and layout.dialect(file)[1]


def _endless(file: LogFile, layout: Layout, data: bytes, first_line: int) -> InputError:
    """The error of data that begins with a row: its last one, which does not end."""
    quoted = _has_quoting(file, layout)
    end = _last_row_end(data, quoted)
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


def read_range(file: LogFile, layout: Layout, part: Range, unit: str, block_bytes: int) -> Iterator[Block]:
    """The events of a range, in blocks of about `block_bytes` of text. Blank lines are no rows.

    unit: of timestamps that are numbers. Raises one of READ_ERRORS where the bytes cannot be read, and InputError where
    a row does not end within MAX_ROW_BYTES, most times seem to be in another unit, or all seem to be written as dates.
    """
    blocks = (
        _read_parquet(file, layout, part, unit)
        if file.format == "parquet"
        else _read_text_range(file, layout, part, unit, block_bytes)
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
                f"{file.path}: {count} of {num_rows} timestamps from line {part.first_line} on look like "
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


def _read_text_range(file: LogFile, layout: Layout, part: Range, unit: str, block_bytes: int) -> Iterator[Block]:
    line = part.first_line
    for number, data in enumerate(_text_blocks(file, layout, part, block_bytes)):
        block = data.removeprefix(BOM) if part.start == 0 and not number else data
        yield from _read_text(block, file, layout, line, unit)
        line += 0 if layout.splits(file) else data.count(b"\n")  # of what is split there is one block


def _text_blocks(file: LogFile, layout: Layout, part: Range, block_bytes: int) -> Iterator[bytes]:
    """Bytes of whole rows, as UTF-8."""
    encoding = None if layout.is_wide else layout.encoding
    if layout.splits(file):
        with open_random(file.path) as stream:
            stream.seek(part.start)
            data = stream.read(None if part.stop is None else part.stop - part.start)
        if part.stop is not None and len(data) < part.stop - part.start:
            raise EOFError("it became shorter while it was read")
        yield transcode(data, encoding)
        return
    quoted = _has_quoting(file, layout)
    with open_text(file, layout.encoding) as stream:
        _skip(stream, part.start)
        left, line = b"", part.first_line
        while chunk := stream.read(block_bytes):
            data = left + chunk
            end = _last_row_end(data, quoted)
            if end:
                yield transcode(data[:end], encoding)
                line += data.count(b"\n", 0, end)
            left = data[end:]
            if len(left) > MAX_ROW_BYTES:
                raise _endless(file, layout, left, line)
        if left:
            yield transcode(left, encoding)


def _skip(stream: pa.NativeFile, count: int) -> None:
    while count > 0:
        got = len(stream.read(min(count, CHUNK_BYTES)))
        if not got:
            return
        count -= got


def _last_row_end(data: bytes, quoted: bool) -> int:
    end = data.rfind(b"\n") + 1
    num_quotes = data.count(b'"', 0, end) if quoted else 0
    while num_quotes % 2:
        earlier = data.rfind(b"\n", 0, data.rfind(b'"', 0, end)) + 1
        num_quotes -= data.count(b'"', earlier, end)
        end = earlier
    return end


def _read_text(data: bytes, file: LogFile, layout: Layout, first_line: int, unit: str) -> Iterator[Block]:
    if file.format != "jsonl" or layout.is_histories:
        fast = _read_fast(data, file, layout, unit)
        if fast is not None:
            yield fast
            return
        if b'"' not in data or not _has_quoting(file, layout):
            # One odd row shall not make a whole range slow, nor a block of histories large.
            while len(data) > RETRY_BYTES:
                end = data.find(b"\n", RETRY_BYTES) + 1
                if not end:
                    break
                piece, data = data[:end], data[end:]
                yield _read_fast(piece, file, layout, unit) or _read_careful(piece, file, layout, first_line, unit)
                first_line += piece.count(b"\n")
    if data:
        yield _read_careful(data, file, layout, first_line, unit)


def _read_careful(data: bytes, file: LogFile, layout: Layout, first_line: int, unit: str) -> Block:
    records = split_records(data, first_line, _has_quoting(file, layout), layout.encoding or "UTF-8")
    if layout.is_histories:
        return _read_histories(records, file, layout, unit)
    if file.format == "jsonl":
        rows = json_columns(records, layout.columns)
    else:
        separator, quoted = layout.dialect(file)
        rows = separated_columns(records, separator, layout.header, layout.columns, quoted)
    return _parse(rows, layout, unit)


def _read_histories(records: pl.DataFrame, file: LogFile, layout: Layout, unit: str) -> Block:
    """Text whose rows are users with lists of items."""
    roles = layout.columns
    if file.format == "jsonl":
        columns, reasons = nested.json_histories(records, roles)
    else:
        users, items, reasons = nested.text_histories(split_fields(records["raw"], layout.dialect(file)[0]))
        columns = {roles[USER_ID]: users, roles[ITEM_ID]: items}
        problems = records["problem"]
        reasons |= {row: problems[row] for row in problems.is_not_null().arg_true().to_list()}
    good = np.ones(records.height, bool)
    good[list(reasons)] = False
    found = nested.explode(columns, roles[ITEM_ID], records.height, roles)
    keep = pa.array(good[found.row])
    lines = records["line"].to_numpy()
    values = {role: found.columns[name].filter(keep) for role, name in roles.items()}
    events = pl.DataFrame(pl.from_arrow(pa.table({"line": lines[found.row[good[found.row]]], **values})))
    block = _parse(events.with_columns(json_ids(events)) if file.format == "jsonl" else events, layout, unit)
    reasons = found.reasons | reasons
    return _with_bad(block, lines, reasons, [records["raw"][row] for row in reasons])


def _with_bad(block: Block, lines: npt.NDArray[np.int64], reasons: dict[int, str], raws: list[str]) -> Block:
    """The block with more rows set aside. reasons: by place in `lines`; raws: as many."""
    if not reasons:
        return block
    found = {"line": lines[list(reasons)], "reason": list(reasons.values()), "raw": raws}
    bad = pl.DataFrame(found, {"line": pl.Int64, "reason": pl.String, "raw": pl.String})
    bad = bad if block.bad is None else pl.concat([bad, block.bad.select(bad.columns)])
    return block._replace(bad=bad.sort("line", maintain_order=True))


def _parse(rows: pl.DataFrame, layout: Layout, unit: str) -> Block:
    """Rows of text or typed columns; what is no column of theirs is the same in every row."""
    given = {role: pl.lit(value, pl.String) for role, value in (layout.partitions or {}).items()}
    if not layout.has_times:
        given[TIMESTAMP] = pl.lit("0")
    rows = rows.with_columns(**given)
    events, bad = parse_events(rows, unit, layout.timestamp_format)
    dates = date_format(rows[TIMESTAMP].head(DATE_ROWS)) if bad.height and not events.height else None
    is_unit = bad.height and layout.timestamp_format is None
    finer = Counter(finer_unit(rows[TIMESTAMP], unit).drop_nulls().to_list()) if is_unit else Counter[str]()
    del finer[""]  # in no unit a time
    torn = bad["reason"] == TORN
    if torn.any():
        # Two stray quotes make one record of all lines between them. Counted as one, they would slip under the limit of
        # data.max_quarantined_share.
        lines = pl.when(torn).then(pl.col("raw").str.split("\n")).otherwise(pl.concat_list("raw"))
        bad = bad.with_columns(lines.alias("raw")).with_columns(pl.int_ranges(pl.col("raw").list.len()).alias("at"))
        bad = bad.explode("raw", "at").with_columns(pl.col("line") + pl.col("at")).drop("at")
    texts = {role: rows[role].cast(pl.String) for role in (USER_ID, ITEM_ID) if not rows[role].dtype.is_numeric()}
    distinct = {role: text.drop_nulls().unique() for role, text in texts.items()}
    found = {role: _respelled(text, id_text(text)) for role, text in distinct.items()}
    return Block(
        events.to_arrow(compat_level=pl.CompatLevel.oldest()),
        bad if bad.height else None,
        finer or None,
        {role: table for role, table in found.items() if table is not None},
        dates,
    )


def _respelled(given: pl.Series, text: pl.Series) -> pa.Table | None:
    """What `Respelled` holds of a column. given: distinct texts [D]; text: what id_text makes of each."""
    changed = (given != text).fill_null(False)
    if not changed.any():
        return None
    ids = text.filter(changed)
    again = ids.is_in(text.filter(~changed).implode()) | ids.is_duplicated()
    by = pl.select(pl.when(again).then(BOTH_WAYS).otherwise(RESPELLED).cast(pl.UInt8).alias("by")).to_series()
    table = pl.DataFrame({"id": ids, "by": by})
    table = table.unique("id") if again.any() else table
    return table.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(_RESPELLED_SCHEMA)


def _read_fast(data: bytes, file: LogFile, layout: Layout, unit: str) -> Block | None:
    """The rows of a text block by Arrow's CSV reader; None where that could differ from what `_read_careful` says."""
    if layout.is_histories:
        return None
    separator, quoted = layout.dialect(file)
    if b"\0" in data or (b"\r" in data and data.count(b"\r") != data.count(b"\r\n")):
        return None
    if data.startswith(BOM):  # the first row's own text, as the file's mark is gone by now: Arrow would take it out
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
    types = {USER_ID: pa.string(), ITEM_ID: pa.string(), EVENT_TYPE: pa.string(), TIMESTAMP: pa.string()}
    by_number = TIMESTAMP in places and layout.timestamp_format is None
    if by_number and _is_number(_first_field(data, separator, places[TIMESTAMP], has_quotes)):
        types[TIMESTAMP] = pa.float64()
    by_place: dict[str, pa.DataType] = {}
    for role, place in places.items():
        wanted = types.get(role, pa.float64())
        if by_place.setdefault(str(place), wanted) != wanted:
            return None  # one column of the log in two roles that read it unlike
    if len(by_place) < len(names) and not _is_utf8(data):  # Arrow checks what it reads, and a row is bad as a whole
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
    return _checked(_with_constants(table, layout), unit, layout.timestamp_format)


def _with_constants(table: pa.Table, layout: Layout) -> pa.Table:
    """The table with what is the same in every row: what the path tells, and the time of a log without times."""
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


def _checked(table: pa.Table, unit: str, form: str | None = None) -> Block | None:
    """Typed columns, ids as dictionaries; None where an id is none, a number is none, or a time beyond MAX_TIME_S."""
    respelled: dict[str, pa.Table] = {}
    for role in (USER_ID, ITEM_ID):
        ids = table[role].combine_chunks()
        if isinstance(ids, pa.ChunkedArray):  # no chunk at all
            ids = pa.chunked_array(ids).combine_chunks() if ids.num_chunks else pa.array([], pa.string())
        ids = ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()
        given = pl.Series(role, pl.from_arrow(ids.dictionary))
        # the careful path's own rule: to RE2, Arrow's engine, a no-break space is text
        text = id_text(given)
        if ids.null_count or text.null_count():
            return None
        found = _respelled(given, text)
        if found is not None:
            respelled[role] = found
            meet = pc.any(pc.equal(found["by"], BOTH_WAYS)).as_py()
            ids = _with_words(ids, text) if meet else _replace_words(ids, text)
        table = table.set_column(table.column_names.index(role), role, ids)
    time = table[TIMESTAMP]
    if pa.types.is_string(time.type):
        seconds = epoch_seconds(pl.Series(TIMESTAMP, pl.from_arrow(time)), unit, form)
        time = seconds.to_arrow(compat_level=pl.CompatLevel.oldest())
    elif UNITS[unit] != 1:
        time = pc.divide(time, UNITS[unit])
    if time.null_count or not _all(pc.less(pc.abs(time), MAX_TIME_S)):  # false of NaN
        return None
    table = table.set_column(table.column_names.index(TIMESTAMP), TIMESTAMP, time)
    for name in table.column_names:
        if name == RATING or name.startswith(FEATURE):
            numbers = table[name].drop_null()
            if pa.types.is_string(numbers.type):  # of a path
                return None
            if not _all(pc.is_finite(numbers.cast(pa.float32()) if name == RATING else numbers)):
                return None
    return Block(table, None, None, respelled)


def _replace_words(ids: pa.DictionaryArray, text: pl.Series) -> pa.DictionaryArray:
    """The same rows with other words [D] in the dictionary, all different."""
    return pa.DictionaryArray.from_arrays(
        ids.indices, text.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
    )


def _with_words(ids: pa.DictionaryArray, text: pl.Series) -> pa.DictionaryArray:
    """_replace_words of words of which some may have become equal."""
    words = text.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(words.indices.take(ids.indices), words.dictionary)


def _all(values: pa.Array) -> bool:
    return bool(pc.all(values, min_count=0).as_py())


def _read_parquet(file: LogFile, layout: Layout, part: Range, unit: str) -> Iterator[Block]:
    names = list(dict.fromkeys(layout.columns.values()))
    stored = [name for name in layout.header if name in names or any(one.startswith(f"{name}.") for one in names)]
    row, size = part.first_line, HISTORY_ROWS if layout.is_histories else PARQUET_ROWS
    # with a buffer, a column's pages are read as they are needed, and not all of a row group's at once
    with open_random(file.path) as source, pq.ParquetFile(source, buffer_size=CHUNK_BYTES) as parquet:
        stop = parquet.num_row_groups if part.stop is None else part.stop
        for batch in parquet.iter_batches(size, row_groups=range(part.start, stop), columns=stored):
            yield _read_batch(batch, layout, row, unit)
            row += batch.num_rows


def _read_batch(batch: pa.RecordBatch, layout: Layout, first_row: int, unit: str) -> Block:
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
            block = _parse(pl.DataFrame({"line": row_lines, **by_role}), layout, unit)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException) as error:
        # bytes that are no UTF-8, or a type that nobody here has met
        raise pa.ArrowInvalid(f"a column cannot be read as text: {error}") from error
    return _with_bad(block, lines, reasons, nested.raw_rows(table, list(reasons)))


def _fast_columns(table: pa.Table, layout: Layout, unit: str) -> Block | None:
    """Parquet's typed columns as events; ids become text once a distinct value. None: some row needs a reason."""
    columns: dict[str, pa.ChunkedArray] = {}
    for role, name in layout.columns.items():
        column = table[name]
        if role in (USER_ID, ITEM_ID):
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
            columns[role] = _with_words(encoded, text) if may_meet else _replace_words(encoded, text)
        elif role == TIMESTAMP:
            seconds = epoch_seconds(pl.Series(name, pl.from_arrow(column)), unit, layout.timestamp_format)
            columns[role] = seconds.to_arrow(compat_level=pl.CompatLevel.oldest())
        elif role == EVENT_TYPE:  # by polars, as the careful path: Arrow spells 1.0 as "1"
            text = pl.Series(name, pl.from_arrow(column)).cast(pl.String)
            columns[role] = text.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            columns[role] = column.cast(pa.float64(), safe=False)  # whole numbers from 2**53 on are rounded
        else:
            return None
    for role, value in (layout.partitions or {}).items():
        if role == TIMESTAMP:
            time = epoch_seconds(pl.Series([value], dtype=pl.String), unit, layout.timestamp_format)[0]
            columns[role] = pa.repeat(pa.scalar(time, pa.float64()), table.num_rows)
        elif role in (USER_ID, ITEM_ID, EVENT_TYPE):
            columns[role] = pa.repeat(pa.scalar(value, pa.string()), table.num_rows)
        else:  # text that is to be a number
            return None
    if not layout.has_times:
        columns[TIMESTAMP] = pa.array(np.zeros(table.num_rows))
    # seconds by now, whatever the unit was
    return _checked(pa.table(columns), "s")

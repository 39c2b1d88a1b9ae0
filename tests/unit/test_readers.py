"""pipelines.ingest.source.readers: however a log is cut, compressed or read, its rows are those that a slow serial read
gives.
"""

import csv
import gzip
import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.config import ColumnsConfig, DataConfig
from mgray.errors import InputError
from mgray.ingest.spelling import id_spelling
from pipelines.ingest.source import parquet_rows, ranges
from pipelines.ingest.source.blocks import BOTH_WAYS, RESPELLED, Block
from pipelines.ingest.source.careful_text import read_careful
from pipelines.ingest.source.fast_text import BOM, read_fast
from pipelines.ingest.source.layouts import Layout, read_layout
from pipelines.ingest.source.log_files import COMPRESSIONS, READ_ERRORS, Compression, Format, LogFile
from pipelines.ingest.source.parquet_rows import read_parquet_batch
from pipelines.ingest.source.ranges import inspect_file
from pipelines.ingest.source.readers import read_range
from pipelines.ingest.source.resolve import resolve
from pipelines.ingest.source.rows import TORN
from pipelines.ingest.tasks import units
from pipelines.ingest.tasks.units import inspect_files

PLAIN = ("user_id", "item_id", "timestamp")
WIDE = (*PLAIN, "rating", "event_type", "score", "unused")
WHOLE = 1 << 40


class Rows(NamedTuple):
    """What a reader says of a log, as Python values."""

    good: list[tuple]  # user_id, item_id, timestamp, rating, event_type, features
    bad: list[tuple]  # line, reason, raw


def as_rows(blocks: list[Block]) -> Rows:
    good: list[tuple] = []
    bad: list[tuple] = []
    for block in blocks:
        names = ["user_id", "item_id", "timestamp", "rating", "event_type"]
        names += sorted(name for name in block.events.column_names if name.startswith("feature:"))
        missing = [None] * block.events.num_rows
        found = [
            block.events[name].to_pylist() if name in block.events.column_names else missing for name in names
        ]  # a path may leave out a column that is null, and may leave a blank event type as it is: staging knows none
        found[4] = [kind if kind is not None and kind.strip() not in ("", "NULL", r"\N") else None for kind in found[4]]
        good += zip(*found, strict=True)
        bad += block.bad.select("line", "reason", "raw").rows() if block.bad is not None else []
    return Rows(good, bad)


def log_at(path: Path, kind: Format, data: bytes, compression: Compression | None = None) -> LogFile:
    path.write_bytes(data)
    return LogFile(str(path), path.name, len(data), kind, compression)


def read(file: LogFile, layout: Layout, range_bytes: int = WHOLE, block_bytes: int = 1 << 20, unit: str = "s") -> Rows:
    parts = inspect_file(file, layout, range_bytes).ranges
    return as_rows([block for part in parts for block in read_range(file, layout, part, unit, block_bytes)])


def read_csv(path: Path, data: bytes, range_bytes: int = WHOLE, **columns: Any) -> Rows:
    file = log_at(path, "csv", data)
    return read(file, read_layout(file, ColumnsConfig(**columns)), range_bytes)


# ---------------------------------------------------------------- drawn files

IDS = [
    b"u", b"7", b"12.0", b"12", b"a b", b" u ", "\u00e9".encode(), b"NA", b"null", b"0x1", b"7.00", b"7.01", b"-0.0",
    b"-0", b"007", b"1e3", b"7.", b"\xc2\xa07\xe2\x80\x83",
]  # fmt: skip
ODD_IDS = [
    b"", b" ", b"\t", b"\x0b", b"\xff", b"a\xc3", b"\0", b"a\0b", b"a\rb", b"\r", b"'x'",
    "\u00a0".encode(), "\u2003".encode(), "\u0085".encode(), BOM, BOM + b"u", b"a,b", b"a:b", b"a:", b":b",
    b"NULL", b"\\N", b" NULL\t", b"\x1c", b"NULL.0", b"\\N\r",
]  # fmt: skip
QUOTED = [
    b'"a,b"',
    b'"a""b"',
    b'"a\nb"',
    b'"a\r\nb"',
    b'""""',
    b'"\n"',
    b'"u"',
    b'""',
    b'" "',
    b'"\n\n\n"',
    b'"7.0"',
    b'" 7"',
    b'"NULL"',
]
ODD_QUOTES = [b'"', b'a"b', b'"a"b', b'"a" ', b' "a"', b'"""', b'a"', b'"a', b'"a"b"c"', b'"\r"', b'"a\xff\n"']
TIMES = [b"1", b"0", b"-1.5", b"1e3", b"1000000000", b"16777217", b"0.1"]
ODD_TIMES = [
    b"+5", b"0x10", b"nan", b"inf", b"-inf", b" 7 ", b"1_000", b"", b" ", b"1970-01-02", b"1970-01-02 00:00",
    b"1970-01-02T00:00:00Z", b"1970-01-02T02:00:00+02:00", b"soon", b"1e400", b"1.", b".5", b"1d", b"1,5", b"\xff",
    "\u00a07".encode(), b"\t7", b"7\r", b"infinity", b"NaN", b"1e-400", b"00012", b"\xef\xbb\xbf1", b"1e300",
    b"NULL", b"\\N", b" NULL", b"null",
]  # fmt: skip
RATINGS = [b"", b"5", b"0.1", b"-3", b"NULL", b"\\N"]
ODD_RATINGS = [
    b"nan",
    b"inf",
    b" 4 ",
    b"1_0",
    b"five",
    b" ",
    b"+1",
    b"1e39",
    b"1e300",
    b"\xff",
    b"-",
    b"0x1",
    b" NULL",
    b"null",
]
WORDS = [b"", b"view", b"a b", b"NULL", b"\\N"]
ENDS = [b"\n", b"\n", b"\n", b"\r\n"]
ODD_ENDS = [b"\r", b"\n\n", b"\n \n", b"\n   \r\n", b"\r\r\n", b"\n\r\n", b"\n\r", b"\n\t\n", b"\n" + BOM]
SEPARATORS = {"csv": b",", "tsv": b"\t", "dat": b"::"}


@st.composite
def text_logs(draw: st.DrawFn) -> tuple[Format, bytes, tuple[str, ...] | None, bool]:
    """(format, bytes, names of the columns where there is no header line, whether the log is wide)."""
    kind: Format = draw(st.sampled_from(["csv", "csv", "csv", "tsv", "dat"]))
    wide = kind != "dat" and draw(st.booleans())
    # about half of the files have no odd thing, or one kind of it, so that the fast path has its share
    odd = draw(st.sets(st.sampled_from(["ids", "quoted", "quotes", "times", "numbers", "ends", "fields"]), max_size=3))
    ids = IDS + ODD_IDS * ("ids" in odd) + QUOTED * ("quoted" in odd) + ODD_QUOTES * ("quotes" in odd)
    times = TIMES + ODD_TIMES * ("times" in odd) + [b'"9"', b'"1970-01-02"'] * ("quoted" in odd)
    numbers = RATINGS + ODD_RATINGS * ("numbers" in odd) + [b'"3"', b'""'] * ("quoted" in odd)
    words = WORDS + [b" ", b" NULL ", b"\xff", "\u00a0".encode()] * ("ids" in odd) + QUOTED * ("quoted" in odd)
    fields = [ids, ids, times] + ([numbers, words, numbers, words] if wide else [numbers] * (kind == "dat"))
    row = st.tuples(*(st.sampled_from(choices) for choices in fields)).map(list)
    if "fields" in odd:
        row = st.one_of(row, row, row.map(lambda fields: fields[:-1]), row.map(lambda fields: [*fields, b"more"]))
    if kind == "dat":
        row = row.map(lambda fields: [field.replace(b"::", b"") for field in fields])
    end = st.sampled_from(ENDS + ODD_ENDS * ("ends" in odd))
    rows = draw(st.lists(st.tuples(row, end), max_size=12))
    separator = SEPARATORS[kind]
    body = b"".join(separator.join(fields) + end for fields, end in rows)
    if draw(st.booleans()) and "ends" not in odd:
        body = body.removesuffix(b"\n")
    names = WIDE if wide else PLAIN
    if kind == "dat":
        return kind, body, None, False
    if draw(st.booleans()):
        bom = draw(st.sampled_from([b"", b"", BOM]))
        return kind, bom + body, names, wide
    head = separator.join(name.encode() for name in names)
    return kind, draw(st.sampled_from([b"", BOM])) + head + draw(st.sampled_from([b"\n", b"\r\n"])) + body, None, wide


crumbs = st.lists(
    st.sampled_from([b"a", b"1", b'"', b'""', b",", b"::", b":", b"\t", b"\n", b"\r\n", b"\r", b" ", b"\xff"])
)
loose_logs = st.tuples(st.sampled_from(["csv", "tsv", "dat"]), crumbs).map(
    lambda drawn: (drawn[0], b"".join(drawn[1]), PLAIN if drawn[0] != "dat" else None, False)
)

JSON_VALUES = [
    b'"u"', b'"12.0"', b"12", b"12.0", b"1.5", b"null", b"true", b'""', b'" "', b"1e30", b"-0", b"[1]", b'{"a":1}',
    b'"\\u00e9"', b'"\\n"', b'"\xff"', b'"\\ud800"', b"nan", b"NaN", b"", b'"1970-01-02"', b"12345678901234567890",
    b'"a\\"b"', b'"a,b"', b"1.0e0", b"'x'", b'"\0"', b'"\\u0000"', b'"NULL"', b'"\\\\N"', b'" 7.0 "', b'"1e3"',
]  # fmt: skip


@st.composite
def json_logs(draw: st.DrawFn) -> bytes:
    key = st.sampled_from([b'"user_id"', b'"item_id"', b'"timestamp"', b'"rating"', b'"score"', b'"other"', b'""'])
    pair = st.tuples(key, st.sampled_from(JSON_VALUES)).map(b": ".join)
    loose = st.lists(pair, max_size=4).map(lambda pairs: b"{" + b", ".join(pairs) + b"}")
    value = st.sampled_from(JSON_VALUES)
    full = st.tuples(value, value, value, value).map(
        lambda values: b'{"user_id": %b, "item_id": %b, "timestamp": %b, "score": %b}' % values
    )
    row = st.one_of(full, full, full, loose, value, st.sampled_from([b"{", b"}", b"[]", b"  ", b"{}", b"{} {}", BOM]))
    ends = st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b"\r", b""])
    first = b'{"user_id": "a", "item_id": "x", "timestamp": 1, "rating": 2, "score": 3}\n'
    return draw(st.sampled_from([b"", BOM])) + first + b"".join(draw(st.lists(st.tuples(row, ends).map(b"".join))))


def count_records(data: bytes, quoted: bool) -> int:
    """Rows of a log, slowly: what ends with a newline outside quotes, and is more than spaces."""
    records, inside, last = [], False, bytearray()
    for byte in data:
        last.append(byte)
        inside ^= quoted and byte == ord('"')
        if byte == ord("\n") and not inside:
            records.append(bytes(last))
            last.clear()
    return sum(bool(record.rstrip(b"\r\n").strip(b" ")) for record in [*records, bytes(last)])


def check_laws(
    path: Path, kind: Format, data: bytes, columns: ColumnsConfig, range_bytes: int, block: int, unit: str = "s"
) -> None:
    file = log_at(path, kind, data)
    layout = read_layout(file, columns)
    serial = read(file, layout, unit=unit)
    body = data[layout.data_start :].removeprefix(BOM if not layout.data_start else b"")
    num_records, num_rows = count_records(body, kind == "csv"), len(serial.good) + len(serial.bad)
    if any(reason == TORN for _, reason, _ in serial.bad):  # each line of a record with stray quotes counts
        assert num_records <= num_rows <= body.count(b"\n") + 1
    else:
        assert num_rows == num_records

    found = inspect_file(file, layout, range_bytes)
    assert (found.bytes, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert b"".join(data[part.start : part.stop] for part in found.ranges) == data[layout.data_start :]
    assert read(file, layout, range_bytes, unit=unit) == serial

    packed = log_at(path.with_name("packed"), kind, gzip.compress(data, 1), "gzip")
    assert read(packed, layout, range_bytes, block, unit) == serial

    if body and kind != "jsonl":
        fast = read_fast(body, file, layout, unit)
        if fast is not None:
            assert as_rows([fast]) == as_rows([read_careful(body, file, layout, layout.first_line, unit)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


@settings(max_examples=150, deadline=None)
@given(
    text_logs() | text_logs() | loose_logs, st.integers(1, 50), st.integers(1, 50), st.sampled_from(["s", "ms", "us"])
)
def test_a_split_read_gives_the_rows_of_a_serial_read(
    folder: Path, log: tuple[Format, bytes, tuple[str, ...] | None, bool], range_bytes: int, block_bytes: int, unit: str
) -> None:
    kind, data, header, wide = log
    columns = ColumnsConfig(header=header, features=("score",) if wide else ())
    if data and b"\0" not in data.partition(b"\n")[0]:  # such a log is refused as a whole, perhaps it is UTF-16
        check_laws(folder / f"log.{kind}", kind, data, columns, range_bytes, block_bytes, unit)


@settings(max_examples=60, deadline=None)
@given(json_logs(), st.integers(1, 50), st.integers(1, 50))
def test_a_split_read_of_json_lines(folder: Path, data: bytes, range_bytes: int, block_bytes: int) -> None:
    check_laws(folder / "log.jsonl", "jsonl", data, ColumnsConfig(features=("score",)), range_bytes, block_bytes)


# ---------------------------------------------------------------- by hand


def test_the_drawn_fast_path_is_taken_and_refused(folder: Path) -> None:
    def fast(body: bytes, kind: Format = "csv", head: bytes = b"user_id,item_id,timestamp,unused\n") -> bool:
        file = log_at(folder / "one", kind, head + body)
        return read_fast(body, file, read_layout(file, ColumnsConfig()), "s") is not None

    assert fast(b"u,i,1,\nv,i,2,x\n")
    assert fast(b'"u","i,\n""j""",1,\r\nv,i,2,x\r\n')
    assert fast(b"u,i,1970-01-02,\nv,i,2,x\n")
    assert fast(b"u::i::5::1\n", "dat", b"")
    assert not fast(b'u"v",i,1,\n')
    assert not fast(b"u,i,1,\r")
    assert not fast(b"u,i,1\n")
    assert not fast(b"u,\xc2\xa0,1,\n")  # a no-break space is blank too
    assert not fast(BOM + b"u,i,1,\n")  # Arrow would take a byte order mark out of a row that a range begins with
    assert not fast(b"u,i,1,\xff\n")  # even in a column that no role needs


names_of_things = st.text(
    st.sampled_from('a7,"\n\t \u00e9\u4e2d;\u00a0') | st.characters(exclude_categories=["Cs", "Cc"]), max_size=6
).filter(id_spelling)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(names_of_things, names_of_things, st.floats(-253_402_300_799, 253_402_300_799))),  # year 9999
    st.integers(1, 50),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_pythons_csv_writes_is_read_back(
    folder: Path, rows: list[tuple[str, str, float]], range_bytes: int, end: str, quoting: Any
) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=quoting).writerows([PLAIN, *rows])
    read_back = read_csv(folder / "written.csv", text.getvalue().encode(), range_bytes)
    names = [(id_spelling(user), id_spelling(item), time) for user, item, time in rows]
    assert read_back == Rows([(*row, None, None) for row in names], [])


def test_a_newline_in_quotes_at_the_border_of_a_range_ends_no_row(tmp_path: Path) -> None:
    head, first = b"user_id,item_id,timestamp\n", b'"a\nb",x,1\n'
    file = log_at(tmp_path / "log.csv", "csv", head + first + b"c,y,2\n")
    layout = read_layout(file, ColumnsConfig())
    for range_bytes in range(1, len(first) + 1):
        parts = inspect_file(file, layout, range_bytes).ranges
        # the second row is on line 4: the first one has lines 2 and 3
        assert [(part.start, part.stop, part.first_line) for part in parts] == [(26, 36, 2), (36, 42, 4)]
    assert read(file, layout, 3).good == [("a\nb", "x", 1.0, None, None), ("c", "y", 2.0, None, None)]


def test_ranges_across_the_chunks_that_a_file_is_scanned_in(tmp_path: Path) -> None:
    row, long = b'"u\n",i,7\n', b'"' + b"x\n" * (ranges.CHUNK_BYTES // 2 + 10) + b'",i,7\n'
    data = b"user_id,item_id,timestamp\n" + row * 450_000 + long + row * 300_000 + long.replace(b"\n", b".", 10**6)
    assert len(data) > 3 * ranges.CHUNK_BYTES
    file = log_at(tmp_path / "log.csv", "csv", data)
    for range_bytes in (100_003, 1 << 20, ranges.CHUNK_BYTES, 10_000_000):
        parts = inspect_file(file, read_layout(file, ColumnsConfig()), range_bytes).ranges
        assert len(parts) > 1
        assert [part.start for part in parts] == [26, *(part.stop for part in parts[:-1])]
        assert parts[-1].stop == len(data)
        assert parts[0].first_line == 2
        for part, after in itertools.pairwise(parts):
            rows = data[part.start : part.stop]
            assert rows.endswith(b"\n")
            assert rows.count(b'"') % 2 == 0
            assert rows.count(b"\n") == after.first_line - part.first_line
            assert range_bytes <= part.bytes < range_bytes + len(long)


def test_a_quote_in_the_header_is_no_rows(tmp_path: Path) -> None:
    data = b'user_id,item_id,timestamp,"more\n"a\nb",x,1,\nc,y,2,\n'
    wanted = [("a\nb", "x", 1.0, None, None), ("c", "y", 2.0, None, None)]
    assert [read_csv(tmp_path / "log.csv", data, size) for size in (1, 2, 3, WHOLE)] == [Rows(wanted, [])] * 4


def test_a_range_that_begins_with_a_byte_order_mark_keeps_it(tmp_path: Path) -> None:
    data = BOM + b"user_id,item_id,timestamp\na,x,1\n" + BOM + b"b,y,2\n"
    wanted = [("a", "x", 1.0, None, None), ("\ufeffb", "y", 2.0, None, None)]
    assert [read_csv(tmp_path / "log.csv", data, size) for size in (1, WHOLE)] == [Rows(wanted, [])] * 2


def test_a_file_that_became_shorter_is_not_read_as_if_it_were_whole(tmp_path: Path) -> None:
    data = b"user_id,item_id,timestamp\na,x,1\nb,y,2\n"
    file = log_at(tmp_path / "log.csv", "csv", data)
    layout = read_layout(file, ColumnsConfig())
    (part,) = inspect_file(file, layout, WHOLE).ranges
    log_at(tmp_path / "log.csv", "csv", data[:-6])
    with pytest.raises(READ_ERRORS, match="shorter"):
        list(read_range(file, layout, part, "s", WHOLE))


def test_a_field_of_a_megabyte(tmp_path: Path) -> None:
    long = b"x" * ((1 << 20) + 1)
    data = b'user_id,item_id,timestamp\na,%b,1\nb,"%b\ny",2\nc,y,3\n' % (long, long)
    for range_bytes in (1, WHOLE):
        good, bad = read_csv(tmp_path / "log.csv", data, range_bytes)
        assert not bad
        assert [(user, len(item)) for user, item, *_ in good] == [("a", len(long)), ("b", len(long) + 2), ("c", 1)]


def test_one_bad_row_in_a_large_block_changes_no_other(tmp_path: Path) -> None:
    rows = [b"u%d,i%d,%d" % (number % 97, number % 89, number) for number in range(200_000)]
    good = read_csv(tmp_path / "log.csv", b"user_id,item_id,timestamp\n" + b"\n".join(rows))
    assert len(good.good) == 200_000
    assert not good.bad
    rows[150_000] = b"u,i,soon"
    found = read_csv(tmp_path / "log.csv", b"user_id,item_id,timestamp\n" + b"\n".join(rows))
    reason = "timestamp 'soon' is neither seconds since 1970 nor ISO 8601"
    assert found.bad == [(150_002, reason, "u,i,soon")]  # the header is line 1, row 0 is line 2
    assert found.good == good.good[:150_000] + good.good[150_001:]


def test_quoted_newlines_across_the_blocks_of_arrows_reader(tmp_path: Path) -> None:
    body = b"".join(b'"u\r\n%d","""%d",%d\r\n' % (number % 97, number % 89, number) for number in range(100_000))
    file = log_at(tmp_path / "log.csv", "csv", b"user_id,item_id,timestamp\r\n" + body)
    layout = read_layout(file, ColumnsConfig())
    assert len(body) > 2 << 20
    assert read_fast(body, file, layout, "s") is not None
    good, bad = read(file, layout)
    assert good == [(f"u\r\n{n % 97}", f'"{n % 89}', float(n), None, None) for n in range(100_000)]
    assert not bad


def test_an_open_quote_in_a_compressed_file_is_soon_told(tmp_path: Path) -> None:
    rows = b"".join(b"u,i,%d\n" % number for number in range(50_000))
    data = gzip.compress(b'user_id,item_id,timestamp\na,"x,1\n' + rows, 1)
    file = log_at(tmp_path / "log.csv.gz", "csv", data, "gzip")
    good, bad = read(file, read_layout(file, ColumnsConfig()))
    assert not good
    assert {reason for _, reason, _ in bad} == {TORN}
    assert [line for line, _, _ in bad] == list(range(2, 50_003)), "every line from the quote on"


HEAD = b"user_id,item_id,timestamp\n"
GOOD_ROW, MANY_ROWS = b'"u\nv",i,1\n', b"u,i,1\n" * 200


@pytest.mark.parametrize("range_bytes", [1, 60, 300])
@pytest.mark.parametrize("chunk_bytes", [7, 100, 1 << 20])
@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        # 20 rows of two lines from line 2 on, then the row that does not end
        ("csv", GOOD_ROW * 20 + b'a,"x,1\n' + MANY_ROWS, "opens in the row of line 42 is not closed"),
        ("csv", GOOD_ROW * 20 + b'a,5" disk,1\n' + b'"u","i","1"\n' * 200, "opens in the row of line 42 is not"),
        ("csv", b'"a,x,1\n' + MANY_ROWS, "opens in the row of line 2 is not closed"),
        ("csv", b"u,i,1\n" * 20 + b"a,x,1 " * 200, "the row of line 22 does not end"),
        ("csv", b"a,x,1\r" * 200, "the row of line 2 does not end"),
        ("tsv", b"u\ti\t1\n" * 20 + b'"' * 2000, "the row of line 22 does not end"),
    ],
)
def test_a_row_without_an_end_is_an_error_and_not_one_range(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Format,
    rows: bytes,
    message: str,
    chunk_bytes: int,
    range_bytes: int,
) -> None:
    monkeypatch.setattr(ranges, "MAX_ROW_BYTES", 500)
    monkeypatch.setattr(ranges, "CHUNK_BYTES", chunk_bytes)
    data = (HEAD if kind == "csv" else HEAD.replace(b",", b"\t")) + rows
    plain = log_at(tmp_path / f"log.{kind}", kind, data)
    packed = log_at(tmp_path / f"log.{kind}.gz", kind, gzip.compress(data, 1), "gzip")
    for file in (plain, packed):
        with pytest.raises(InputError, match=message) as found:
            read(file, read_layout(file, ColumnsConfig()), range_bytes, range_bytes)
        assert str(found.value).startswith(f"{file.path}: ")


@pytest.mark.parametrize("size", [1, 30, 600])
def test_rows_up_to_the_limit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(ranges, "MAX_ROW_BYTES", 500)
    monkeypatch.setattr(ranges, "CHUNK_BYTES", 64)
    text = "x\n" * 240 + "x"
    data = HEAD + b'"%b",i,1\n' % text.encode() + b"u,i,2\n" * 200 + b'"%b",i,3' % text.encode()
    for name, stored, compression in (("log.csv", data, None), ("log.csv.gz", gzip.compress(data, 1), "gzip")):
        file = log_at(tmp_path / name, "csv", stored, compression)  # type: ignore[arg-type]
        good, bad = read(file, read_layout(file, ColumnsConfig()), size, size)
        assert not bad
        assert [row[0] for row in good] == [text, *["u"] * 200, text]


def test_times_in_a_finer_unit_than_was_said_end_in_one_line(tmp_path: Path) -> None:
    def message(scale: int, unit: str, far: int = 150, near: int = 100) -> str:
        rows = [b"u,i,%d\n" % (1_700_000_000 * scale)] * far + [b"u,i,1\n"] * near
        data = HEAD + b"".join(rows)
        found = set()
        for name, stored, compression in (("log.csv", data, None), ("log.csv.gz", gzip.compress(data, 1), "gzip")):
            file = log_at(tmp_path / name, "csv", stored, compression)  # type: ignore[arg-type]
            with pytest.raises(InputError) as error:
                read(file, read_layout(file, ColumnsConfig()), unit=unit)
            found.add(str(error.value).removeprefix(f"{file.path}: "))
        (one,) = found
        return one

    assert message(1000, "s") == (
        "150 of 250 timestamps from line 2 on look like milliseconds, and data.columns.timestamp_unit is s: "
        "set it to ms"
    )
    assert message(10**6, "ms").endswith("look like microseconds, and data.columns.timestamp_unit is ms: set it to us")
    assert message(10**9, "us").endswith("data.columns.timestamp_unit is us: divide them by 1000 and set it to us")


@pytest.mark.parametrize(
    ("far", "near", "time"),
    [(125, 125, b"1700000000000"), (99, 0, b"1700000000000"), (150, 0, b"1e308"), (150, 0, b"-1e300")],
)
def test_few_odd_times_and_absurd_ones_are_rows_set_aside(tmp_path: Path, far: int, near: int, time: bytes) -> None:
    found = read_csv(tmp_path / "log.csv", HEAD + b"u,i,1\n" * near + b"u,i,%b\n" % time * far)
    assert (len(found.good), len(found.bad)) == (near, far)
    wanted = "looks like ms: see data.columns.timestamp_unit" if b"e" not in time else "further from 1970 than the year"
    assert all(wanted in reason for _, reason, _ in found.bad)


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
def test_units_are_of_numbers_alone(tmp_path: Path, unit: str, scale: int) -> None:
    for rows in (b"a,x,1500\n", b"a,x,1500\nb,y,1970-01-02\n", b"b,y,1970-01-02\na,x,1500\n"):
        file = log_at(tmp_path / "log.csv", "csv", b"user_id,item_id,timestamp\n" + rows)
        good, bad = read(file, read_layout(file, ColumnsConfig()), unit=unit)
        assert not bad
        wanted = {"a": 1500 / scale, "b": 86400.0}
        assert {user: time for user, _, time, *_ in good}.items() <= wanted.items()


def test_ratings_beyond_float32_are_no_numbers(tmp_path: Path) -> None:
    data = b"user_id,item_id,timestamp,rating\na,x,1,3.4e38\na,y,2,3.5e38\na,z,3,-1e300\n"
    good, bad = read_csv(tmp_path / "log.csv", data)
    assert [row[3] for row in good] == [3.4e38]
    assert [(line, reason) for line, reason, _ in bad] == [
        (3, "rating '3.5e38' is not a number"),
        (4, "rating '-1e300' is not a number"),
    ]


# ---------------------------------------------------------------- compressed files


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


LINES = b"user_id,item_id,timestamp\n" + b"".join(b'u%d,"x\n%d",%d\n' % (n % 7, n % 5, n) for n in range(300))


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
def test_compressed_files(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    plain = read_csv(tmp_path / "log.csv", LINES)
    assert (len(plain.good), plain.bad) == (300, [])
    assert plain.good[6] == ("u6", "x\n1", 6.0, None, None)
    packed = {
        "whole": pack(LINES),
        "members": pack(LINES[:1000]) + pack(b"") + pack(LINES[1000:]),
        "cut": pack(LINES)[:-20],
        "garbled": pack(LINES)[:20] + bytes(byte ^ 0xFF for byte in pack(LINES)[20:]),
    }
    for name, data in packed.items():
        file = log_at(tmp_path / f"{name}.csv{suffix}", "csv", data, COMPRESSIONS[suffix])
        layout = Layout({role: role for role in PLAIN}, list(PLAIN), 26, 2)
        if name in ("whole", "members"):
            assert read_layout(file, ColumnsConfig()) == layout
            for block_bytes in (1, 7, 100, 1 << 20):
                assert read(file, layout, 1, block_bytes) == plain
        else:
            with pytest.raises(READ_ERRORS):
                read(file, layout)


def test_line_numbers_of_a_compressed_file_go_on_from_block_to_block(tmp_path: Path) -> None:
    data = BOM + b'{"user_id": "a", "item_id": "x", "timestamp": 1}\n\n' + b"oops\n" * 3
    for compression, name, stored in (("gzip", "log.jsonl.gz", gzip.compress(data)), (None, "log.jsonl", data)):
        file = log_at(tmp_path / name, "jsonl", stored, compression)  # type: ignore[arg-type]
        for size in (1, 20, 1000):
            good, bad = read(file, read_layout(file, ColumnsConfig()), size, size)
            assert good == [("a", "x", 1.0, None, None)]
            assert [line for line, *_ in bad] == [3, 4, 5]


# ---------------------------------------------------------------- Parquet


def read_parquet(path: Path, row_group_size: int = WHOLE, range_bytes: int = WHOLE, **columns: Any) -> Rows:
    """columns: of the table, beside users 1, 2, ..., items "x" and times 10, 20, ..."""
    count = len(next(iter(columns.values())))
    numbers = range(1, count + 1)
    table = {"user_id": list(numbers), "item_id": ["x"] * count, "timestamp": [10 * n for n in numbers]}
    pq.write_table(pa.table(table | columns), path, row_group_size=min(row_group_size, max(count, 1)))
    file = LogFile(str(path), path.name, path.stat().st_size, "parquet", None)
    features = tuple(name for name in columns if name == "score")
    return read(file, read_layout(file, ColumnsConfig(features=features)), range_bytes)


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        (pa.array([7, 8, 7]), ["7", "8", "7"]),
        (pa.array([7.0, 1.5, -0.0]), ["7", "1.5", "0"]),
        (pa.array([0.0, -0.0, 0.0]), ["0", "0", "0"]),
        (pa.array([2**63, 1, 1], pa.uint64()), ["9223372036854775808", "1", "1"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([5, 6, 5]).dictionary_encode(), ["5", "6", "5"]),
        (pa.array(["a", " b", "a"], pa.large_string()), ["a", "b", "a"]),
        (pa.array([b"a", b"b", b"a"]), ["a", "b", "a"]),  # text as old writers leave it
        (pa.array([True, False, True]), ["true", "false", "true"]),
        (pa.array([date(1970, 1, 2)] * 3), ["1970-01-02"] * 3),
    ],
)
def test_parquet_ids(tmp_path: Path, ids: pa.Array, wanted: list[str]) -> None:
    for size in (1, 2, WHOLE):
        good, bad = read_parquet(tmp_path / "log.parquet", size, 1, user_id=ids)
        assert [row[:3] for row in good] == list(zip(wanted, "xxx", (10.0, 20.0, 30.0), strict=True))
        assert not bad
    # a null elsewhere sends the block down the careful path
    good, bad = read_parquet(tmp_path / "log.parquet", user_id=ids, item_id=["x", None, "x"])
    assert [row[0] for row in good] == [wanted[0], wanted[2]]
    assert [bad_row[:2] for bad_row in bad] == [(2, "item_id is empty")]


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        (pa.array([1.5, 2.0]), [1.5, 2.0]),
        (pa.array([date(1970, 1, 2), date(1970, 1, 3)]), [86400.0, 172800.0]),
        (pa.array([datetime(1970, 1, 2, tzinfo=UTC)] * 2), [86400.0, 86400.0]),
        (pa.array([1_500_000_000, 0], pa.timestamp("ns", "Europe/Paris")), [1.5, 0.0]),
        (pa.array(["1970-01-02", " 7 "]), [86400.0, 7.0]),
    ],
)
def test_parquet_times(tmp_path: Path, times: pa.Array, wanted: list[float]) -> None:
    good, bad = read_parquet(tmp_path / "log.parquet", timestamp=times)
    assert [row[2] for row in good] == wanted
    assert not bad


def test_parquet_rows_that_cannot_be_read_have_their_number(tmp_path: Path) -> None:
    columns = {
        "user_id": [1, None, 3, 4, 5, 6],
        "item_id": ["x", "x", " ", "x", "x", None],
        "timestamp": [1.0, 2.0, 3.0, math.nan, 5.0, 6.0],
        "rating": [1.0, 2.0, 3.0, 4.0, math.inf, 6.0],
    }
    found = [read_parquet(tmp_path / "log.parquet", size, 1, **columns) for size in (1, 2, 4, 6)]
    assert found == [found[0]] * 4
    assert found[0].good == [("1", "x", 1.0, 1.0, None)]
    assert [(row, reason) for row, reason, _ in found[0].bad] == [
        (2, "user_id is empty"),
        (3, "item_id is empty"),
        (4, "timestamp 'NaN' is neither seconds since 1970 nor ISO 8601"),
        (5, "rating 'inf' is not a number"),
        (6, "item_id is empty"),
    ]
    assert json.loads(found[0].bad[0][2]) == {"user_id": None, "item_id": "x", "timestamp": 2.0, "rating": 2.0}


@pytest.mark.parametrize("range_bytes", [1, WHOLE])
@pytest.mark.parametrize("batch_rows", [1, 3, 1000])
def test_a_row_group_is_read_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int, range_bytes: int
) -> None:
    monkeypatch.setattr(parquet_rows, "PARQUET_ROWS", batch_rows)
    users = [f"u{n % 4}" if n % 5 else None for n in range(1, 21)]
    items = pa.chunked_array([pa.array(["x", "y"] * 5), pa.array(["z", "x"] * 5)]).dictionary_encode()
    columns = {"user_id": users, "item_id": items, "event_type": items}
    good, bad = read_parquet(tmp_path / "log.parquet", 7, range_bytes, **columns)  # row groups of 7, 7 and 6 rows
    kinds = ["x", "y"] * 5 + ["z", "x"] * 5
    assert good == [(users[n - 1], kinds[n - 1], 10.0 * n, None, kinds[n - 1]) for n in range(1, 21) if n % 5]
    assert [bad_row[:2] for bad_row in bad] == [(n, "user_id is empty") for n in (5, 10, 15, 20)]


def test_parquet_times_in_milliseconds(tmp_path: Path) -> None:
    times = [1_700_000_000_000] * 100
    message = "100 of 100 timestamps from line 1 on look like milliseconds.*set it to ms"
    with pytest.raises(InputError, match=message):
        read_parquet(tmp_path / "log.parquet", timestamp=times)
    assert read_parquet(tmp_path / "log.parquet", timestamp=pa.array(times, pa.timestamp("ms"))).good[0][2] == 1.7e9


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        # the nearest float32 to 0.1, whether or not another row of the block is bad
        ("rating", pa.array([0.1, None, 2], pa.float32()), [0.10000000149011612, None, 2.0]),
        ("rating", pa.array(["0.1", "", "2"]), [0.1, None, 2.0]),
        ("score", pa.array([0.1, None, 2], pa.float32()), [0.10000000149011612, None, 2.0]),
        ("score", pa.array([2**53 + 1, None, 2]), [2.0**53, None, 2.0]),
        ("event_type", pa.array([1.0, None, 2.5]), ["1.0", None, "2.5"]),
        ("event_type", pa.array(["a", None, " "]).dictionary_encode(), ["a", None, None]),
        ("event_type", pa.array([7, None, 7]), ["7", None, "7"]),
    ],
)
def test_parquet_columns_read_alike_beside_a_bad_row(
    tmp_path: Path, name: str, values: pa.Array, wanted: list[object]
) -> None:
    place = {"rating": 3, "event_type": 4, "score": 5}[name]
    good, bad = read_parquet(tmp_path / "log.parquet", **{name: values})
    assert [row[place] for row in good] == wanted
    assert not bad
    beside = {"user_id": [1, 2, 3, None], name: pa.concat_arrays([values, values[:1]])}
    good, bad = read_parquet(tmp_path / "log.parquet", **beside)
    assert [row[place] for row in good] == wanted
    assert [row for row, *_ in bad] == [4]


BROKEN_FOOTER = r"not readable as parquet: its footer is not valid \(.*\); mend or remove the file"


def test_parquet_without_rows_and_broken_parquet(tmp_path: Path) -> None:
    assert read_parquet(tmp_path / "log.parquet", user_id=pa.array([], pa.int64())) == Rows([], [])
    with pytest.raises(READ_ERRORS, match="cannot be read as text"):
        read_parquet(tmp_path / "log.parquet", user_id=pa.array([b"a", b"\xff"]))
    with pytest.raises(InputError, match=r"column 'user_id' is of type duration\[s\], of which no user_id can be read"):
        read_parquet(tmp_path / "log.parquet", user_id=pa.array([1, 2], pa.duration("s")))
    found = read_parquet(tmp_path / "log.parquet", user_id=pa.array([1, 2], pa.float16()))
    assert [row[0] for row in found.good] == ["1", "2"]
    read_parquet(tmp_path / "log.parquet", user_id=[1, 2])
    whole = (tmp_path / "log.parquet").read_bytes()
    layout = Layout({name: name for name in PLAIN}, list(PLAIN), 0, 1)
    for name, data in (("footer", whole[:-9] + b"\0" + whole[-8:-4] + b"    "), ("cut", whole[: len(whole) // 2])):
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(data)
        file = LogFile(str(path), path.name, len(data), "parquet", None)
        with pytest.raises(READ_ERRORS):
            read(file, layout)
        with pytest.raises(InputError, match=f"{name}.parquet: {BROKEN_FOOTER}"):
            read_layout(file, ColumnsConfig())


@pytest.mark.parametrize("flip", [0x01, 0x10, 0x80, 0xFF])
def test_any_damaged_byte_of_a_footer_is_one_clear_line(tmp_path: Path, flip: int) -> None:
    """Some damage still reads as a schema, some as one that pyarrow does not know; all else is told."""
    read_parquet(tmp_path / "log.parquet", user_id=[1, 2])
    whole = (tmp_path / "log.parquet").read_bytes()
    path = tmp_path / "damaged.parquet"
    file = LogFile(str(path), path.name, len(whole), "parquet", None)
    told: list[str] = []
    for place in range(len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
        try:
            inspect_files((file,), ColumnsConfig(), 1 << 20)
        except InputError as error:
            told.append(str(error))
    assert len(told) > 100
    for line in told:
        assert re.fullmatch(f"{path}: (not readable as parquet: .*; mend or remove the file|no column .*)", line), line


def test_a_footer_that_breaks_while_files_are_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan's own find is told as the layout's: the file's fault, not the storage's. That stays with a lost file."""
    read_parquet(tmp_path / "log.parquet", user_id=[1, 2])
    path = tmp_path / "log.parquet"
    file = LogFile(str(path), path.name, path.stat().st_size, "parquet", None)

    def scan_after(harm: Callable[[], object]) -> str:
        def read_and_harm(file: LogFile, columns: ColumnsConfig) -> Layout:
            layout = read_layout(file, columns)
            harm()
            return layout

        monkeypatch.setattr(units, "read_layout", read_and_harm)
        with pytest.raises(InputError) as caught:
            inspect_files((file,), ColumnsConfig(), WHOLE)
        return str(caught.value)

    whole = path.read_bytes()
    assert re.fullmatch(f"{path}: {BROKEN_FOOTER}", scan_after(lambda: path.write_bytes(whole[: len(whole) // 2])))
    path.write_bytes(whole)
    told = scan_after(path.unlink)
    assert "No such file" in told
    assert told.endswith("the log must be on storage that every node sees under the same path, and may read")


def test_stray_quotes_do_not_hide_the_lines_between_them(tmp_path: Path) -> None:
    lines = [f"u{number},i1,{number}" for number in range(1000)]
    lines[10], lines[900] = 'u10,5" disk,10', 'u900,12" vinyl,900'
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    config = DataConfig(source=str(path))
    (file,) = resolve(config, tmp_path).files
    rows = read(file, read_layout(file, config.columns))
    assert len(rows.good) == 109
    assert [line for line, _, _ in rows.bad] == list(range(12, 903)), "the lines of both quotes and all between"


# ---------------------------------------------------------------- one id, whatever the format


def parquet_bytes(users: pa.Array | pa.ChunkedArray, items: pa.Array | None = None) -> bytes:
    """Rows of the users, one item "x" and times 1, 2, ..."""
    sink = pa.BufferOutputStream()
    count = len(users)
    columns = {"user_id": users, "item_id": items or pa.array(["x"] * count), "timestamp": list(range(1, count + 1))}
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def text_bytes(separator: str, ids: list[str]) -> bytes:
    rows = [["user_id", "item_id", "timestamp"], *([text, "x", str(n)] for n, text in enumerate(ids, start=1))]
    return "".join(separator.join(row) + "\n" for row in rows).encode()


def json_bytes(ids: list[str]) -> bytes:
    return "".join(
        f'{{"user_id": {text}, "item_id": "x", "timestamp": {n}}}\n' for n, text in enumerate(ids, 1)
    ).encode()


def uuids(numbers: list[int]) -> pa.Array:
    storage = pa.array([UUID(int=number).bytes for number in numbers], pa.binary(16))
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


D = Decimal
SAME_IDS: list[tuple[str, Format, bytes, list[str]]] = [
    ("csv", "csv", text_bytes(",", ["7", " 7", "7.0", '"7 "', '"7.00"', "\u00a07\t"]), ["7"] * 6),
    ("tsv", "tsv", text_bytes("\t", ["7", " 7", "7.0", "7 "]), ["7"] * 4),
    ("dat", "dat", b"7::x::5::1\n7.0::x::5::2\n 7 ::x::5::3\n", ["7"] * 3),
    ("json", "jsonl", json_bytes(["7", "7.0", '"7"', '"7.0"', '" 7 "', "7e0"]), ["7"] * 6),
    ("text in Parquet", "parquet", parquet_bytes(pa.array(["7", "7.0", " 7", "7\n"])), ["7"] * 4),
    ("large text", "parquet", parquet_bytes(pa.array(["7", "7.0", "8"], pa.large_string())), ["7", "7", "8"]),
    (
        "a dictionary",
        "parquet",
        parquet_bytes(pa.array(["7", "7.0", "8", "7"]).dictionary_encode()),
        ["7", "7", "8", "7"],
    ),
    ("bytes", "parquet", parquet_bytes(pa.array([b"7", b"7.0", b" 7"])), ["7"] * 3),
    ("int64", "parquet", parquet_bytes(pa.array([7, -7, 7])), ["7", "-7", "7"]),
    ("uint8", "parquet", parquet_bytes(pa.array([7, 8, 7], pa.uint8())), ["7", "8", "7"]),
    ("float64", "parquet", parquet_bytes(pa.array([7.0, 12.5, -0.0, 0.0, 1e-7])), ["7", "12.5", "0", "0", "0.0000001"]),
    ("float32", "parquet", parquet_bytes(pa.array([7.0, 0.1], pa.float32())), ["7", "0.1"]),
    (
        "decimal",
        "parquet",
        parquet_bytes(pa.array([D("7"), D("12.5"), D("0")], pa.decimal128(9, 2))),
        ["7", "12.5", "0"],
    ),
    ("whole decimal", "parquet", parquet_bytes(pa.array([D("70"), D("0")], pa.decimal128(9, 0))), ["70", "0"]),
    (
        "decimal256",
        "parquet",
        parquet_bytes(pa.array([D("7"), D("12.5"), D("0"), D("0.0000001"), D(10**50), D("7")], pa.decimal256(70, 12))),
        ["7", "12.5", "0", "0.0000001", "1" + "0" * 50, "7"],
    ),
    ("whole decimal256", "parquet", parquet_bytes(pa.array([D(70), D(0)], pa.decimal256(60, 0))), ["70", "0"]),
    ("uuid", "parquet", parquet_bytes(uuids([5, 2**127, 5])), [str(UUID(int=n)) for n in (5, 2**127, 5)]),
    ("uuid as text", "csv", text_bytes(",", [str(UUID(int=5))]), [str(UUID(int=5))]),
]


@pytest.mark.parametrize(("kind", "data", "wanted"), [row[1:] for row in SAME_IDS], ids=[row[0] for row in SAME_IDS])
def test_a_number_is_one_id_in_every_format(folder: Path, kind: Format, data: bytes, wanted: list[str]) -> None:
    file = log_at(folder / f"same.{kind}", kind, data)
    layout = read_layout(file, ColumnsConfig())
    parts = inspect_file(file, layout, WHOLE).ranges
    blocks = [block for part in parts for block in read_range(file, layout, part, "s", 1 << 20)]
    good, bad = as_rows(blocks)
    assert [row[0] for row in good] == wanted
    assert not bad
    if kind != "jsonl":
        assert all(pa.types.is_dictionary(block.events["user_id"].type) for block in blocks), "by the fast path"


@pytest.mark.parametrize(
    ("kind", "data", "wanted"), [row[1:] for row in SAME_IDS if row[1] == "parquet"],
    ids=[row[0] for row in SAME_IDS if row[1] == "parquet"],
)  # fmt: skip
def test_typed_ids_beside_a_bad_row(folder: Path, kind: Format, data: bytes, wanted: list[str]) -> None:
    """The careful path says of them what the fast one does; a null is no id in either."""
    table = pq.read_table(pa.BufferReader(data))
    nothing = pa.nulls(1, table["user_id"].type)
    users = pa.chunked_array([*table["user_id"].chunks, nothing]).combine_chunks()
    file = log_at(folder / "beside.parquet", kind, parquet_bytes(users))
    good, bad = read(file, read_layout(file, ColumnsConfig()))
    assert [row[0] for row in good] == wanted
    assert [row[:2] for row in bad] == [(len(wanted) + 1, "user_id is empty")]


def test_what_stands_for_no_value_in_every_column(folder: Path) -> None:
    """Blank, NULL and \\N alike; null, nan and None are text, and are told where they are no number."""
    head = "user_id,item_id,timestamp,rating,event_type,score\n"
    rows = ["u,i,1,2,view,3"]
    for none in ("", " ", "NULL", "\\N", " NULL", "null", "nan", "None"):
        rows += [f"{none},i,1,2,view,3", f"u,{none},1,2,view,3", f"u,i,{none},2,view,3", f"u,i,1,{none},view,3"]
        rows += [f"u,i,1,2,{none},3", f"u,i,1,2,view,{none}"]
    found = read_csv(folder / "none.csv", (head + "\n".join(rows)).encode(), features=("score",))
    reasons = {line: reason for line, reason, _ in found.bad}
    assert [reasons[line] for line in range(3, 33, 6)] == ["user_id is empty"] * 5
    assert [reasons[line] for line in range(4, 34, 6)] == ["item_id is empty"] * 5
    assert [reasons[line] for line in range(5, 35, 6)] == ["timestamp is empty"] * 5
    assert len(found.good) == 1 + 3 * 5 + 3 * 3
    nothing = [("u", "i", 1.0, None, "view", 3.0), ("u", "i", 1.0, 2.0, None, 3.0), ("u", "i", 1.0, 2.0, "view", None)]
    assert found.good[1:16] == nothing * 5
    for place, text in enumerate(("null", "nan", "None")):
        own = [("u" if n else text, text if n else "i", 1.0, 2.0, "view", 3.0) for n in range(2)]
        assert found.good[16 + 3 * place : 19 + 3 * place] == [*own, ("u", "i", 1.0, 2.0, text, 3.0)]
        lines = range(35 + 6 * place, 39 + 6 * place)
        assert [reasons.get(line) for line in lines] == [
            f"timestamp '{text}' is neither seconds since 1970 nor ISO 8601",
            f"rating '{text}' is not a number",
            None,
            f"score '{text}' is not a number",
        ]


def test_null_in_columns_of_numbers_stays_on_the_fast_path(folder: Path) -> None:
    data = b"user_id,item_id,timestamp,rating,event_type\nu,i,1,NULL,NULL\nu,j,2,\\N,\\N\nu,k,3,4,view\n"
    file = log_at(folder / "numbers.csv", "csv", data)
    layout = read_layout(file, ColumnsConfig())
    fast = read_fast(data[layout.data_start :], file, layout, "s")
    assert fast is not None
    assert [row[3:5] for row in as_rows([fast]).good] == [(None, None), (None, None), (4.0, "view")]


def test_ids_that_are_spelled_in_two_ways_are_noted(folder: Path) -> None:
    def noted(data: bytes) -> dict[str, dict[str, int]]:
        file = log_at(folder / "two.csv", "csv", data)
        layout = read_layout(file, ColumnsConfig())
        (block,) = read_range(file, layout, inspect_file(file, layout, WHOLE).ranges[0], "s", 1 << 20)
        return {role: dict(zip(*table.to_pydict().values(), strict=True)) for role, table in block.respelled.items()}

    rows = b"7,x,1\n7.0,x,2\n8.0,x,3\n9,x,4\n5 ,x,5\n 5,x,6\n"
    wanted = {"user_id": {"7": BOTH_WAYS, "8": RESPELLED, "5": BOTH_WAYS}}
    assert noted(HEAD + rows) == wanted
    assert noted(HEAD + rows + b"8.0,y,soon\n") == wanted, "by the careful path"
    assert noted(HEAD + b"7,x,1\n8,x,2\n") == {}


typed_ids = st.one_of(
    st.lists(st.floats() | st.sampled_from([0.0, -0.0, 7.0])).map(pa.array),
    st.lists(st.decimals(-999, 999, places=2)).map(lambda values: pa.array(values, pa.decimal128(9, 2))),
    st.lists(st.decimals(-999, 999, places=3)).map(lambda values: pa.array(values, pa.decimal256(60, 9))),
    st.lists(st.integers(0, 2**128 - 1)).map(uuids),
    st.lists(st.sampled_from(["7", "7.0", " 7", "NULL", "", "7.00", "a", "007", "-0"])).map(
        lambda values: pa.array(values, pa.string())
    ),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(typed_ids.filter(len))
def test_both_paths_of_parquet_agree_on_ids(folder: Path, ids: pa.Array) -> None:
    layout = Layout({role: role for role in PLAIN}, list(PLAIN), 0, 1)
    count = len(ids)
    columns = {"user_id": ids, "item_id": pa.array(["x"] * count), "timestamp": pa.array([1.0] * count)}
    wanted = as_rows([read_parquet_batch(pa.record_batch(columns), layout, 1, "s")])
    broken = columns | {"timestamp": pa.array([1.0] * (count + 1) + [None])}  # a row for the careful path's sake
    for name in ("user_id", "item_id"):
        column = columns[name]
        storage = column.storage if isinstance(column, pa.ExtensionArray) else column
        longer = pa.concat_arrays([storage, storage[:1], storage[:1]])
        broken[name] = uuid_column(longer) if isinstance(column, pa.ExtensionArray) else longer
    careful = as_rows([read_parquet_batch(pa.record_batch(broken), layout, 1, "s")])
    assert [row[:3] for row in careful.good[: len(wanted.good)]] == [row[:3] for row in wanted.good]
    assert [row[:2] for row in careful.bad[: len(wanted.bad)]] == [row[:2] for row in wanted.bad]


def uuid_column(storage: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)

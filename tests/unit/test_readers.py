"""pipelines.ingest.source.readers: rows are those of a slow serial read, however a log is cut or compressed."""

import csv
import gzip
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.config import ColumnsConfig
from mgray.ingest.spelling import id_spelling
from pipelines.ingest.source.careful_text import read_careful
from pipelines.ingest.source.fast_text import BOM, read_fast
from pipelines.ingest.source.layouts import Layout, read_layout
from pipelines.ingest.source.log_files import COMPRESSIONS, READ_ERRORS, Format
from pipelines.ingest.source.ranges import inspect_file
from pipelines.ingest.source.rows import TORN
from tests.log_rows import PLAIN, Rows, as_rows, log_at, read, read_csv

WIDE = (*PLAIN, "rating", "event_type", "score", "unused")
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

"""pipelines.readers: however a log is cut, compressed or read, its rows are those that a slow serial read gives."""

import csv
import gzip
import hashlib
import io
import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.config import ColumnsConfig
from mgray.errors import InputError
from pipelines import readers
from pipelines.readers import BOM, READ_ERRORS, Block, read_range, scan
from pipelines.sources import COMPRESSIONS, Compression, Format, Layout, LogFile, read_layout

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
        found[4] = [kind if kind is not None and kind.strip() else None for kind in found[4]]
        good += zip(*found, strict=True)
        bad += block.bad.select("line", "reason", "raw").rows() if block.bad is not None else []
    return Rows(good, bad)


def log_at(path: Path, kind: Format, data: bytes, compression: Compression | None = None) -> LogFile:
    path.write_bytes(data)
    return LogFile(str(path), path.name, len(data), kind, compression)


def read(
    file: LogFile, layout: Layout, range_bytes: int = WHOLE, block_bytes: int = 1 << 20, unit: str = "s"
) -> Rows:
    parts = scan(file, layout, range_bytes).ranges
    return as_rows([block for part in parts for block in read_range(file, layout, part, unit, block_bytes)])


def read_csv(path: Path, data: bytes, range_bytes: int = WHOLE, **columns: Any) -> Rows:
    file = log_at(path, "csv", data)
    return read(file, read_layout(file, ColumnsConfig(**columns)), range_bytes)


# ---------------------------------------------------------------- drawn files

IDS = [b"u", b"7", b"12.0", b"a b", b" u ", "\u00e9".encode(), b"NA", b"null", b"0x1"]
ODD_IDS = [
    b"", b" ", b"\t", b"\x0b", b"\xff", b"a\xc3", b"\0", b"a\0b", b"a\rb", b"\r", b"'x'",
    "\u00a0".encode(), "\u2003".encode(), "\u0085".encode(), BOM, BOM + b"u", b"a,b", b"a:b", b"a:", b":b",
]  # fmt: skip
QUOTED = [b'"a,b"', b'"a""b"', b'"a\nb"', b'"a\r\nb"', b'""""', b'"\n"', b'"u"', b'""', b'" "', b'"\n\n\n"']
ODD_QUOTES = [b'"', b'a"b', b'"a"b', b'"a" ', b' "a"', b'"""', b'a"', b'"a', b'"a"b"c"', b'"\r"', b'"a\xff\n"']
TIMES = [b"1", b"0", b"-1.5", b"1e3", b"1000000000", b"16777217", b"0.1"]
ODD_TIMES = [
    b"+5", b"0x10", b"nan", b"inf", b"-inf", b" 7 ", b"1_000", b"", b" ", b"1970-01-02", b"1970-01-02 00:00",
    b"1970-01-02T00:00:00Z", b"1970-01-02T02:00:00+02:00", b"soon", b"1e400", b"1.", b".5", b"1d", b"1,5", b"\xff",
    "\u00a07".encode(), b"\t7", b"7\r", b"infinity", b"NaN", b"1e-400", b"00012", b"\xef\xbb\xbf1", b"1e300",
]  # fmt: skip
RATINGS = [b"", b"5", b"0.1", b"-3"]
ODD_RATINGS = [b"nan", b"inf", b" 4 ", b"1_0", b"five", b" ", b"+1", b"1e39", b"1e300", b"\xff", b"-", b"0x1"]
WORDS = [b"", b"view", b"a b"]
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
    words = WORDS + [b" ", b"\xff", "\u00a0".encode()] * ("ids" in odd) + QUOTED * ("quoted" in odd)
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


JSON_VALUES = [
    b'"u"', b'"12.0"', b"12", b"12.0", b"1.5", b"null", b"true", b'""', b'" "', b"1e30", b"-0", b"[1]", b'{"a":1}',
    b'"\\u00e9"', b'"\\n"', b'"\xff"', b'"\\ud800"', b"nan", b"NaN", b"", b'"1970-01-02"', b"12345678901234567890",
    b'"a\\"b"', b'"a,b"', b"1.0e0", b"'x'", b'"\0"', b'"\\u0000"',
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


def check_laws(path: Path, kind: Format, data: bytes, columns: ColumnsConfig, range_bytes: int, block: int) -> Rows:
    file = log_at(path, kind, data)
    layout = read_layout(file, columns)
    serial = read(file, layout)
    body = data[layout.data_start :].removeprefix(BOM if not layout.data_start else b"")
    assert len(serial.good) + len(serial.bad) == count_records(body, kind == "csv")

    found = scan(file, layout, range_bytes)
    assert (found.bytes, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert "".join(f"{part.start}-{part.stop}" for part in found.ranges) or len(data) == layout.data_start
    assert read(file, layout, range_bytes) == serial

    packed = log_at(path.with_name("packed"), kind, gzip.compress(data, 1), "gzip")
    assert read(packed, layout, range_bytes, block) == serial

    if body and kind != "jsonl":
        fast = readers._read_fast(body, file, layout, "s")
        if fast is not None:
            assert as_rows([Block(fast, None)]) == as_rows(
                [readers._read_careful(body, file, layout, layout.first_line, "s")]
            )
    return serial


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


@settings(max_examples=300, deadline=None)
@given(text_logs(), st.integers(1, 50), st.integers(1, 50))
def test_a_split_read_gives_the_rows_of_a_serial_read(
    folder: Path, log: tuple[Format, bytes, tuple[str, ...] | None, bool], range_bytes: int, block_bytes: int
) -> None:
    kind, data, header, wide = log
    columns = ColumnsConfig(header=header, features=("score",) if wide else ())
    if data:
        check_laws(folder / f"log.{kind}", kind, data, columns, range_bytes, block_bytes)


@settings(max_examples=100, deadline=None)
@given(json_logs(), st.integers(1, 50), st.integers(1, 50))
def test_a_split_read_of_json_lines(folder: Path, data: bytes, range_bytes: int, block_bytes: int) -> None:
    check_laws(folder / "log.jsonl", "jsonl", data, ColumnsConfig(features=("score",)), range_bytes, block_bytes)

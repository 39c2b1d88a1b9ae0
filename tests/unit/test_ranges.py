"""pipelines.ingest.source.ranges: a file cut into ranges of whole rows."""

import gzip
import hashlib
import itertools
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from mgray.config import ColumnsConfig
from mgray.errors import InputError
from pipelines.ingest.source import ranges
from pipelines.ingest.source.fast_text import BOM
from pipelines.ingest.source.layouts import read_layout
from pipelines.ingest.source.log_files import READ_ERRORS, Format
from pipelines.ingest.source.ranges import Range, inspect_file
from pipelines.ingest.source.readers import read_range
from tests.log_rows import HEAD, WHOLE, Rows, log_at, read, read_csv
from tests.log_sources import COLUMNS, only, write


def events(path: Path, range_bytes: int) -> pa.Table:
    """Every event of a one-file log, range after range."""
    file = only(path)
    layout = read_layout(file, COLUMNS)
    parts = inspect_file(file, layout, range_bytes).ranges
    blocks = [block for part in parts for block in read_range(file, layout, part, "s", 1 << 20)]
    assert all(block.bad is None for block in blocks)
    return pa.concat_tables([block.events for block in blocks], promote_options="permissive").combine_chunks()


def test_parquet_keeps_types_and_counts_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame(
        {"user_id": [1, 2, 3], "item_id": [4.0, 5.0, 6.0], "timestamp": [7, 8, 9], "other": [0, 0, 0]}
    ).write_parquet(path, row_group_size=2)
    file = only(path)
    layout = read_layout(file, COLUMNS)
    assert layout[:4] == (
        {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp"},
        ["user_id", "item_id", "timestamp", "other"],
        0,
        1,
    )
    found = inspect_file(file, layout, 1).ranges
    assert [part[:3] for part in found] == [Range(0, 1, 1, 0)[:3], Range(1, 2, 3, 0)[:3]]


@pytest.mark.parametrize("range_bytes", [1, 7, 50, 333])
@pytest.mark.parametrize("quoted", [False, True])
def test_ranges_change_nothing(tmp_path: Path, range_bytes: int, quoted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.ingest.source.ranges.CHUNK_BYTES", 64)
    item = '"x\n,{}"' if quoted else "x{}"
    body = "".join(f"user{i % 7},{item.format(i)},{i}\n" + ("\n" if i % 10 == 0 else "") for i in range(100))
    path = write(tmp_path / "log.csv", "user_id,item_id,timestamp\n" + body)
    file = only(path)
    found = inspect_file(file, read_layout(file, COLUMNS), range_bytes)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.bytes == path.stat().st_size == file.bytes
    assert len(found.ranges) > 3
    whole = events(path, 1 << 20)
    assert whole.num_rows == 100
    assert events(path, range_bytes).equals(whole)


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

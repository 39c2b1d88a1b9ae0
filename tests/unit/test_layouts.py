"""pipelines.ingest.source.layouts: the columns that a file's beginning shows, and one clear line for bad input."""

import gzip
import os
from pathlib import Path

import polars as pl
import pytest

from mgray.config import ColumnsConfig
from mgray.errors import InputError
from pipelines.ingest.source.layouts import read_layout
from pipelines.ingest.source.log_files import open_stream
from tests.log_sources import COLUMNS, CSV, find, only, rows, write

WIDE = "x" * (1 << 20)


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        (
            "log.csv",
            b"user_id,item,timestamp\n",
            {},
            "no column 'item_id'; columns found: user_id, item, timestamp; name the log's own with "
            "--data.columns.item_id NAME, or all columns in data.columns.header if the log has no header line",
        ),
        ("log.jsonl", b'{"user_id": 1}\n', {}, "no column 'item_id'; columns found: user_id;"),
        ("log.jsonl", b"user_id,item_id\n", {}, "no JSON object in its first"),
        ("log.parquet", b"PAR1 not", {}, "not readable as parquet"),
        ("log.csv.gz", b"\x1f\x8bbroken", {}, "not readable as csv"),
        (
            "log.csv.gz",
            gzip.compress(CSV.encode(), mtime=0)[:-9],
            {},
            "not readable as csv (Truncated compressed stream)",
        ),
        ("log.csv.zst", b"no frame", {}, "not readable as csv (ZSTD decompress failed"),
        ("log.csv", CSV.encode("utf-16-be"), {}, "holds NUL bytes: it is not UTF-8 text, perhaps UTF-16"),
        ("log.csv", b"\xff\xfe," + CSV.encode(), {}, "not readable as csv ('utf-8' codec can't decode"),
        ("log.tsv", (WIDE + CSV).encode(), {}, "its first line is longer than 1048576 bytes"),
        ("log.csv", b"user_id,user_id,item_id,timestamp\n", {}, "2 columns are named 'user_id'"),
        ("log.csv", CSV.encode(), {"rating": "stars"}, "no column 'stars'"),
        ("log.csv", CSV.encode(), {"features": ("price",)}, "no column 'price'"),
        ("log.csv", CSV.encode(), {"features": ("price",)}, "columns of numbers in data.columns.features"),
        ("u.data", b"1\t2\t3\t4\n", {"user_id": "who"}, "no column 'who'; columns found: user_id, item_id, rating"),
        ("log.csv", b"a,x,1\n", {"header": ("u", "i", "t")}, "no column 'user_id'; columns found: u, i, t"),
        ("log.jsonl", b'{"user_id":1}', {"header": ("user_id", "item_id", "timestamp")}, "a jsonl file names its own"),
    ],
)
def test_bad_layouts_are_one_clear_line(
    tmp_path: Path, name: str, data: bytes, options: dict[str, object], message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_layout(only(tmp_path / name), ColumnsConfig(**options))
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_header_may_be_given(tmp_path: Path) -> None:
    columns = ColumnsConfig(header=("item_id", "user_id", "timestamp"))
    for name, text in (
        ("a.csv", "x,a,1\n"),
        ("a.tsv.gz", "x\ta\t1\n"),
        ("u.data", "x\ta\t1\n"),
        ("a.dat", "x::a::1\n"),
        ("b.csv", "\ufeffx,a,1\n"),
    ):
        path = write(tmp_path / name, text)
        layout = read_layout(only(path), columns)
        assert layout[1:4] == (["item_id", "user_id", "timestamp"], 0, 1)
        assert rows(path, columns).select("line", "user_id", "item_id", "timestamp").rows() == [(1, "a", "x", "1")]


def test_features_are_columns_too(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user_id,item_id,timestamp,price,rating\na,x,1,2.5,4\n")
    layout = read_layout(only(path), ColumnsConfig(features=("price", "rating", "timestamp")))
    assert layout.columns == {
        "user_id": "user_id",
        "item_id": "item_id",
        "timestamp": "timestamp",
        "rating": "rating",
        "feature:price": "price",
        "feature:rating": "rating",
        "feature:timestamp": "timestamp",
    }
    nested = tmp_path / "log.parquet"
    pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [1], "price": [[1.0]]}).write_parquet(nested)
    with pytest.raises(InputError, match=r"column 'price' holds lists, .*data\.columns\.features"):
        read_layout(only(nested), ColumnsConfig(features=("price",)))


def test_movielens_names_give_way_to_the_users(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "userId,movieId,rating,timestamp,user_id\na,x,5,1,b\n")
    assert read_layout(only(path), COLUMNS).columns["user_id"] == "user_id"
    assert read_layout(only(path), COLUMNS).columns["item_id"] == "movieId"
    with pytest.raises(InputError, match="no column 'movie'"):
        read_layout(only(path), ColumnsConfig(item_id="movie"))
    partial = write(tmp_path / "p.csv", "userId,movieId,timestamp\na,x,1\n")
    with pytest.raises(InputError, match="no column 'user_id'"):
        read_layout(only(partial), COLUMNS)


def test_a_file_that_went_away_is_not_to_be_mended(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", CSV)
    file = only(path)
    path.unlink()
    with pytest.raises(InputError, match=r"No such file.*every node sees under the same path"):
        read_layout(file, COLUMNS)


def test_a_compressed_file_of_nothing_has_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz", "")
    write(tmp_path / "b.csv.zst", "")
    for file in find(tmp_path).files:
        layout = read_layout(file, ColumnsConfig(rating="stars", features=("price",)))
        known = {"user_id", "item_id", "timestamp", "rating", "feature:price"}
        assert set(layout.columns) == known | ({"event_type"} if file.format == "jsonl" else set())
        with open_stream(file) as stream:
            assert stream.read() == b""


def test_a_layout_reads_the_beginning_only(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    body = "".join(f"user{i},x{i * 7919 % 100_003},{i}\n" for i in range(200_000))
    path.write_bytes(gzip.compress(("user_id,item_id,timestamp\n" + body).encode()))
    path.write_bytes(path.read_bytes()[:200_000] + b"?" * 1000)  # what lies behind is not even looked at
    assert read_layout(only(path), COLUMNS).data_start == len("user_id,item_id,timestamp\n")
    with open_stream(only(path)) as stream, pytest.raises(OSError, match=r"zlib|Truncated"):
        stream.read()


def test_files_are_closed(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [1]}).write_parquet(tmp_path / "a.parquet")
    write(tmp_path / "b.csv.gz", CSV)
    write(tmp_path / "c.csv", CSV)
    before = len(os.listdir("/proc/self/fd"))
    kept = [read_layout(file, COLUMNS) for file in find(tmp_path).files * 5]
    assert len(kept) == 15
    assert len(os.listdir("/proc/self/fd")) == before

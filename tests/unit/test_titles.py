"""pipelines.ingest.source.titles: files of titles and of item ids."""

import gzip
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgray.errors import InputError
from pipelines.ingest.source.titles import read_item_ids, read_titles
from tests.log_sources import CSV, find, write


def test_titles_of_numeric_ids(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": [1, 2], "title": ["A", None]}).write_parquet(tmp_path / "items.parquet")
    assert read_titles(tmp_path / "items.parquet").rows() == [("1", "A"), ("2", None)]
    assert read_titles(write(tmp_path / "items.tsv", "title\titem_id\nA\t01\n")).rows() == [("01", "A")]


TITLES = [("3", "A"), ("4", "B")]
OF_TITLES: dict[str, bytes] = {
    "items.CSV": b"\xef\xbb\xbfitem_id,title\r\n3.0,A\r\n4.0 ,B\r\nNULL,C\r\n",
    "items.TSV": b'title\titem_id\nA\t 3\nB\t"4.00"\n',
    "movies.csv": b"movieId,title,genres\n3.0,A,x\n4,B,y\n",
    "items.csv.gz": gzip.compress(b"item_id,title\n3.0,A\n4.0,B\n", mtime=0),
    "items.csv.ZST": pa.compress(b"item_id,title\n3.0,A\n4.0,B\n", "zstd", asbytes=True),
    "items.jsonl": b'{"item_id": 3.0, "title": "A"}\n\n{"title": "B", "item_id": "4 "}\n{"item_id": null}\n',
    "u.item": b"3.0|A|x\n 4|B|y\n|C|z\n",
    "movies.dat": b"3.0::A::x\n4::B::y\n\\N::C::z\n",
    "ml-100k.item": b"item_id:token\tmovie_title:token_seq\trelease_year:token\n3.0\tA\t\n4\tB\t\n",
}


@pytest.mark.parametrize("name", OF_TITLES)
def test_titles_are_read_by_the_rule_of_ids(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(OF_TITLES[name])
    assert read_titles(tmp_path / name).rows() == TITLES
    if name not in ("u.item", "movies.dat", "ml-100k.item", "movies.csv"):
        assert read_item_ids(tmp_path / name, "--predict.blocked") == ["3", "4"]


@pytest.mark.parametrize("ids", [[3.0, 4.0, None], [Decimal("3.00"), Decimal("4.00"), None], [" 3", "4.0", "NULL"]])
def test_parquet_titles_are_read_by_the_rule_of_ids(tmp_path: Path, ids: list) -> None:
    pq.write_table(pa.table({"item_id": ids, "title": ["A", "B", "C"]}), tmp_path / "items.PARQUET")
    assert read_titles(tmp_path / "items.PARQUET").rows() == TITLES
    assert read_item_ids(tmp_path / "items.PARQUET", "--predict.blocked") == ["3", "4"]


def test_parquet_titles_of_types_that_polars_does_not_take(tmp_path: Path) -> None:
    titles = {"title": ["A", "B"], "prices": pa.array([[Decimal(1)], None], pa.list_(pa.decimal256(60, 2)))}
    wide = pa.array([Decimal("3.00"), Decimal("3.50")], pa.decimal256(60, 2))
    pq.write_table(pa.table({"item_id": wide, **titles}), tmp_path / "items.parquet")
    assert read_titles(tmp_path / "items.parquet").rows() == [("3", "A"), ("3.5", "B")]
    storage = pa.array([UUID(int=n).bytes for n in (5, 6)], pa.binary(16))
    ids = pa.ExtensionArray.from_storage(pa.uuid(), storage)
    pq.write_table(pa.table({"item_id": ids, **titles}), tmp_path / "items.parquet")
    assert read_titles(tmp_path / "items.parquet").rows() == [(str(UUID(int=5)), "A"), (str(UUID(int=6)), "B")]
    pq.write_table(pa.table(titles), tmp_path / "items.parquet")
    with pytest.raises(InputError, match="columns found: title, prices"):
        read_titles(tmp_path / "items.parquet")


@pytest.mark.parametrize("text", ["3\n4\n", "3 \r\n4\t\r\n", '\ufeff"3"\n"4.0"', " 3.0\n\n4\nNULL\n"])
def test_item_ids_one_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "ids.txt").write_bytes(text.encode())
    assert read_item_ids(tmp_path / "ids.txt", "--predict.blocked") == ["3", "4"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("items.csv.gz", b"no gzip", "not readable"),
        ("items.csv.gz", gzip.compress(b"item_id,title\n3,A\n", mtime=0)[:-9], "not readable"),
        ("items.csv.zst", b"no zstd", "not readable"),
        ("items.jsonl", b"\xff{}", "not readable"),
        ("items.jsonl", b'{"name": 1}\n', "columns found: none$"),
        ("items.parquet.gz", b"", r"unsupported extension '.gz'; supported: .csv, .tsv, .jsonl"),
        ("movies.dat", b"3\n", None),
    ],
)
def test_files_of_titles_that_do_not_do(tmp_path: Path, name: str, data: bytes, message: str | None) -> None:
    (tmp_path / name).write_bytes(data)
    if message is None:
        assert read_titles(tmp_path / name).rows() == [("3", None)]
        return
    with pytest.raises(InputError, match=message):
        read_titles(tmp_path / name)


def test_bad_titles_are_one_clear_line(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", CSV)
    with pytest.raises(InputError, match="no such file"):
        find(log, tmp_path / "none.csv")
    with pytest.raises(InputError, match="columns found: item_id, name"):
        read_titles(write(tmp_path / "items.csv", "item_id,name\n1,A\n"))
    with pytest.raises(InputError, match=r"unsupported extension '.xml'"):
        read_titles(write(tmp_path / "items.xml", "x"))

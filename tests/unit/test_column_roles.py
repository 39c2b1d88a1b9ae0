"""pipelines.ingest.source.column_roles: columns that are missing, mapped, or in the file's path."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mgray.errors import InputError
from tests.log_layouts import layout_of, read, write
from tests.log_rows import WHOLE, Rows


def test_a_log_without_times_has_time_0(tmp_path: Path) -> None:
    wanted = [("a", "x", 0.0, None, None), ("b", "y", 0.0, None, None)]
    for name, data in (
        ("log.csv", "user_id,item_id\na,x\nb,y\n"),
        ("log.inter", "user_id:token\titem_id:token\na\tx\nb\ty\n"),
        ("log.jsonl", '{"user_id": "a", "item_id": "x"}\n{"user_id": "b", "item_id": "y"}\n'),
    ):
        assert read(write(tmp_path / name, data), timestamp=None) == Rows(wanted, [])
    pl.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"]}).write_parquet(tmp_path / "log.parquet")
    assert read(tmp_path / "log.parquet", timestamp=None) == Rows(wanted, [])
    bad = write(tmp_path / "bad.csv", "user_id,item_id\na,x\n,y\n")
    assert read(bad, timestamp=None) == Rows(wanted[:1], [(3, "user_id is empty", ",y")])
    pairs = write(tmp_path / "pairs.csv", "a,x\nb,y\n")
    assert read(pairs, timestamp=None, header=("user_id", "item_id")) == Rows(wanted, [])


def test_a_log_without_times_is_told_of_the_option(tmp_path: Path) -> None:
    for name, data in (
        ("log.csv", "user_id,item_id\na,x\n"),
        ("log.inter", "user_id:token\titem_id:token\na\tx\n"),
        ("log.jsonl", '{"user_id": "a", "item_id": "x"}\n'),
    ):
        with pytest.raises(InputError, match=r"no column 'timestamp'.*; .* --data\.columns\.timestamp none"):
            layout_of(write(tmp_path / name, data))


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_hive_partitions_are_columns(tmp_path: Path, form: str) -> None:
    frame = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"]})
    folder = tmp_path / "dt=2019-10-01" / "kind=a%20view%2F1" / "stars=4" / "score=__HIVE_DEFAULT_PARTITION__"
    columns: dict[str, Any] = {"timestamp": "dt", "event_type": "kind", "rating": "stars", "features": ("score",)}
    folder.mkdir(parents=True)
    path = folder / f"part-0.{form}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[form](path)
    wanted = [("a", "x", 1569888000.0, 4.0, "a view/1", None), ("b", "y", 1569888000.0, 4.0, "a view/1", None)]
    for range_bytes in (1, WHOLE):
        assert read(path, range_bytes, **columns) == Rows(wanted, [])
    with pytest.raises(InputError, match="no column 'timestamp'"):
        layout_of(path)
    assert "event_type" not in (layout_of(path, timestamp="dt")[1].partitions or {}), "only what is named"
    users = tmp_path / "user_id=7" / "timestamp=1" / f"part.{form}"
    users.parent.mkdir(parents=True)
    own = frame.select("item_id")
    {"csv": own.write_csv, "jsonl": own.write_ndjson, "parquet": own.write_parquet}[form](users)
    assert read(users) == Rows([("7", "x", 1.0, None, None), ("7", "y", 1.0, None, None)], [])
    inside = tmp_path / "item_id=z" / f"part.{form}"
    inside.parent.mkdir()
    frame = frame.with_columns(pl.lit(1).alias("timestamp"))
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[form](inside)
    assert [row[1] for row in read(inside).good] == ["x", "y"], "the file's own column comes first"


def test_a_null_partition_is_an_empty_id(tmp_path: Path) -> None:
    path = write(tmp_path / "user_id=__HIVE_DEFAULT_PARTITION__" / "part.csv", "item_id,timestamp\nx,1\n")
    assert read(path) == Rows([], [(2, "user_id is empty", "x,1")])

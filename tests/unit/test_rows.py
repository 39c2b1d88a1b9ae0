"""pipelines.ingest.source.rows: text split into rows and fields, with line numbers."""

import json
from pathlib import Path

import pytest

from mgray.config import ColumnsConfig
from tests.log_sources import CSV, rows, write


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.csv", CSV),
        ("log.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("log.csv", '"user_id","item_id","timestamp"\n"a","x","1"\nb,"y",2'),
        ("log.csv.gz", CSV),
        ("log.tsv", CSV.replace(",", "\t")),
        ("log.inter", "user_id:token\titem_id:token\ttimestamp:float\na\tx\t1\nb\ty\t2\n"),
        ("log.jsonl", '{"user_id":"a","item_id":"x","timestamp":1}\n\n{"timestamp":2,"item_id":"y","user_id":"b"}\n'),
        ("log.ndjson.gz", '{"user_id":"a","item_id":"x","timestamp":"1"}\n{"timestamp":2,"item_id":"y","user_id":"b"}'),
        ("u.data", "a\tx\t5\t1\nb\ty\t4\t2\n"),
        ("ratings.dat", "a::x::5::1\nb::y::4::2\n"),
        ("ratings.csv", "userId,movieId,rating,timestamp\na,x,5,1\nb,y,4,2\n"),
        ("log.csv.zst", CSV),
        ("log.tsv.zstd", CSV.replace(",", "\t")),
        ("LOG.JSONL.ZST", '{"user_id":"a","item_id":"x","timestamp":1}\n{"timestamp":2,"item_id":"y","user_id":"b"}\n'),
    ],
)
def test_each_text_format_gives_the_same_rows(tmp_path: Path, name: str, text: str) -> None:
    found = rows(write(tmp_path / name, text))
    assert found.select("user_id", "item_id", "timestamp").rows() == [("a", "x", "1"), ("b", "y", "2")]
    assert found["problem"].null_count() == 2


def test_json_ids_are_text_and_bad_rows_are_told(tmp_path: Path) -> None:
    lines = [
        '{"user_id": 12, "item_id": 7.0, "timestamp": 1}',
        '{"user_id": "a\\"é", "item_id": "07", "timestamp": "2020-01-01"}',
        '{"user_id": "a", "item',
        "[1, 2]",
        '{"user_id": null, "item_id": "x", "timestamp": 1}',
        '{"user_id": 1e30, "item_id": "x", "timestamp": 1}',
    ]
    found = rows(write(tmp_path / "log.jsonl", "\n".join(lines)))
    assert found["user_id"].to_list()[:5] == ["12", 'a"é', None, None, None]
    assert found["item_id"].to_list()[:2] == ["7", "07"]
    assert found["problem"].to_list() == [
        None,
        None,
        "the row is not a JSON object",
        "the row is not a JSON object",
        None,
        "an id is a number too large to be exact: write it as text",
    ]


def test_quotes_hold_separators_newlines_and_quotes(tmp_path: Path) -> None:
    text = 'user_id,item_id,timestamp\na,"x,1",1\n"b\nb","say ""y""",2\n\nc,z"z,3\nd,w,4\n'
    found = rows(write(tmp_path / "log.csv", text.replace('z"z', '"z"z')))
    assert found["line"].to_list() == [2, 3, 6, 7]
    assert found["user_id"].to_list()[:2] == ["a", "b\nb"]
    assert found["item_id"].to_list()[:2] == ["x,1", 'say "y"']
    assert found["problem"].to_list() == [None, None, "its quotes do not match", None]


def test_wrong_field_counts_and_bytes_are_told(tmp_path: Path) -> None:
    text = b"user_id,item_id,timestamp\na,x\na,x,1,2\n\xff,x,1\n\xef\xbf\xbd,x,1\n"
    found = rows(write(tmp_path / "log.csv", text))
    assert found["problem"].to_list() == [
        "2 fields where the header names 3",
        "4 fields where the header names 3",
        "the row is not valid UTF-8",
        None,
    ]
    assert found["line"].to_list() == [2, 3, 4, 5]


def test_a_row_of_tabs_is_a_row(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "log.tsv", "user_id\titem_id\ttimestamp\n\t\t\n"))["user_id"].to_list() == [""]


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "who,what,when,stars\na,x,1,5\n")
    columns = ColumnsConfig(user_id="who", item_id="what", timestamp="when", rating="stars")
    assert rows(path, columns).select("user_id", "item_id", "timestamp", "rating").row(0) == (
        "a",
        "x",
        "1",
        "5",
    )


def test_json_keys_may_come_late(tmp_path: Path) -> None:
    lines = [
        {"user_id": "a", "item_id": "x", "timestamp": 1},
        {"user_id": "a", "item_id": "x", "timestamp": 2, "rating": 3},
    ]
    path = write(tmp_path / "log.jsonl", "\n".join(json.dumps(row) for row in lines))
    assert rows(path)["rating"].to_list() == [None, "3"]

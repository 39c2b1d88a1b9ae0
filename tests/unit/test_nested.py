"""pipelines.ingest.source.nested: histories as lists, lists of structs and lines of text; nested columns."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from mgray.errors import InputError
from tests.log_layouts import layout_of, read, write, write_parquet
from tests.log_rows import WHOLE, Rows

OTTO = [
    {"session": 11, "events": [{"aid": 5, "ts": 1000, "type": "clicks"}, {"aid": 7, "ts": 2000, "type": "carts"}]},
    {"session": 12, "events": []},
    {"session": 13, "events": [{"aid": 5, "ts": 3000, "type": "orders"}]},
]
OTTO_COLUMNS: dict[str, Any] = {
    "user_id": "session",
    "item_id": "events.aid",
    "timestamp": "events.ts",
    "event_type": "events.type",
    "timestamp_unit": "ms",
}
OTTO_ROWS = [("11", "5", 1.0, None, "clicks"), ("11", "7", 2.0, None, "carts"), ("13", "5", 3.0, None, "orders")]


def test_otto_lists_of_structs(tmp_path: Path) -> None:
    jsonl = write(tmp_path / "otto.jsonl", "".join(json.dumps(row) + "\n" for row in OTTO))
    pl.DataFrame(OTTO).write_parquet(tmp_path / "otto.parquet", row_group_size=2)
    for path in (jsonl, tmp_path / "otto.parquet"):
        for range_bytes in (1, WHOLE):
            assert read(path, range_bytes, **OTTO_COLUMNS) == Rows(OTTO_ROWS, [])


def test_numbers_of_json_are_ids_alike_in_rows_and_in_lists(tmp_path: Path) -> None:
    numbers, ids = "[12.50, 1e3, 1e-7, 12.0, 7]", ["12.5", "1000", "0.0000001", "12", "7"]
    lists = write(tmp_path / "lists.jsonl", f'{{"user_id": "u", "item_id": {numbers}}}\n')
    rows = "".join(f'{{"user_id": "u", "item_id": {one}}}\n' for one in numbers.strip("[]").split(", "))
    for path in (lists, write(tmp_path / "rows.jsonl", rows)):
        assert [row[1] for row in read(path, timestamp=None).good] == ids, path.name
    bomb = write(tmp_path / "bomb.jsonl", '{"user_id": "u", "item_id": ["a"], "rating": [1e999999999]}\n')
    assert not read(bomb, timestamp=None).good


def test_lists_beside_lists(tmp_path: Path) -> None:
    """Transformers4Rec: a row a session; a row whose lists do not go together is set aside, with its number."""
    rows = {
        "session_id": [1, 2, 3, None, 4],
        "item_id-list": [[5, 6], [7], [8, 9], [1], None],
        "et-list": [[10.0, 20.5], [30.0, 31.0], [40.0, 50.0], [1.0], [1.0]],
        "price-list": [[0.5, None], [1.0], [2.0, 3.0], [1.0], [1.0]],
        "country": ["a", "b", "c", "d", "e"],
    }
    columns: dict[str, Any] = {
        "user_id": "session_id",
        "item_id": "item_id-list",
        "timestamp": "et-list",
        "event_type": "country",
        "features": ("price-list",),
    }
    wanted = [("1", "5", 10.0, None, "a", 0.5), ("1", "6", 20.5, None, "a", None)]
    wanted += [("3", "8", 40.0, None, "c", 2.0), ("3", "9", 50.0, None, "c", 3.0)]
    reasons = [
        (2, "timestamp has 2 values where item_id has 1"),
        (4, "user_id is empty"),
        (5, "timestamp has 1 values where item_id has 0"),
    ]
    for kind in (pa.list_(pa.int64()), pa.large_list(pa.int32())):
        table = {name: pa.array(values) for name, values in rows.items()}
        table["item_id-list"] = table["item_id-list"].cast(kind)
        path = write_parquet(tmp_path / "log.parquet", **table)
        good, bad = read(path, **columns)
        assert good == wanted
        assert [(line, reason) for line, reason, _ in bad] == reasons
        assert '"item_id-list": [7]' in bad[0][2]
    lines = [json.dumps(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)]
    jsonl = write(tmp_path / "log.jsonl", "\n".join([*lines[:2], "", *lines[2:4], "{broken", "[1]", lines[4]]))
    for range_bytes in (1, WHOLE):
        good, bad = read(jsonl, range_bytes, **columns)
        assert good == wanted
        assert [(line, reason) for line, reason, _ in bad] == [
            (2, reasons[0][1]),
            (5, "user_id is empty"),
            (6, "the row is not JSON"),
            (7, "the row is not a JSON object"),
            (8, "item_id is empty"),
        ]
        assert bad[0][2] == lines[1]
    untimed = columns | {"timestamp": None, "features": ()}
    assert [row[:3] for row in read(tmp_path / "log.parquet", **untimed).good] == [
        ("1", "5", 0.0), ("1", "6", 0.0), ("2", "7", 0.0), ("3", "8", 0.0), ("3", "9", 0.0)
    ]  # fmt: skip


@pytest.mark.parametrize(("separator", "shown"), [(" ", "blanks"), ("\t", "blanks"), (",", "','"), (";", "';'")])
def test_text_of_histories(tmp_path: Path, separator: str, shown: str) -> None:
    """SASRec, Gowalla: user item item item ..., of any length."""
    lines = [["0", "5", "7", "5"], ["1", "9"], ["2"], ["3", *map(str, range(2000))]]
    path = write(tmp_path / "gowalla.txt", "\n".join(separator.join(line) for line in lines) + "\n\n")
    wanted = [(line[0], item, 0.0, None, None) for line in lines for item in line[1:]]
    bad = [(3, "the row has a user and no items", "2")]
    for range_bytes in (1, WHOLE):
        assert read(path, range_bytes, rows="histories") == Rows(wanted, bad)
    layout = layout_of(path, rows="histories")[1]
    assert not layout.has_times
    assert layout.notes == (f"read as separated by {shown} (--data.columns.separator would say otherwise)",)
    assert read(path, rows="histories", separator=separator) == Rows(wanted, bad)


def test_nested_columns_have_dotted_names(tmp_path: Path) -> None:
    rows = [
        {"who": {"id": "a"}, "item": {"sku": {"no": 5}}, "at": 1, "x.y": 2.5},
        {"who": {"id": "b"}, "item": {"sku": {"no": 6}}, "at": 2, "x.y": 3.5},
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    write(tmp_path / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for name in ("log.parquet", "log.jsonl"):
        found = read(tmp_path / name, user_id="who.id", item_id="item.sku.no", timestamp="at", rating="x.y")
        assert found == Rows([("a", "5", 1.0, 2.5, None), ("b", "6", 2.0, 3.5, None)], [])
        with pytest.raises(InputError, match=r"no column 'who\.name'; columns found: .*who\.id"):
            layout_of(tmp_path / name, user_id="who.name", item_id="item.sku.no", timestamp="at")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rows": "histories"}, "column 'item_id' holds no lists; leave --data.columns.rows out"),
        ({"item_id": "many", "rows": "events"}, "column 'many' holds lists; leave --data.columns.rows out"),
        ({"user_id": "many", "item_id": "many2"}, "column 'many' holds lists, and a row is of one user"),
        ({"timestamp": "many"}, "column 'many' holds lists, and that of the items does not"),
    ],
)
def test_lists_that_do_not_go_together_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    rows = {"user_id": ["a"], "item_id": ["x"], "timestamp": [1], "many": [["1"]], "many2": [["1"]]}
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    pl.DataFrame(rows).write_ndjson(tmp_path / "log.jsonl")
    for name in ("log.parquet", "log.jsonl"):
        with pytest.raises(InputError) as caught:
            layout_of(tmp_path / name, **columns)
        assert message in str(caught.value)


def test_text_of_histories_has_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "log.txt", "0 1 2\n")
    for options in ({"rating": "r"}, {"event_type": "e"}, {"features": ("f",)}, {"header": ("user_id", "item_id")}):
        with pytest.raises(InputError, match="a line of text of histories is a user and items, and nothing else"):
            layout_of(path, rows="histories", **options)
    with pytest.raises(InputError, match=r"what separates a user and the items .* give --data\.columns\.separator"):
        layout_of(write(tmp_path / "two.txt", "0 1,2\n"), rows="histories")

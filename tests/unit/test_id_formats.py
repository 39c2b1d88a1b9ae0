"""mgray.ingest.spelling, through the readers: a number is one id, whatever the log's format."""

from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.config import ColumnsConfig
from pipelines.ingest.source.blocks import BOTH_WAYS, RESPELLED
from pipelines.ingest.source.layouts import Layout, read_layout
from pipelines.ingest.source.log_files import Format
from pipelines.ingest.source.parquet_rows import read_parquet_batch
from pipelines.ingest.source.ranges import inspect_file
from pipelines.ingest.source.readers import read_range
from tests.log_rows import HEAD, PLAIN, WHOLE, as_rows, log_at, read


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

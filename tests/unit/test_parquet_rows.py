"""pipelines.ingest.source.parquet_rows: ids, times and bad rows of Parquet; damaged footers."""

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgray.config import ColumnsConfig
from mgray.errors import InputError
from pipelines.ingest.source import parquet_rows
from pipelines.ingest.source.layouts import Layout, read_layout
from pipelines.ingest.source.log_files import READ_ERRORS, LogFile
from pipelines.ingest.tasks import units
from pipelines.ingest.tasks.units import inspect_files
from tests.log_rows import PLAIN, WHOLE, Rows, read


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

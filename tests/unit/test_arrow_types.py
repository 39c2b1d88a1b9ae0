"""pipelines.ingest.source.arrow_types: a Parquet column of any type is read, or refused in one line."""

from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from mgray.errors import InputError
from tests.log_layouts import layout_of, read, write_parquet

RARE = {
    "uuid": (pa.array([UUID(int=1).bytes, UUID(int=2).bytes], pa.uuid()), [str(UUID(int=1)), str(UUID(int=2))]),
    "decimal256": (pa.array([Decimal("1.50"), Decimal("2.25")], pa.decimal256(50, 2)), None),
    "decimal64": (pa.array([Decimal("1.50"), Decimal("2.25")], pa.decimal64(9, 2)), None),
    "binary": (pa.array([b"1", b"2"]), ["1", "2"]),
    "fixed": (pa.array([b"1", b"2"], pa.binary(1)), ["1", "2"]),
    "large_binary": (pa.array([b"1", b"2"], pa.large_binary()), ["1", "2"]),
    "dictionary of binary": (pa.array([b"1", b"2"]).dictionary_encode(), ["1", "2"]),
    "string_view": (pa.array(["1", "2"], pa.string_view()), ["1", "2"]),
    "float16": (pa.array([1.0, 2.0], pa.float16()), ["1", "2"]),
    "bool": (pa.array([True, False]), ["true", "false"]),
    "date": (pa.array([1, 2], pa.date32()), ["1970-01-02", "1970-01-03"]),
    "null": (pa.nulls(2), []),
    "duration": (pa.array([1, 2], pa.duration("s")), None),
    "time": (pa.array([1, 2], pa.time32("s")), None),
    "map": (pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())), None),
    "struct": (pa.array([{"a": 1}, {"a": 2}]), None),
    "list": (pa.array([[1], [2]]), None),
    "list of lists": (pa.array([[[1]], [[2]]]), None),
    "list of decimal256": (pa.array([[Decimal(1)], [Decimal(2)]], pa.list_(pa.decimal256(50, 2))), None),
    "list of maps": (pa.array([[[("a", 1)]], []], pa.list_(pa.map_(pa.string(), pa.int64()))), None),
}


@pytest.mark.parametrize("role", ["user_id", "item_id", "timestamp", "rating", "event_type", "features"])
@pytest.mark.parametrize("kind", list(RARE))
def test_a_column_of_any_type_in_any_role_is_read_or_told_in_one_line(tmp_path: Path, kind: str, role: str) -> None:
    values, ids = RARE[kind]
    good = {"user_id": pa.array(["a", "b"]), "item_id": pa.array([[1], [2]] if "list" in kind else ["x", "y"])}
    path = write_parquet(tmp_path / "log.parquet", **good | {"timestamp": pa.array([1, 2]), "odd": values})
    columns: dict[str, Any] = {role: ("odd",) if role == "features" else "odd"}
    if kind in ("duration", "time", "map", "struct", "list of lists", "list of maps"):
        with pytest.raises(InputError, match=r"column 'odd' is of type .*, of which no .* can be read; name") as caught:
            layout_of(path, **columns)
        assert "\n" not in str(caught.value)
        return
    if "list" in kind and role == "user_id":
        with pytest.raises(InputError, match="column 'odd' holds lists, and a row is of one user"):
            layout_of(path, **columns)
        return
    found = read(path, **columns)
    assert len(found.good) + len(found.bad) == 2
    if role in ("user_id", "item_id") and ids is not None:
        assert [row[0 if role == "user_id" else 1] for row in found.good] == ids

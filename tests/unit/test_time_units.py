"""mgray.ingest.parse: the unit of timestamps that are numbers."""

import gzip
from pathlib import Path

import pytest

from mgray.config import ColumnsConfig
from mgray.errors import InputError
from pipelines.ingest.source.layouts import read_layout
from tests.log_rows import HEAD, log_at, read, read_csv


def test_times_in_a_finer_unit_than_was_said_end_in_one_line(tmp_path: Path) -> None:
    def message(scale: int, unit: str, far: int = 150, near: int = 100) -> str:
        rows = [b"u,i,%d\n" % (1_700_000_000 * scale)] * far + [b"u,i,1\n"] * near
        data = HEAD + b"".join(rows)
        found = set()
        for name, stored, compression in (("log.csv", data, None), ("log.csv.gz", gzip.compress(data, 1), "gzip")):
            file = log_at(tmp_path / name, "csv", stored, compression)  # type: ignore[arg-type]
            with pytest.raises(InputError) as error:
                read(file, read_layout(file, ColumnsConfig()), unit=unit)
            found.add(str(error.value).removeprefix(f"{file.path}: "))
        (one,) = found
        return one

    assert message(1000, "s") == (
        "150 of 250 timestamps from line 2 on look like milliseconds, and data.columns.timestamp_unit is s: "
        "set it to ms"
    )
    assert message(10**6, "ms").endswith("look like microseconds, and data.columns.timestamp_unit is ms: set it to us")
    assert message(10**9, "us").endswith("data.columns.timestamp_unit is us: divide them by 1000 and set it to us")


@pytest.mark.parametrize(
    ("far", "near", "time"),
    [(125, 125, b"1700000000000"), (99, 0, b"1700000000000"), (150, 0, b"1e308"), (150, 0, b"-1e300")],
)
def test_few_odd_times_and_absurd_ones_are_rows_set_aside(tmp_path: Path, far: int, near: int, time: bytes) -> None:
    found = read_csv(tmp_path / "log.csv", HEAD + b"u,i,1\n" * near + b"u,i,%b\n" % time * far)
    assert (len(found.good), len(found.bad)) == (near, far)
    wanted = "looks like ms: see data.columns.timestamp_unit" if b"e" not in time else "further from 1970 than the year"
    assert all(wanted in reason for _, reason, _ in found.bad)


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
def test_units_are_of_numbers_alone(tmp_path: Path, unit: str, scale: int) -> None:
    for rows in (b"a,x,1500\n", b"a,x,1500\nb,y,1970-01-02\n", b"b,y,1970-01-02\na,x,1500\n"):
        file = log_at(tmp_path / "log.csv", "csv", b"user_id,item_id,timestamp\n" + rows)
        good, bad = read(file, read_layout(file, ColumnsConfig()), unit=unit)
        assert not bad
        wanted = {"a": 1500 / scale, "b": 86400.0}
        assert {user: time for user, _, time, *_ in good}.items() <= wanted.items()

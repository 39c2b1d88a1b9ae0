"""mgray.ingest.parse: timestamps with a zone, of a named format, and dates written as numbers."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from mgray.errors import InputError
from pipelines.ingest.source.ranges import inspect_file
from pipelines.ingest.source.readers import read_range
from tests.log_layouts import layout_of, read, write
from tests.log_rows import WHOLE


@pytest.mark.parametrize("zone", [" UTC", "UTC", " GMT", "Z", " Z", " utc", "+00:00", " +0000", " +0000 UTC"])
def test_times_with_a_zone(tmp_path: Path, zone: str) -> None:
    """REES46: 2019-10-01 00:00:00 UTC."""
    text = f"user_id,item_id,timestamp\na,x,2019-10-01 00:00:00{zone}\nb,y,2019-10-01 00:00:01.5{zone}\n"
    good, bad = read(write(tmp_path / "log.csv", text))
    assert ([row[2] for row in good], bad) == ([1569888000.0, 1569888001.5], [])


OCTOBER = 1569888000.0  # 2019-10-01


@pytest.mark.parametrize(
    ("form", "texts", "wanted"),
    [
        ("%Y%m%d", ["20191001", "20191002"], [OCTOBER, OCTOBER + 86_400]),
        ("%Y%m%d%H%M%S", ["20191001000000", "20191001010203"], [OCTOBER, OCTOBER + 3723]),
        ("%d/%m/%Y %H:%M", ["01/10/2019 00:00", "1/10/2019 1:02"], [OCTOBER, OCTOBER + 3720]),
        ("%Y/%m/%d %H:%M:%S.%f", ["2019/10/01 00:00:00.5", "2019/10/01 00:00:01.25"], [OCTOBER + 0.5, OCTOBER + 1.25]),
        ("%Y-%m-%d %H:%M:%S %z", ["2019-10-01 02:00:00 +0200", "2019-09-30 23:00:01 -0100"], [OCTOBER, OCTOBER + 1]),
    ],
)
def test_a_named_format_of_times(tmp_path: Path, form: str, texts: list[str], wanted: list[float]) -> None:
    rows = list(zip("ab", "xy", texts, strict=True))
    csv = write(tmp_path / "log.csv", "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    lines = "".join(f'{{"user_id": "{u}", "item_id": "{i}", "timestamp": "{t}"}}\n' for u, i, t in rows)
    jsonl = write(tmp_path / "log.jsonl", lines)
    pl.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": texts}).write_parquet(
        tmp_path / "l.parquet"
    )
    for path in (csv, jsonl, tmp_path / "l.parquet"):
        good, bad = read(path, timestamp_format=form)
        assert ([row[2] for row in good], bad) == (wanted, []), path.name
    wrong = write(tmp_path / "wrong.csv", f"user_id,item_id,timestamp\na,x,{texts[0]}\nb,y,soon\nb,y,\n")
    good, bad = read(wrong, timestamp_format=form)
    assert [row[2] for row in good] == wanted[:1]
    assert [(line, reason) for line, reason, _ in bad] == [
        (3, f"timestamp 'soon' is not of the format {form}"),
        (4, "timestamp is empty"),
    ]


DATES = {"%Y%m%d": [20191001, 20191002, 20200229], "%Y%m%d%H%M%S": [20191001000000, 20191001235959, 20200229010203]}


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
@pytest.mark.parametrize("form", list(DATES))
def test_dates_as_numbers_are_read_by_their_format_and_never_by_guess(tmp_path: Path, form: str, unit: str) -> None:
    wanted = [1569888000.0, 1569888000.0 + (86_400 if form == "%Y%m%d" else 86_399)]
    frame = pl.DataFrame({"user_id": ["a", "b", "c"], "item_id": ["x", "y", "z"], "timestamp": DATES[form]})
    texts = {
        "log.csv": frame.write_csv().encode(),
        "log.csv.gz": gzip.compress(frame.write_csv().encode()),
        "log.jsonl": frame.write_ndjson().encode(),
        "text.jsonl": frame.cast(pl.String).write_ndjson().encode(),
    }
    for name, data in texts.items():
        write(tmp_path / name, data)
    frame.write_parquet(tmp_path / "ints.parquet")
    frame.with_columns(pl.col("timestamp").cast(pl.String)).write_parquet(tmp_path / "text.parquet")
    frame.with_columns(pl.col("timestamp").cast(pl.Float64)).write_parquet(tmp_path / "floats.parquet")
    for path in sorted(tmp_path.iterdir()):
        good, bad = read(path, timestamp_format=form)
        assert ([row[2] for row in good[:2]], bad) == (wanted, []), path.name
        given = {} if unit == "s" else {"timestamp_unit": unit}
        file, layout = layout_of(path, **given)
        layout = layout._replace(is_unit_given=False)
        with pytest.raises(InputError) as caught:
            list(read_range(file, layout, inspect_file(file, layout, WHOLE).ranges[0], unit, 1 << 20))
        assert f"give --data.columns.timestamp_format {form}," in str(caught.value)
        assert str(caught.value).startswith(f"{path}: its timestamps look like dates written as numbers")
        assert "\n" not in str(caught.value)


def test_seconds_that_are_no_dates_or_are_said_to_be_seconds_are_seconds(tmp_path: Path) -> None:
    for times in (["20191001", "20191032"], ["20191001", "1700000000"], ["19891001", "20191001"], ["20191001.5"] * 2):
        text = "user_id,item_id,timestamp\n" + "".join(f"a,x,{time}\n" for time in times)
        assert [row[2] for row in read(write(tmp_path / "log.csv", text)).good] == [float(time) for time in times]
    text = "user_id,item_id,timestamp\na,x,20191001\n"
    assert read(write(tmp_path / "log.csv", text), timestamp_unit="s").good[0][2] == 20191001.0


def test_a_format_reads_what_it_says_or_sets_it_aside(tmp_path: Path) -> None:
    """Not a year of two digits as one of the first century; a number without its zero in front has all its digits."""
    text = "user_id,item_id,timestamp\na,x,01/02/2019\nb,y,01/02/19\n"
    good, bad = read(write(tmp_path / "log.csv", text), timestamp_format="%d/%m/%Y")
    assert [row[2] for row in good] == [1548979200.0]
    assert [(line, reason) for line, reason, _ in bad] == [(3, "timestamp '01/02/19' is not of the format %d/%m/%Y")]
    frame = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": [1012019, 11012019]})
    frame.write_parquet(tmp_path / "ints.parquet")
    for path in (write(tmp_path / "ints.csv", frame.write_csv()), tmp_path / "ints.parquet"):
        good, bad = read(path, timestamp_format="%d%m%Y")
        assert ([row[2] for row in good], bad) == ([1546300800.0, 1547164800.0], []), path.name


def test_a_value_that_stands_for_no_date_hides_no_dates(tmp_path: Path) -> None:
    for blank in ("0", "-1"):
        text = f"user_id,item_id,timestamp\na,x,{blank}\nb,y,20191001\n"
        with pytest.raises(InputError, match=r"give --data\.columns\.timestamp_format %Y%m%d,"):
            read(write(tmp_path / "log.csv", text))


@pytest.mark.parametrize("form", ["%Y-%m-%d %Z"])
def test_a_zone_by_name_is_refused(form: str) -> None:
    from mgray.ingest.parse import check_time_format

    with pytest.raises(InputError, match=r"has %Z, the name of a zone, which tells no offset; use %z"):
        check_time_format(form)


@pytest.mark.parametrize("form", ["%Q", "%H:%M", "soon", "%", "%d/%m/%Y %H"])
def test_a_format_that_tells_no_day_is_refused(form: str) -> None:
    from mgray.ingest.parse import check_time_format

    with pytest.raises(InputError, match=r"data\.columns\.timestamp_format: .*; give it as strptime has it") as caught:
        check_time_format(form)
    assert "\n" not in str(caught.value)

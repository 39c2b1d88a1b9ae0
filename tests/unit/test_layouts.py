"""pipelines.ingest.source.layouts and pipelines.ingest.source.readers: logs in the shapes that people have them in, row
by row.
"""

import bz2
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mgray.config import ColumnsConfig, DataConfig
from mgray.errors import InputError
from pipelines.ingest.source.careful_text import read_careful
from pipelines.ingest.source.fast_text import read_fast
from pipelines.ingest.source.layouts import Layout, read_layout
from pipelines.ingest.source.log_files import LogFile
from pipelines.ingest.source.ranges import inspect_file
from pipelines.ingest.source.readers import read_range
from pipelines.ingest.source.resolve import resolve
from tests.unit.test_readers import Rows, as_rows
from tests.unit.test_sources import find, only

WHOLE = 1 << 40


def layout_of(path: Path, **columns: Any) -> tuple[LogFile, Layout]:
    file = only(path)
    return file, read_layout(file, ColumnsConfig(**columns))


def read(path: Path, range_bytes: int = WHOLE, **columns: Any) -> Rows:
    config = ColumnsConfig(**columns)
    file = only(path)
    layout = read_layout(file, config)
    parts = inspect_file(file, layout, range_bytes).ranges
    return as_rows(
        [block for part in parts for block in read_range(file, layout, part, config.timestamp_unit, 1 << 20)]
    )


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


# ---------------------------------------------------------------- without times


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


# ---------------------------------------------------------------- times


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


# ---------------------------------------------------------------- separators

RATED = [("a", "x", 1.0, 5.0, None), ("b", "y z", 2.0, 4.5, None)]
BOOKS = '"User-ID";"ISBN";"Book-Rating"\r\n"276725";"034545104X";"0"\r\n"276726";"01;55""061224";"5"\r\n'


@pytest.mark.parametrize(
    ("separator", "shown"), [(";", "';'"), ("|", "'|'"), ("\t", "a tab"), (",", "','"), ("::", "'::'")]
)
@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.txt", "log.txt.gz", "log.data", "log.dat"])
def test_a_separator_is_guessed_by_the_columns_and_told(tmp_path: Path, name: str, separator: str, shown: str) -> None:
    rows = [("user_id", "item_id", "timestamp", "rating"), ("a", "x", "1", "5"), ("b", "y z", "2", "4.5")]
    data = "".join(separator.join(row) + "\n" for row in rows).encode()
    path = write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
    if separator == "::" and name in ("log.csv", "log.dat"):
        if name == "log.csv":  # a field of CSV is quoted, which two characters do not mark
            with pytest.raises(InputError, match="no column 'user_id'"):
                layout_of(path)
        return  # a .dat file of :: has no header: MovieLens'
    file, layout = layout_of(path)
    own = {"log.csv": ",", "log.tsv": "\t"}.get(name)
    assert layout.notes == (
        () if separator == own else (f"read as separated by {shown} (--data.columns.separator would say otherwise)",)
    )
    assert layout.dialect(file)[0] == separator
    for range_bytes in (1, WHOLE):
        assert read(path, range_bytes) == Rows(RATED, [])
    given = {"\t": "\\t"}.get(separator, separator)
    assert read(path, separator=given) == Rows(RATED, [])
    assert layout_of(path, separator=given)[1].notes == ()


def test_book_crossing(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"user_id": "User-ID", "item_id": "ISBN", "rating": "Book-Rating", "timestamp": None}
    path = write(tmp_path / "BX-Book-Ratings.csv", BOOKS)
    wanted = [("276725", "034545104X", 0.0, 0.0, None), ("276726", '01;55"061224', 0.0, 5.0, None)]
    for range_bytes in (1, WHOLE):
        assert read(path, range_bytes, **columns) == Rows(wanted, [])
    file, layout = layout_of(path, **columns)
    assert layout.notes == ("read as separated by ';' (--data.columns.separator would say otherwise)",)
    body = path.read_bytes()[layout.data_start :]
    assert read_fast(body, file, layout, "s") is not None


def test_diginetica(tmp_path: Path) -> None:
    text = "sessionId;userId;itemId;timeframe;eventdate\n1;NA;9654;311340;2016-05-09\n1;NA;33043;446395;2016-05-09\n"
    path = write(tmp_path / "train-item-views.csv", text)
    found = read(path, user_id="sessionId", item_id="itemId", timestamp="eventdate")
    day = 1462752000.0
    assert found == Rows([("1", "9654", day, None, None), ("1", "33043", day, None, None)], [])


def test_blanks_are_one_separator(tmp_path: Path) -> None:
    text = "user_id  item_id\ttimestamp\n a x  1 \r\nb   y\t2\n   \n\nc z\n"
    path = write(tmp_path / "log.txt", text)
    wanted = Rows(
        [("a", "x", 1.0, None, None), ("b", "y", 2.0, None, None)], [(6, "2 fields where the header names 3", "c z")]
    )
    for range_bytes in (1, WHOLE):
        assert read(path, range_bytes, separator=" ") == wanted
    even = write(tmp_path / "even.txt", text.removesuffix("c z\n"))
    assert read(even) == Rows(wanted.good, [])
    assert layout_of(even)[1].notes[0].startswith("read as separated by blanks")


def test_rows_without_a_header_are_told_apart_by_their_number_of_fields(tmp_path: Path) -> None:
    header = ("user_id", "item_id", "rating", "timestamp")
    path = write(tmp_path / "log.txt", "a|x|5|1\nb|y z|4.5|2\n")
    assert read(path, header=header) == Rows(RATED, [])
    path = write(tmp_path / "log.dat", "a\tx\t5\t1\nb\ty z\t4.5\t2\n")
    assert read(path, header=header) == Rows(RATED, [])
    path = write(tmp_path / "ratings.dat", "a::x::5::1\nb::y z::4.5::2\n")
    assert read(path) == Rows(RATED, [])
    assert layout_of(path)[1].notes == ()


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.csv", "user_id;item_id;timestamp\na;x;1\nb;y\n", {}, "its header is separated by ';', and its first rows"),
        (
            "a.csv",
            "user;item;time\na;x;1\n",
            {},
            "no column 'user_id'; columns found: user, item, time; name the log's",
        ),
        ("a.txt", "some words\nand more of them\n", {}, "what separates its columns is not clear from its first lines"),
        ("a.txt", "a\nb\n", {}, "give --data.columns.separator, and --data.columns.header where it has no header line"),
        (
            "a.txt",
            "user_id,item_id,timestamp\na,x,1\n",
            {"separator": ";"},
            "no column 'user_id'; columns found: user_id,",
        ),
        ("a.csv", "user_id\n1\n", {}, "or what separates them with --data.columns.separator"),
    ],
)
def test_what_is_not_clear_is_asked_for(
    tmp_path: Path, name: str, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        layout_of(write(tmp_path / name, text), **options)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_notes_and_settings_are_no_logs_beside_one(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", "user_id,item_id,timestamp\na,x,1\n")
    write(tmp_path / "notes.txt", "user_id,item_id,timestamp\na,x,1\n")
    write(tmp_path / "settings.json", "{}")
    assert [file.name for file in find(tmp_path).files] == ["log.csv"]
    (tmp_path / "log.csv").unlink()
    (tmp_path / "settings.json").unlink()
    assert [file.name for file in find(tmp_path).files] == ["notes.txt"]


IDS = [
    "u",
    "12.0",
    " u ",
    "é",
    "0x1",
    "",
    " ",
    "\t",
    "a b",
    "\u00a0",
    '"u"',
    '"a;b"',
    '"a""b"',
    'a"b',
    "x\\y",
    "a,b",
    "a;b",
]
NUMBERS = ["1", "-1.5", "1e3", " 7 ", "nan", "", "soon", "1970-01-02", "20191001", '"9"']


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([",", "\t", ";", "|", "::", " ", "##", "x"]),
    st.sampled_from(["csv", "tsv", "text", "dat"]),
    st.sampled_from([None, "latin-1", "cp1252", "utf-16", "shift_jis"]),
    st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(IDS), st.sampled_from(NUMBERS)), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 60),
)
def test_every_separator_and_encoding_gives_the_same_rows_by_both_paths_and_all_cuts(
    tmp_path_factory: pytest.TempPathFactory,
    separator: str,
    kind: Any,
    encoding: str | None,
    rows: list[tuple[str, str, str]],
    end: str,
    range_bytes: int,
) -> None:
    text = "".join(separator.join(row) + end for row in rows)
    if encoding == "shift_jis":
        text = text.replace("é", "語").replace("\u00a0", "ー")
    data = text.encode(encoding or "utf-8") if text else b""
    path = write(tmp_path_factory.mktemp("drawn", numbered=True) / "log", data)
    columns = ColumnsConfig(
        header=("user_id", "item_id", "timestamp"), separator=separator, encoding=encoding, timestamp_unit="s"
    )
    file = LogFile(str(path), "log", len(data), kind, None)
    if not data:
        return
    layout = read_layout(file, columns)
    plain = layout._replace(encoding=None)
    as_utf8 = LogFile(str(write(path.with_name("utf8"), text)), "utf8", len(text.encode()), kind, None)

    def rows_of(file: LogFile, layout: Layout, range_bytes: int = WHOLE, block_bytes: int = 1 << 20) -> Rows:
        parts = inspect_file(file, layout, range_bytes).ranges
        return as_rows([block for part in parts for block in read_range(file, layout, part, "s", block_bytes)])

    wanted = rows_of(as_utf8, plain)
    assert rows_of(file, layout) == wanted
    assert rows_of(file, layout, range_bytes) == wanted
    assert rows_of(as_utf8, plain, range_bytes) == wanted
    packed = LogFile(str(write(path.with_name("packed"), gzip.compress(data, 1))), "packed", 9, kind, "gzip")
    assert rows_of(packed, layout, WHOLE, range_bytes) == wanted
    careful = read_careful(text.encode(), file, plain, 1, "s")
    assert as_rows([careful]) == wanted
    fast = read_fast(text.encode(), file, plain, "s")
    if fast is not None:
        assert as_rows([fast]) == wanted


# ---------------------------------------------------------------- encodings


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-8-sig", "shift_jis", "iso2022_jp"]
)
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.txt.gz"])
def test_an_encoding_may_be_given(tmp_path: Path, name: str, encoding: str) -> None:
    letter = "語" if "jp" in encoding or "jis" in encoding else "é"
    text = f"user_id,it{letter}m,timestamp\nu{letter},x,1\nv,y{letter}{letter},2\n"
    if name == "log.jsonl":
        keys = ("user_id", f"it{letter}m", "timestamp")
        rows = [dict(zip(keys, line.split(","), strict=True)) for line in text.splitlines()[1:]]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    data = text.encode(encoding)
    path = write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
    wanted = Rows([(f"u{letter}", "x", 1.0, None, None), ("v", f"y{letter}{letter}", 2.0, None, None)], [])
    for range_bytes in (1, WHOLE):
        assert read(path, range_bytes, encoding=encoding, item_id=f"it{letter}m") == wanted
    if encoding == "utf-16":  # its byte order mark is certain
        assert read(path, item_id=f"it{letter}m") == wanted
        notes = layout_of(path, item_id=f"it{letter}m")[1].notes
        assert notes[0] == "read as utf-16, as its byte order mark says"


def test_bytes_that_the_encoding_has_no_letter_for_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", b"user_id,item_id,timestamp\na\x81,x,1\nb\xe9,y,2\n")
    found = read(path, encoding="cp1252")
    assert found.good == [("bé", "y", 2.0, None, None)]
    assert [(line, reason) for line, reason, _ in found.bad] == [(2, "the row is not valid cp1252")]
    utf16 = write(tmp_path / "cut.csv", "user_id,item_id,timestamp\na,x,1\n".encode("utf-16")[:-1])
    with pytest.raises(InputError, match="not readable as csv"):
        layout_of(utf16)
    no_utf8 = write(tmp_path / "head.csv", "user_id,item_id,timestamp,é\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"name its encoding, such as --data\.columns\.encoding latin-1"):
        layout_of(no_utf8)


@pytest.mark.parametrize("encoding", ["latin-99", "base64", "", "rot13", "a\0b"])
def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(ValidationError, match=r"unknown encoding .*; give a name that Python knows"):
        ColumnsConfig(encoding=encoding)


# ---------------------------------------------------------------- histories, nested columns, rare types


def write_parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


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


@pytest.mark.parametrize("separator", ["→", "¦"])
def test_quotes_and_a_separator_of_another_alphabet(tmp_path: Path, separator: str) -> None:
    header, row = (
        separator.join(names) for names in (("timestamp", "user_id", "item_id"), ("1", "u", f'"a{separator}b"'))
    )
    log = write(tmp_path / "log.csv", f"{header}\n{row}\n")
    assert read(log, separator=separator).good == [("u", f"a{separator}b", 1.0, None, None)]


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


# ---------------------------------------------------------------- names and formats

REVIEW = {"reviewerID": "A2", "asin": "0528", "helpful": [0, 0], "overall": 5.0, "unixReviewTime": 1370476800}
AMAZON = {"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "timestamp": "unixReviewTime"}


@pytest.mark.parametrize("name", ["reviews.json", "reviews.json.gz", "reviews.json.bz2"])
def test_amazon_reviews(tmp_path: Path, name: str) -> None:
    data = (json.dumps(REVIEW) + "\n" + json.dumps(REVIEW | {"asin": "12.0"}) + "\n").encode()
    pack = {".gz": gzip.compress, ".bz2": lambda data: bz2.compress(data[:50]) + bz2.compress(data[50:])}
    path = write(tmp_path / name, pack.get(path_suffix(name), bytes)(data))
    items = [row[1] for row in read(path, **AMAZON).good]
    assert items[0] == "0528"
    assert [row[:1] + row[2:] for row in read(path, **AMAZON).good] == [("A2", 1370476800.0, 5.0, None)] * 2


def path_suffix(name: str) -> str:
    return Path(name).suffix


@pytest.mark.parametrize("text", ['[{"a": 1}]', '[\n{"a": 1}\n]', '\ufeff [{"a": 1},\n{"a": 2}]'])
def test_one_json_array_is_no_log(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"log\.json: one JSON array, and a log is JSON Lines, an object a line;"):
        layout_of(write(tmp_path / "log.json", text))


def test_a_format_may_be_given_where_names_tell_none(tmp_path: Path) -> None:
    """Spark and Hive write part-00000 and 000000_0."""
    rows = [("a", "x", 1.0, None, None)]
    frame = pl.DataFrame({"user_id": ["a"], "item_id": ["x"], "timestamp": [1]})
    forms = {"csv": frame.write_csv(), "tsv": frame.write_csv(separator="\t"), "jsonl": frame.write_ndjson()}
    for form, text in forms.items():
        for name in ("part-00000", "000000_0", "x.log"):
            path = write(tmp_path / form / name, text)
            (file,) = find_with(path, format=form)
            assert (file.name, file.format) == (name, form)
            assert rows_at(file, format=form) == Rows(rows, [])
        write(tmp_path / form / "part-00001.gz", gzip.compress(text.encode()))
        write(tmp_path / form / "_SUCCESS", "")
        write(tmp_path / form / "README", "words")
        files = find_with(tmp_path / form, format=form)
        assert [file.name for file in files] == ["000000_0", "part-00000", "part-00001.gz", "x.log"]
        assert all(rows_at(file, format=form) == Rows(rows, []) for file in files)
    frame.write_parquet(tmp_path / "part-0")
    (file,) = find_with(tmp_path / "part-0", format="parquet")
    assert rows_at(file, format="parquet") == Rows(rows, [])
    frame.write_parquet(tmp_path / "log.pq")
    assert read(tmp_path / "log.pq") == Rows(rows, [])
    with pytest.raises(InputError, match=r"unsupported extension ''; supported: .* --data\.columns\.format"):
        find(tmp_path / "csv" / "part-00000")


def find_with(path: Path, **columns: Any) -> tuple[LogFile, ...]:
    return resolve(DataConfig(source=str(path), columns=ColumnsConfig(**columns)), Path("/nowhere")).files


def rows_at(file: LogFile, **columns: Any) -> Rows:
    layout = read_layout(file, ColumnsConfig(**columns))
    parts = inspect_file(file, layout, WHOLE).ranges
    return as_rows([block for part in parts for block in read_range(file, layout, part, "s", 1 << 20)])


# ---------------------------------------------------------------- columns of the path


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

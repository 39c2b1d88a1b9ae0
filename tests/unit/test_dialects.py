"""pipelines.ingest.source.dialects: separators, quotes and encodings, guessed or given."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mgray.config import ColumnsConfig
from mgray.errors import InputError
from pipelines.ingest.source.careful_text import read_careful
from pipelines.ingest.source.fast_text import read_fast
from pipelines.ingest.source.layouts import Layout, read_layout
from pipelines.ingest.source.log_files import LogFile
from pipelines.ingest.source.ranges import inspect_file
from pipelines.ingest.source.readers import read_range
from tests.log_layouts import layout_of, read, write
from tests.log_rows import WHOLE, Rows, as_rows

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
    folder: Path,
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
    path = write(folder / "log", data)
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


@pytest.mark.parametrize("separator", ["→", "¦"])
def test_quotes_and_a_separator_of_another_alphabet(tmp_path: Path, separator: str) -> None:
    header, row = (
        separator.join(names) for names in (("timestamp", "user_id", "item_id"), ("1", "u", f'"a{separator}b"'))
    )
    log = write(tmp_path / "log.csv", f"{header}\n{row}\n")
    assert read(log, separator=separator).good == [("u", f"a{separator}b", 1.0, None, None)]

"""pipelines.ingest.source.resolve and pipelines.ingest.source.readers: formats, titles, line numbers, and one clear
line for each bad input.
"""

import errno
import gzip
import hashlib
import json
import logging
import os
import pickle
import subprocess
import time
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgray.config import MOVIELENS_100K, ColumnsConfig, DataConfig
from mgray.data.manifest import Manifest, SourceFile, file_sha256
from mgray.errors import InputError
from pipelines.ingest.source import presets
from pipelines.ingest.source.digests import digest_log, sort_files
from pipelines.ingest.source.filesystems import open_random
from pipelines.ingest.source.layouts import read_layout
from pipelines.ingest.source.log_files import SEPARATORS, LogFile, log_format, open_stream, read_error
from pipelines.ingest.source.ranges import Range, inspect_file
from pipelines.ingest.source.readers import read_range
from pipelines.ingest.source.resolve import Source, check_apart, resolve
from pipelines.ingest.source.rows import json_columns, separated_columns, split_rows
from pipelines.ingest.source.titles import read_item_ids, read_titles

COLUMNS = ColumnsConfig()
CSV = "user_id,item_id,timestamp\na,x,1\nb,y,2\n"


def find(source: Path | str | list[Path | str], items: Path | None = None) -> Source:
    """The log of a path or of a list; HOME is a place that nothing is written to."""
    given = tuple(map(str, source)) if isinstance(source, list) else str(source)
    return resolve(DataConfig(source=given, items=str(items) if items else None), Path("/nowhere"))


def names(source: Path | str | list[Path | str]) -> list[str]:
    return [file.name for file in find(source).files]


def only(path: Path) -> LogFile:
    (file,) = find(path).files
    return file


def rows(path: Path, columns: ColumnsConfig = COLUMNS) -> pl.DataFrame:
    """Every row of a text log as it is written: line, raw, problem, and a column of text a role."""
    file = only(path)
    layout = read_layout(file, columns)
    with open_stream(file) as stream:
        data = stream.read()
    assert len(data) >= layout.data_start
    data = data[layout.data_start :].removeprefix(b"\xef\xbb\xbf" if not layout.data_start else b"")
    records = split_rows(data, layout.first_line, quoted=file.format == "csv")
    if file.format == "jsonl":
        return json_columns(records, layout.columns)
    return separated_columns(records, SEPARATORS[file.format], layout.header, layout.columns, file.format == "csv")


def events(path: Path, range_bytes: int) -> pa.Table:
    """Every event of a one-file log, range after range."""
    file = only(path)
    layout = read_layout(file, COLUMNS)
    parts = inspect_file(file, layout, range_bytes).ranges
    blocks = [block for part in parts for block in read_range(file, layout, part, "s", 1 << 20)]
    assert all(block.bad is None for block in blocks)
    return pa.concat_tables([block.events for block in blocks], promote_options="permissive").combine_chunks()


def compress(path: Path, data: bytes) -> bytes:
    """The bytes in two gzip members or zstd frames, as tools that write in parallel or append do."""
    half = len(data) // 2
    if path.suffix.lower() == ".gz":
        return gzip.compress(data[:half]) + gzip.compress(data[half:])
    if path.suffix.lower() in (".zst", ".zstd"):
        codec = pa.Codec("zstd")
        return codec.compress(data[:half], asbytes=True) + codec.compress(data[half:], asbytes=True)
    return data


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(compress(path, text.encode() if isinstance(text, str) else text))
    return path


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


def test_parquet_keeps_types_and_counts_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame(
        {"user_id": [1, 2, 3], "item_id": [4.0, 5.0, 6.0], "timestamp": [7, 8, 9], "other": [0, 0, 0]}
    ).write_parquet(path, row_group_size=2)
    file = only(path)
    layout = read_layout(file, COLUMNS)
    assert layout[:4] == (
        {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp"},
        ["user_id", "item_id", "timestamp", "other"],
        0,
        1,
    )
    found = inspect_file(file, layout, 1).ranges
    assert [part[:3] for part in found] == [Range(0, 1, 1, 0)[:3], Range(1, 2, 3, 0)[:3]]


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


@pytest.mark.parametrize("range_bytes", [1, 7, 50, 333])
@pytest.mark.parametrize("quoted", [False, True])
def test_ranges_change_nothing(tmp_path: Path, range_bytes: int, quoted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.ingest.source.ranges.CHUNK_BYTES", 64)
    item = '"x\n,{}"' if quoted else "x{}"
    body = "".join(f"user{i % 7},{item.format(i)},{i}\n" + ("\n" if i % 10 == 0 else "") for i in range(100))
    path = write(tmp_path / "log.csv", "user_id,item_id,timestamp\n" + body)
    file = only(path)
    found = inspect_file(file, read_layout(file, COLUMNS), range_bytes)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.bytes == path.stat().st_size == file.bytes
    assert len(found.ranges) > 3
    whole = events(path, 1 << 20)
    assert whole.num_rows == 100
    assert events(path, range_bytes).equals(whole)


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "who,what,when,stars\na,x,1,5\n")
    columns = ColumnsConfig(user_id="who", item_id="what", timestamp="when", rating="stars")
    assert rows(path, columns).select("user_id", "item_id", "timestamp", "rating").row(0) == (
        "a",
        "x",
        "1",
        "5",
    )


def test_a_folder_is_its_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "2020").mkdir()
    for name in ("b.csv", "a.tsv", "2020/c.csv", "_SUCCESS", ".hidden.csv", "README.md"):
        write(tmp_path / name, CSV.replace(",", "\t") if name.endswith("tsv") else CSV)
    write(tmp_path / "empty.csv", "")
    titles = write(tmp_path / "titles.csv", "item_id,title\nx,X\n")
    source = find(tmp_path, titles)
    assert [file.name for file in source.files] == ["2020/c.csv", "a.tsv", "b.csv"]
    assert source.titles_file == titles


def test_movielens_folders_bring_their_titles(tmp_path: Path) -> None:
    grouplens, recbole = tmp_path / "a", tmp_path / "b"
    grouplens.mkdir()
    recbole.mkdir()
    write(grouplens / "u.data", "196\t242\t3\t881250949\n")
    write(grouplens / "u1.base", "not\tthe\tlog\n")
    write(grouplens / "u.item", '1|Am\xe9lie "x" (2001)|01-Jan-1995||url\n'.encode("latin-1"))
    write(recbole / "ml-100k.inter", "user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n")
    write(
        recbole / "ml-100k.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation\n267\tunkonwn\tunkonwn\tunknown\n",
    )
    for folder, log, titles in (
        (grouplens, "u.data", [("1", 'Amélie "x" (2001)')]),
        (recbole, "ml-100k.inter", [("1", "Toy Story (1995)"), ("267", "unkonwn")]),
    ):
        source = find(folder)
        assert [file.name for file in source.files] == [log]
        assert source.titles_file is not None
        assert read_titles(source.titles_file).rows() == titles


def test_titles_of_numeric_ids(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": [1, 2], "title": ["A", None]}).write_parquet(tmp_path / "items.parquet")
    assert read_titles(tmp_path / "items.parquet").rows() == [("1", "A"), ("2", None)]
    assert read_titles(write(tmp_path / "items.tsv", "title\titem_id\nA\t01\n")).rows() == [("01", "A")]


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({}, "nowhere", "no such file or folder"),
        ({}, "http://host/log", "http:// is not supported; give a local or mounted path, s3:// or gs://"),
        ({}, "nowhere/*.csv", "no file matches"),
        ({"log.csv": CSV}, "*.tsv", "no file matches"),
        ({"notes.doc": "x"}, "*", "no log file matches (found: notes.doc)"),
        ({}, "", "the folder holds no log file (found: nothing)"),
        ({"notes.doc": "x"}, "", "the folder holds no log file (found: notes.doc)"),
        ({"readme.txt": "x"}, "", "the folder holds no log file (found: readme.txt)"),
        ({"log.xlsx": "x"}, "log.xlsx", "unsupported extension '.xlsx'; supported: .csv"),
        ({"log.csv": ""}, "log.csv", "the log is empty"),
    ],
)
def test_bad_sources_are_one_clear_line(tmp_path: Path, files: dict[str, str], source: str, message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        find(source if "://" in source else tmp_path / source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


WIDE = "x" * (1 << 20)


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        (
            "log.csv",
            b"user_id,item,timestamp\n",
            {},
            "no column 'item_id'; columns found: user_id, item, timestamp; name the log's own with "
            "--data.columns.item_id NAME, or all columns in data.columns.header if the log has no header line",
        ),
        ("log.jsonl", b'{"user_id": 1}\n', {}, "no column 'item_id'; columns found: user_id;"),
        ("log.jsonl", b"user_id,item_id\n", {}, "no JSON object in its first"),
        ("log.parquet", b"PAR1 not", {}, "not readable as parquet"),
        ("log.csv.gz", b"\x1f\x8bbroken", {}, "not readable as csv"),
        (
            "log.csv.gz",
            gzip.compress(CSV.encode(), mtime=0)[:-9],
            {},
            "not readable as csv (Truncated compressed stream)",
        ),
        ("log.csv.zst", b"no frame", {}, "not readable as csv (ZSTD decompress failed"),
        ("log.csv", CSV.encode("utf-16-be"), {}, "holds NUL bytes: it is not UTF-8 text, perhaps UTF-16"),
        ("log.csv", b"\xff\xfe," + CSV.encode(), {}, "not readable as csv ('utf-8' codec can't decode"),
        ("log.tsv", (WIDE + CSV).encode(), {}, "its first line is longer than 1048576 bytes"),
        ("log.csv", b"user_id,user_id,item_id,timestamp\n", {}, "2 columns are named 'user_id'"),
        ("log.csv", CSV.encode(), {"rating": "stars"}, "no column 'stars'"),
        ("log.csv", CSV.encode(), {"features": ("price",)}, "no column 'price'"),
        ("log.csv", CSV.encode(), {"features": ("price",)}, "columns of numbers in data.columns.features"),
        ("u.data", b"1\t2\t3\t4\n", {"user_id": "who"}, "no column 'who'; columns found: user_id, item_id, rating"),
        ("log.csv", b"a,x,1\n", {"header": ("u", "i", "t")}, "no column 'user_id'; columns found: u, i, t"),
        ("log.jsonl", b'{"user_id":1}', {"header": ("user_id", "item_id", "timestamp")}, "a jsonl file names its own"),
    ],
)
def test_bad_layouts_are_one_clear_line(
    tmp_path: Path, name: str, data: bytes, options: dict[str, object], message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_layout(only(tmp_path / name), ColumnsConfig(**options))
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


TITLES = [("3", "A"), ("4", "B")]
OF_TITLES: dict[str, bytes] = {
    "items.CSV": b"\xef\xbb\xbfitem_id,title\r\n3.0,A\r\n4.0 ,B\r\nNULL,C\r\n",
    "items.TSV": b'title\titem_id\nA\t 3\nB\t"4.00"\n',
    "movies.csv": b"movieId,title,genres\n3.0,A,x\n4,B,y\n",
    "items.csv.gz": gzip.compress(b"item_id,title\n3.0,A\n4.0,B\n", mtime=0),
    "items.csv.ZST": pa.compress(b"item_id,title\n3.0,A\n4.0,B\n", "zstd", asbytes=True),
    "items.jsonl": b'{"item_id": 3.0, "title": "A"}\n\n{"title": "B", "item_id": "4 "}\n{"item_id": null}\n',
    "u.item": b"3.0|A|x\n 4|B|y\n|C|z\n",
    "movies.dat": b"3.0::A::x\n4::B::y\n\\N::C::z\n",
    "ml-100k.item": b"item_id:token\tmovie_title:token_seq\trelease_year:token\n3.0\tA\t\n4\tB\t\n",
}


@pytest.mark.parametrize("name", OF_TITLES)
def test_titles_are_read_by_the_rule_of_ids(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(OF_TITLES[name])
    assert read_titles(tmp_path / name).rows() == TITLES
    if name not in ("u.item", "movies.dat", "ml-100k.item", "movies.csv"):
        assert read_item_ids(tmp_path / name, "--predict.blocked") == ["3", "4"]


@pytest.mark.parametrize("ids", [[3.0, 4.0, None], [Decimal("3.00"), Decimal("4.00"), None], [" 3", "4.0", "NULL"]])
def test_parquet_titles_are_read_by_the_rule_of_ids(tmp_path: Path, ids: list) -> None:
    pq.write_table(pa.table({"item_id": ids, "title": ["A", "B", "C"]}), tmp_path / "items.PARQUET")
    assert read_titles(tmp_path / "items.PARQUET").rows() == TITLES
    assert read_item_ids(tmp_path / "items.PARQUET", "--predict.blocked") == ["3", "4"]


def test_parquet_titles_of_types_that_polars_does_not_take(tmp_path: Path) -> None:
    titles = {"title": ["A", "B"], "prices": pa.array([[Decimal(1)], None], pa.list_(pa.decimal256(60, 2)))}
    wide = pa.array([Decimal("3.00"), Decimal("3.50")], pa.decimal256(60, 2))
    pq.write_table(pa.table({"item_id": wide, **titles}), tmp_path / "items.parquet")
    assert read_titles(tmp_path / "items.parquet").rows() == [("3", "A"), ("3.5", "B")]
    storage = pa.array([UUID(int=n).bytes for n in (5, 6)], pa.binary(16))
    ids = pa.ExtensionArray.from_storage(pa.uuid(), storage)
    pq.write_table(pa.table({"item_id": ids, **titles}), tmp_path / "items.parquet")
    assert read_titles(tmp_path / "items.parquet").rows() == [(str(UUID(int=5)), "A"), (str(UUID(int=6)), "B")]
    pq.write_table(pa.table(titles), tmp_path / "items.parquet")
    with pytest.raises(InputError, match="columns found: title, prices"):
        read_titles(tmp_path / "items.parquet")


@pytest.mark.parametrize("text", ["3\n4\n", "3 \r\n4\t\r\n", '\ufeff"3"\n"4.0"', " 3.0\n\n4\nNULL\n"])
def test_item_ids_one_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "ids.txt").write_bytes(text.encode())
    assert read_item_ids(tmp_path / "ids.txt", "--predict.blocked") == ["3", "4"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("items.csv.gz", b"no gzip", "not readable"),
        ("items.csv.gz", gzip.compress(b"item_id,title\n3,A\n", mtime=0)[:-9], "not readable"),
        ("items.csv.zst", b"no zstd", "not readable"),
        ("items.jsonl", b"\xff{}", "not readable"),
        ("items.jsonl", b'{"name": 1}\n', "columns found: none$"),
        ("items.parquet.gz", b"", r"unsupported extension '.gz'; supported: .csv, .tsv, .jsonl"),
        ("movies.dat", b"3\n", None),
    ],
)
def test_files_of_titles_that_do_not_do(tmp_path: Path, name: str, data: bytes, message: str | None) -> None:
    (tmp_path / name).write_bytes(data)
    if message is None:
        assert read_titles(tmp_path / name).rows() == [("3", None)]
        return
    with pytest.raises(InputError, match=message):
        read_titles(tmp_path / name)


def test_bad_titles_are_one_clear_line(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", CSV)
    with pytest.raises(InputError, match="no such file"):
        find(log, tmp_path / "none.csv")
    with pytest.raises(InputError, match="columns found: item_id, name"):
        read_titles(write(tmp_path / "items.csv", "item_id,name\n1,A\n"))
    with pytest.raises(InputError, match=r"unsupported extension '.xml'"):
        read_titles(write(tmp_path / "items.xml", "x"))


def test_a_failed_download_tells_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: No matching distribution found\n")
    monkeypatch.setattr(presets.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(InputError, match=r"No matching distribution.*--data.source PATH"):
        resolve(DataConfig(), tmp_path)
    assert not list((tmp_path / "raw" / MOVIELENS_100K).iterdir())


def test_movielens_already_there_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "raw" / MOVIELENS_100K
    folder.mkdir(parents=True)
    texts = {
        "ml-100k.inter": "user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n",
        "ml-100k.item": "item_id:token\n",
    }
    digests = {
        name: hashlib.sha256(write(folder / name, text).read_bytes()).hexdigest() for name, text in texts.items()
    }
    monkeypatch.setattr(presets, "MOVIELENS_FILES", digests)
    monkeypatch.setattr(presets.subprocess, "run", lambda *args, **kwargs: pytest.fail("downloaded"))
    assert resolve(DataConfig(), tmp_path).files[0].name == "ml-100k.inter"


def test_json_keys_may_come_late(tmp_path: Path) -> None:
    lines = [
        {"user_id": "a", "item_id": "x", "timestamp": 1},
        {"user_id": "a", "item_id": "x", "timestamp": 2, "rating": 3},
    ]
    path = write(tmp_path / "log.jsonl", "\n".join(json.dumps(row) for row in lines))
    assert rows(path)["rating"].to_list() == [None, "3"]


def test_a_glob_matches_files_and_folders(tmp_path: Path) -> None:
    for name in (
        "a.csv",
        "b.csv",
        "c.tsv",
        "2024/d.csv",
        "2025/e/f.csv",
        "_old/g.csv",
        "2025/.h/i.csv",
        "2025/_SUCCESS",
    ):
        write(tmp_path / name, CSV)
    assert names(tmp_path / "*.csv") == ["a.csv", "b.csv"]
    assert names(tmp_path / "[ac].?sv") == ["a.csv", "c.tsv"]
    assert names(tmp_path / "202?") == ["2024/d.csv", "2025/e/f.csv"]
    assert names(tmp_path / "202?" / "*.csv") == ["2024/d.csv"]
    assert names(tmp_path / "**" / "*.csv") == ["2024/d.csv", "2025/e/f.csv", "a.csv", "b.csv"]
    assert names(tmp_path / "**") == ["2024/d.csv", "2025/e/f.csv", "a.csv", "b.csv", "c.tsv"]
    assert names(tmp_path / "2025" / "**" / "f.csv") == ["e/f.csv"]
    assert names(tmp_path / "_*" / "*.csv") == ["_old/g.csv"]
    assert names(tmp_path / "[!ab].*") == ["c.tsv"]


def test_a_list_is_named_from_the_common_folder_and_lists_a_file_once(tmp_path: Path) -> None:
    for name in ("x/a.csv", "x/b.csv", "y/c.csv"):
        write(tmp_path / name, CSV)
    (tmp_path / "y" / "d.csv").symlink_to(tmp_path / "x" / "a.csv")
    given = [tmp_path / "y", tmp_path / "x" / "a.csv", f"{tmp_path}/x/../x/*.csv", tmp_path / "x"]
    assert names(given) == ["x/a.csv", "x/b.csv", "y/c.csv"]
    assert names([tmp_path / "x" / "b.csv"]) == ["b.csv"]
    assert names([tmp_path / "x" / "b.csv", tmp_path / "x" / "a.csv"]) == ["a.csv", "b.csv"]
    with pytest.raises(InputError, match="an empty list"):
        find([])


@pytest.mark.parametrize(
    "name",
    ["a b", "it's", '"q"', "new\nline", "a#b", "100%25", "what?", "st*r", "[ab]", "ü漢", "~x", "$HOME", "-x", "a://b"],
)
def test_any_name_given_literally_is_that_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name / f"{name.replace('://', '')}.csv", CSV)
    write(tmp_path / "stxr" / "stxr.csv", "not,the,log\n")
    for given in (path, path.parent):
        file = only(given)
        assert (file.path, file.name, file.bytes) == (str(path), path.name, len(CSV))
        assert read_layout(file, COLUMNS).first_line == 2
        with open_random(file.path) as raw:
            assert (raw.size(), raw.read_at(7, 0)) == (len(CSV), b"user_id")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "logs" / "a.csv", CSV)
    monkeypatch.chdir(tmp_path)
    for given in ("logs", "logs/a.csv", "logs/*", "./logs/", "l*/a.csv"):
        (file,) = find(given).files
        assert file.path == str(tmp_path / "logs" / "a.csv")
    assert pickle.loads(pickle.dumps(file)) == file


def test_links_are_followed_without_circles(tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    write(log / "b" / "a.csv", CSV)
    write(tmp_path / "outside.csv", CSV)
    write(other / "c.csv", CSV)
    for link, target in (("self", log), ("up", tmp_path), ("b/around", log / "b"), ("a", log / "b"), ("other", other)):
        (log / link).symlink_to(target)
    (other / "back").symlink_to(log)
    assert names(log) == ["b/a.csv", "other/c.csv"]
    assert names(log / "**" / "*.csv") == ["b/a.csv", "other/c.csv"]
    (tmp_path / "link").symlink_to(log)
    assert names(tmp_path / "link") == ["b/a.csv", "other/c.csv"]


def test_a_dangling_link_named_like_a_log_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", CSV)
    (tmp_path / "notes").symlink_to(tmp_path / "nowhere")
    (tmp_path / "_b.csv").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["a.csv"]
    (tmp_path / "b.csv").symlink_to(tmp_path / "nowhere")
    for given in (tmp_path, tmp_path / "b.csv", tmp_path / "*.csv"):
        with pytest.raises(InputError, match=r"/b\.csv is a link to nothing"):
            find(given)
    (tmp_path / "b.csv").unlink()
    (tmp_path / "c.csv").symlink_to(tmp_path / "c.csv")
    with pytest.raises(InputError, match=r"/c\.csv is a link to nothing"):
        find(tmp_path)


def test_what_is_no_file_is_no_log(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", CSV)
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    assert names(tmp_path) == ["a.csv"]
    with pytest.raises(InputError, match="neither a file nor a folder"):
        find(tmp_path / "pipe.csv")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")).write_text(CSV)
    with pytest.raises(InputError, match="not valid UTF-8"):
        find(tmp_path)


def test_ten_thousand_files_are_listed_in_a_moment(tmp_path: Path) -> None:
    for folder in range(100):
        (tmp_path / f"{folder:02}").mkdir()
        for number in range(100):
            (tmp_path / f"{folder:02}" / f"{number:02}.csv").write_text(CSV)
    start = time.process_time()  # what else runs on the machine shall not count
    found = names(tmp_path)
    assert time.process_time() - start < 3  # about 0.4 s
    assert len(found) == 10_000
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", "csv"),
        ("a.CSV.GZ", "csv"),
        ("a.ndjson.zst", "jsonl"),
        ("a.inter.gz", "inter"),
        ("u.data", "u.data"),
        ("u.data.gz", "u.data"),
        ("ratings.dat.zstd", "dat"),
        ("a.parquet", "parquet"),
        ("a.parquet.gz", None),
        ("a.pq", "parquet"),
        ("reviews.json.gz", "jsonl"),
        ("a.csv.bz2", "csv"),
        ("a.gz", None),
        ("a.data", "text"),
        ("a.TXT.gz", "text"),
        ("csv", None),
    ],
)
def test_a_name_tells_the_format(name: str, expected: str | None) -> None:
    assert log_format(name) == expected


def test_a_header_may_be_given(tmp_path: Path) -> None:
    columns = ColumnsConfig(header=("item_id", "user_id", "timestamp"))
    for name, text in (
        ("a.csv", "x,a,1\n"),
        ("a.tsv.gz", "x\ta\t1\n"),
        ("u.data", "x\ta\t1\n"),
        ("a.dat", "x::a::1\n"),
        ("b.csv", "\ufeffx,a,1\n"),
    ):
        path = write(tmp_path / name, text)
        layout = read_layout(only(path), columns)
        assert layout[1:4] == (["item_id", "user_id", "timestamp"], 0, 1)
        assert rows(path, columns).select("line", "user_id", "item_id", "timestamp").rows() == [(1, "a", "x", "1")]


def test_features_are_columns_too(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user_id,item_id,timestamp,price,rating\na,x,1,2.5,4\n")
    layout = read_layout(only(path), ColumnsConfig(features=("price", "rating", "timestamp")))
    assert layout.columns == {
        "user_id": "user_id",
        "item_id": "item_id",
        "timestamp": "timestamp",
        "rating": "rating",
        "feature:price": "price",
        "feature:rating": "rating",
        "feature:timestamp": "timestamp",
    }
    nested = tmp_path / "log.parquet"
    pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [1], "price": [[1.0]]}).write_parquet(nested)
    with pytest.raises(InputError, match=r"column 'price' holds lists, .*data\.columns\.features"):
        read_layout(only(nested), ColumnsConfig(features=("price",)))


def test_movielens_names_give_way_to_the_users(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "userId,movieId,rating,timestamp,user_id\na,x,5,1,b\n")
    assert read_layout(only(path), COLUMNS).columns["user_id"] == "user_id"
    assert read_layout(only(path), COLUMNS).columns["item_id"] == "movieId"
    with pytest.raises(InputError, match="no column 'movie'"):
        read_layout(only(path), ColumnsConfig(item_id="movie"))
    partial = write(tmp_path / "p.csv", "userId,movieId,timestamp\na,x,1\n")
    with pytest.raises(InputError, match="no column 'user_id'"):
        read_layout(only(partial), COLUMNS)


def test_later_movielens_folders_bring_their_titles(tmp_path: Path) -> None:
    write(tmp_path / "1m" / "ratings.dat", "1::1193::5::978300760\n")
    write(tmp_path / "1m" / "users.dat", "1::F::1::10::48067\n")
    write(tmp_path / "1m" / "movies.dat", "1::Amélie :: x (2001)::Comedy\r\n2::B\x85C::Drama|War\n".encode("latin-1"))
    write(tmp_path / "10m" / "ratings.dat", "1::122::5::838985046\n")
    write(tmp_path / "10m" / "movies.dat", "1::Amélie (2001)::Comedy\n")
    write(tmp_path / "20m" / "ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n")
    write(tmp_path / "20m" / "movies.csv", 'movieId,title,genres\n1,"Amélie, x (2001)",Comedy\n')
    write(tmp_path / "20m" / "tags.csv", "userId,movieId,tag,timestamp\n1,2,x,3\n")
    for folder, log, titles in (
        ("1m", "ratings.dat", [("1", "Amélie :: x (2001)"), ("2", "B\x85C")]),
        ("10m", "ratings.dat", [("1", "Amélie (2001)")]),
        ("20m", "ratings.csv", [("1", "Amélie, x (2001)")]),
    ):
        source = find(tmp_path / folder)
        assert [file.name for file in source.files] == [log]
        assert source.titles_file is not None
        assert read_titles(source.titles_file).rows() == titles
    with pytest.raises(InputError, match="2 of its folders bring titles"):
        find([tmp_path / "1m", tmp_path / "20m"])
    titles_file = write(tmp_path / "titles.csv", "item_id,title\n")
    both = find([tmp_path / "1m", tmp_path / "20m"], titles_file)
    assert [file.name for file in both.files] == ["1m/ratings.dat", "20m/ratings.csv"]
    assert both.titles_file == titles_file


@pytest.mark.parametrize(
    ("preset", "others", "logs"),
    [
        (
            {"ratings.csv": CSV, "movies.csv": "", "links.csv": "x", "tags.csv": "x", "genome-tags.csv": "x"},
            {"ratings-2025.csv": CSV, "2024/tags.csv": CSV, "2024-02.csv.xz": "x", "README.txt": "x"},
            ["2024/tags.csv", "ratings-2025.csv", "ratings.csv"],
        ),
        (
            {"u.data": CSV, "u.item": "x", "u.user": "x", "u1.base": "x", "ub.test": "x", "allbut.pl": "x"},
            {"new.csv": CSV, "2024-02.csv.xz": "x", "README": "x"},
            ["new.csv", "u.data"],
        ),
        (
            {"ml-100k.inter": CSV, "ml-100k.item": "x", "ml-100k.user": "x"},
            {"new.inter": CSV, "2024-02.csv.xz": "x"},
            ["ml-100k.inter", "new.inter"],
        ),
        (
            {"ratings.dat": CSV, "movies.dat": "x", "users.dat": "x"},
            {"ratings2.dat": CSV, "2024-02.csv.xz": "x"},
            ["ratings.dat", "ratings2.dat"],
        ),
    ],
)
def test_a_known_folder_may_hold_more_of_the_log(
    tmp_path: Path,
    preset: dict[str, str],
    others: dict[str, str],
    logs: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, text in preset.items():
        write(tmp_path / name, text)
    assert len(names(tmp_path)) == 1
    assert caplog.messages == []
    for name, text in others.items():
        write(tmp_path / name, text)
    assert names(tmp_path) == logs
    (message,) = caplog.messages
    assert ": 1 left out, as the name is no log's: 2024-02.csv.xz (read are .csv, " in message


def test_files_that_are_left_out_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = ("a.csv", "b/README.md", "LICENSE", "a.csv.md5", "SHA256SUMS", "_SUCCESS", ".part", "items.txt")
    for name in plain:
        write(tmp_path / name, CSV)
    find(tmp_path, tmp_path / "items.txt")
    assert caplog.messages == [], "not of titles, nor of what nobody takes for a log"
    for number in range(7):
        write(tmp_path / "b" / f"{number}.orc", "x")
    caplog.clear()
    assert names([tmp_path, tmp_path / "*"]) == ["a.csv"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert ": 8 left out, " in record.getMessage()
    assert ": b/0.orc, b/1.orc, b/2.orc, b/3.orc, b/4.orc, ... (read are " in record.getMessage()
    assert "\n" not in record.getMessage()


def test_versions_lie_apart_from_the_log(tmp_path: Path) -> None:
    log = write(tmp_path / "log" / "a.csv", CSV)
    (tmp_path / "link").symlink_to(tmp_path / "log")
    for source, out in (
        (log.parent, log.parent),
        (log.parent, log.parent / "made" / "here"),
        (log.parent, tmp_path / "link" / "made"),
        (tmp_path / "link", log.parent / "made"),
    ):
        with pytest.raises(InputError, match=r"^--data.out .*: lies in --data.source .*give a folder outside"):
            check_apart(DataConfig(source=(str(log), str(source))), out)
    for source in (log, tmp_path / "log" / "*.csv", "s3://bucket/log", MOVIELENS_100K, tmp_path / "nowhere"):
        check_apart(DataConfig(source=str(source)), log.parent / "made")
    check_apart(DataConfig(source=str(log.parent)), tmp_path / "log2")


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/a.csv", FileNotFoundError(errno.ENOENT, "no file"), "that every node sees under the same path"),
        ("/a.csv", PermissionError(errno.EACCES, "not yours"), "that every node sees under the same path"),
        ("s3://b/a.csv", FileNotFoundError(errno.ENOENT, "no key"), "credentials (AWS_ACCESS_KEY_ID and"),
        ("s3://b/a.csv", OSError("AWS Error ACCESS_DENIED during GetObject"), "credentials (AWS_ACCESS_KEY_ID and"),
        ("gs://b/a.csv", OSError("google::cloud::Status(UNAVAILABLE)"), "(GOOGLE_APPLICATION_CREDENTIALS)"),
        ("s3://b/a.csv", OSError("Truncated compressed stream"), "mend or remove the file"),
        ("/a.csv", OSError("zlib inflate failed"), "mend or remove the file"),
        ("/a.csv", EOFError("it became shorter"), "mend or remove the file"),
    ],
)
def test_a_node_that_cannot_read_blames_no_file(path: str, error: Exception, message: str) -> None:
    told = str(read_error(LogFile(path, "a.csv", 1, "csv", None), error, "cannot be read"))
    assert told.startswith(f"{path}: cannot be read ")
    assert message in told
    assert str(error) in told
    assert ("mend or remove" in told) == ("mend or remove" in message)


def test_a_file_that_went_away_is_not_to_be_mended(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", CSV)
    file = only(path)
    path.unlink()
    with pytest.raises(InputError, match=r"No such file.*every node sees under the same path"):
        read_layout(file, COLUMNS)


def test_a_compressed_file_of_nothing_has_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz", "")
    write(tmp_path / "b.csv.zst", "")
    for file in find(tmp_path).files:
        layout = read_layout(file, ColumnsConfig(rating="stars", features=("price",)))
        known = {"user_id", "item_id", "timestamp", "rating", "feature:price"}
        assert set(layout.columns) == known | ({"event_type"} if file.format == "jsonl" else set())
        with open_stream(file) as stream:
            assert stream.read() == b""


def test_a_layout_reads_the_beginning_only(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    body = "".join(f"user{i},x{i * 7919 % 100_003},{i}\n" for i in range(200_000))
    path.write_bytes(gzip.compress(("user_id,item_id,timestamp\n" + body).encode()))
    path.write_bytes(path.read_bytes()[:200_000] + b"?" * 1000)  # what lies behind is not even looked at
    assert read_layout(only(path), COLUMNS).data_start == len("user_id,item_id,timestamp\n")
    with open_stream(only(path)) as stream, pytest.raises(OSError, match=r"zlib|Truncated"):
        stream.read()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_streams_run_through_members_and_end_loudly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log.csv{suffix}"
    parts = [compress(path, os.urandom(size)) for size in (1, 65_500, 65_536, 200_000)]
    expected = b"".join(gzip.decompress(part) for part in parts) if suffix == ".gz" else None
    path.write_bytes(b"".join(parts))
    with open_stream(only(path)) as stream:
        found = b"".join(iter(lambda: stream.read(10_000), b""))
    assert len(found) == 1 + 65_500 + 65_536 + 200_000
    assert expected is None or found == expected
    path.write_bytes(b"".join(parts)[:-5])
    with open_stream(only(path)) as stream, pytest.raises(OSError, match="Truncated"):
        list(iter(lambda: stream.read(10_000), b""))


def test_files_are_closed(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [1]}).write_parquet(tmp_path / "a.parquet")
    write(tmp_path / "b.csv.gz", CSV)
    write(tmp_path / "c.csv", CSV)
    before = len(os.listdir("/proc/self/fd"))
    kept = [read_layout(file, COLUMNS) for file in find(tmp_path).files * 5]
    assert len(kept) == 15
    assert len(os.listdir("/proc/self/fd")) == before


def test_new_files_are_told_by_their_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", CSV + "z" * (5 << 20))
    write(tmp_path / "b.csv", CSV)
    found = sort_files(digest_log(DataConfig(source=str(tmp_path)), tmp_path), None)
    assert found == (["a.csv", "b.csv"], [], [])

    known = SourceFile(path="old.csv", bytes=1, sha256=file_sha256(path))
    gone = SourceFile(path="gone.csv", bytes=1, sha256="0")
    manifest = Manifest.model_construct(sources=[known, gone], config={})
    found = sort_files(digest_log(DataConfig(source=str(tmp_path)), tmp_path), manifest)
    assert found == (["b.csv"], ["a.csv"], ["gone.csv"])


def test_titles_are_no_files_of_the_log(tmp_path: Path) -> None:
    """Titles that changed are not missing from the log, and a log that is called as they are is no titles file."""
    log = write(tmp_path / "log" / "items.csv", CSV)
    titles = write(tmp_path / "items.csv", "item_id,title\nx,X\n")
    sources = [SourceFile(path="items.csv", bytes=1, sha256=file_sha256(path)) for path in (log, titles)]
    manifest = Manifest.model_construct(sources=sources, config={"titles": "items.csv"})
    config = DataConfig(source=str(log.parent), items=str(titles))
    assert sort_files(digest_log(config, tmp_path), manifest) == ([], ["items.csv"], [])
    write(titles, "item_id,title\nx,another\n")
    assert sort_files(digest_log(config, tmp_path), manifest) == ([], ["items.csv"], [])
    log.rename(log.with_name("b.csv"))
    write(log.with_name("b.csv"), CSV + "c,z,3\n")
    assert sort_files(digest_log(config, tmp_path), manifest) == (["b.csv"], [], ["items.csv"])

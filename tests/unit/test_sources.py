"""pipelines.sources and pipelines.readers: formats, titles, line numbers, and one clear line for each bad input."""

import gzip
import hashlib
import json
import subprocess
from pathlib import Path

import polars as pl
import pytest

from mgray.config import MOVIELENS_100K, ColumnsConfig
from mgray.errors import InputError
from pipelines import sources
from pipelines.readers import Range, read_range, scan
from pipelines.sources import read_titles, resolve

COLUMNS = ColumnsConfig()
CSV = "user_id,item_id,timestamp\na,x,1\nb,y,2\n"


def read(path: Path, range_bytes: int = 1 << 20, columns: ColumnsConfig = COLUMNS) -> pl.DataFrame:
    """Every row of a one-file log, range after range."""
    (file,) = resolve(str(path), None, columns, path.parent).files
    return pl.concat([read_range(file, part) for part in scan(file, range_bytes).ranges], how="vertical_relaxed")


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
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
    ],
)
def test_each_text_format_gives_the_same_rows(tmp_path: Path, name: str, text: str) -> None:
    rows = read(write(tmp_path / name, text))
    assert rows.select("user_id", "item_id", "timestamp").rows() == [("a", "x", "1"), ("b", "y", "2")]
    assert rows["problem"].null_count() == 2


def test_parquet_keeps_types_and_counts_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame(
        {"user_id": [1, 2, 3], "item_id": [4.0, 5.0, None], "timestamp": [7, 8, 9], "other": [0, 0, 0]}
    ).write_parquet(path, row_group_size=2)
    (file,) = resolve(str(path), None, COLUMNS, tmp_path).files
    assert scan(file, 1).ranges == [Range(0, 1, 1), Range(1, 2, 3)]
    rows = read(path, range_bytes=1)
    assert rows.rows() == [(1, 1, 4.0, 7), (2, 2, 5.0, 8), (3, 3, None, 9)]


def test_json_ids_are_text_and_bad_rows_are_told(tmp_path: Path) -> None:
    lines = [
        '{"user_id": 12, "item_id": 7.0, "timestamp": 1}',
        '{"user_id": "a\\"é", "item_id": "07", "timestamp": "2020-01-01"}',
        '{"user_id": "a", "item',
        "[1, 2]",
        '{"user_id": null, "item_id": "x", "timestamp": 1}',
        '{"user_id": 1e30, "item_id": "x", "timestamp": 1}',
    ]
    rows = read(write(tmp_path / "log.jsonl", "\n".join(lines)))
    assert rows["user_id"].to_list()[:5] == ["12", 'a"é', None, None, None]
    assert rows["item_id"].to_list()[:2] == ["7", "07"]
    assert rows["problem"].to_list() == [
        None,
        None,
        "the row is not a JSON object",
        "the row is not a JSON object",
        None,
        "an id is a number too large to be exact: write it as text",
    ]


def test_quotes_hold_separators_newlines_and_quotes(tmp_path: Path) -> None:
    text = 'user_id,item_id,timestamp\na,"x,1",1\n"b\nb","say ""y""",2\n\nc,z"z,3\nd,w,4\n'
    rows = read(write(tmp_path / "log.csv", text.replace('z"z', '"z"z')))
    assert rows["line"].to_list() == [2, 3, 6, 7]
    assert rows["user_id"].to_list()[:2] == ["a", "b\nb"]
    assert rows["item_id"].to_list()[:2] == ["x,1", 'say "y"']
    assert rows["problem"].to_list() == [None, None, "its quotes do not match", None]


def test_wrong_field_counts_and_bytes_are_told(tmp_path: Path) -> None:
    text = b"user_id,item_id,timestamp\na,x\na,x,1,2\n\xff,x,1\n\xef\xbf\xbd,x,1\n"
    rows = read(write(tmp_path / "log.csv", text))
    assert rows["problem"].to_list() == [
        "2 fields where the header names 3",
        "4 fields where the header names 3",
        "the row is not valid UTF-8",
        None,
    ]
    assert rows["line"].to_list() == [2, 3, 4, 5]


def test_a_row_of_tabs_is_a_row(tmp_path: Path) -> None:
    assert read(write(tmp_path / "log.tsv", "user_id\titem_id\ttimestamp\n\t\t\n"))["user_id"].to_list() == [""]


@pytest.mark.parametrize("range_bytes", [1, 7, 50, 333])
@pytest.mark.parametrize("quoted", [False, True])
def test_ranges_change_nothing(tmp_path: Path, range_bytes: int, quoted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.readers.CHUNK_BYTES", 64)
    item = '"x\n,{}"' if quoted else "x{}"
    body = "".join(f"user{i % 7},{item.format(i)},{i}\n" + ("\n" if i % 10 == 0 else "") for i in range(100))
    path = write(tmp_path / "log.csv", "user_id,item_id,timestamp\n" + body)
    (file,) = resolve(str(path), None, COLUMNS, tmp_path).files
    found = scan(file, range_bytes)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.bytes == path.stat().st_size
    assert len(found.ranges) > 3
    whole = read(path)
    assert whole.height == 100
    assert whole["problem"].null_count() == 100
    assert whole["line"][0] == 2
    assert read(path, range_bytes).equals(whole)


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "who,what,when,stars\na,x,1,5\n")
    columns = ColumnsConfig(user_id="who", item_id="what", timestamp="when", rating="stars")
    assert read(path, columns=columns).select("user_id", "item_id", "timestamp", "rating").row(0) == (
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
    source = resolve(str(tmp_path), str(titles), COLUMNS, tmp_path)
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
        source = resolve(str(folder), None, COLUMNS, tmp_path)
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
        ({}, "s3://bucket/log", "local and mounted paths only"),
        ({}, "", "the folder holds no log file (found: nothing)"),
        ({"notes.txt": "x"}, "", "the folder holds no log file (found: notes.txt)"),
        ({"log.xlsx": "x"}, "log.xlsx", "unsupported extension '.xlsx'; supported: .csv"),
        ({"log.csv": ""}, "log.csv", "the log is empty"),
        (
            {"log.csv": "user_id,item,timestamp\n"},
            "log.csv",
            "no column 'item_id'; columns found: user_id, item, timestamp",
        ),
        ({"log.jsonl": '{"user_id": 1}\n'}, "log.jsonl", "no column 'item_id'; columns found: user_id;"),
        ({"log.jsonl": "user_id,item_id\n"}, "log.jsonl", "no JSON object in its first"),
        ({"log.parquet": "PAR1 not"}, "log.parquet", "not readable as parquet"),
        ({"log.csv.gz": "", "a.csv": CSV}, "", "not readable as csv"),
    ],
)
def test_bad_sources_are_one_clear_line(tmp_path: Path, files: dict[str, str], source: str, message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode() or (b"\x1f\x8bbroken" if name.endswith(".gz") else b""))
    path = source if "://" in source else str(tmp_path / source)
    with pytest.raises(InputError) as caught:
        resolve(path, None, COLUMNS, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_explicit_optional_column_must_exist(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", CSV)
    with pytest.raises(InputError, match=r"no column 'stars'.*--data.columns.rating"):
        resolve(str(path), None, ColumnsConfig(rating="stars"), tmp_path)


def test_bad_titles_are_one_clear_line(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", CSV)
    with pytest.raises(InputError, match="no such file"):
        resolve(str(log), str(tmp_path / "none.csv"), COLUMNS, tmp_path)
    with pytest.raises(InputError, match="columns found: item_id, name"):
        read_titles(write(tmp_path / "items.csv", "item_id,name\n1,A\n"))
    with pytest.raises(InputError, match=r"unsupported extension '.xml'"):
        read_titles(write(tmp_path / "items.xml", "x"))


def test_a_failed_download_tells_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: No matching distribution found\n")
    monkeypatch.setattr(sources.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(InputError, match=r"No matching distribution.*--data.source PATH"):
        resolve(MOVIELENS_100K, None, COLUMNS, tmp_path)
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
    monkeypatch.setattr(sources, "MOVIELENS_FILES", digests)
    monkeypatch.setattr(sources.subprocess, "run", lambda *args, **kwargs: pytest.fail("downloaded"))
    assert resolve(MOVIELENS_100K, None, COLUMNS, tmp_path).files[0].name == "ml-100k.inter"


def test_json_keys_may_come_late(tmp_path: Path) -> None:
    rows = [
        {"user_id": "a", "item_id": "x", "timestamp": 1},
        {"user_id": "a", "item_id": "x", "timestamp": 2, "rating": 3},
    ]
    path = write(tmp_path / "log.jsonl", "\n".join(json.dumps(row) for row in rows))
    assert read(path)["rating"].to_list() == [None, "3"]

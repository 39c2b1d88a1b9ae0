"""pipelines.ingest.source.log_files: formats by name or by option, compressed streams, and read errors."""

import bz2
import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mgray.config import ColumnsConfig, DataConfig
from mgray.errors import InputError
from pipelines.ingest.source.layouts import read_layout
from pipelines.ingest.source.log_files import LogFile, log_format, open_stream, read_error
from pipelines.ingest.source.ranges import inspect_file
from pipelines.ingest.source.readers import read_range
from pipelines.ingest.source.resolve import resolve
from tests.log_layouts import layout_of, read, write
from tests.log_rows import WHOLE, Rows, as_rows
from tests.log_sources import compress, find, only

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

"""pipelines.ingest.source.filesystems on s3:// (a real S3 protocol server on loopback) and gs:// (a few answers of its
JSON API).
"""

import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from pyarrow import fs

from mgray.config import ColumnsConfig, DataConfig
from mgray.errors import InputError
from pipelines.ingest.source.digests import digest_log, sort_files
from pipelines.ingest.source.filesystems import connect, open_random, parse_uri
from pipelines.ingest.source.layouts import read_layout
from pipelines.ingest.source.log_files import open_stream
from pipelines.ingest.source.resolve import Source, resolve
from pipelines.ingest.source.titles import read_titles
from tests import google_storage, s3_storage

CSV = b"user_id,item_id,timestamp\na,x,1\nb,y,2\n"
COLUMNS = ColumnsConfig()
ZST = pa.Codec("zstd").compress(CSV, asbytes=True)
OBJECTS = {
    "logs/a.csv": CSV,
    "logs/2024/b c#%20?.csv": CSV + b"c,z,3\n",
    "logs/2024/*.tsv": CSV.replace(b",", b"\t"),
    "logs/2024/other.tsv": CSV.replace(b",", b"\t"),
    "logs/2025/ü.csv.zst": ZST + ZST,
    "logs/2025/_tmp/c.csv": CSV,
    "logs/2025/.hidden.csv": CSV,
    "logs/2025/README.md": b"no log",
    "logs/empty.csv": b"",
    "ml/ratings.csv": b"userId,movieId,rating,timestamp\n1,2,3.5,4\n",
    "ml/movies.csv": b"movieId,title,genres\n2,Heat (1995),Crime\n",
    "log_and_titles/a.csv": CSV,
    "log_and_titles/titles.csv": b"item_id,title\nx,X\n",
    "ml/tags.csv": b"userId,movieId,tag,timestamp\n1,2,x,4\n",
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_storage.serve("bucket", OBJECTS) as url:
        yield url


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment that an S3 user sets."""
    _set_keys(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return endpoint


def _set_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_storage.KEYS.items():
        monkeypatch.setenv(name, value)


def find(*sources: str, home: Path = Path("/nowhere"), items: str | None = None) -> Source:
    return resolve(DataConfig(source=sources[0] if len(sources) == 1 else sources, items=items), home)


def names(*sources: str) -> list[str]:
    return [file.name for file in find(*sources).files]


def test_a_folder_of_s3(s3: str) -> None:
    files = find("s3://bucket/logs/").files
    expected = ["2024/*.tsv", "2024/b c#%20?.csv", "2024/other.tsv", "2025/ü.csv.zst", "a.csv"]
    assert [file.name for file in files] == expected
    assert [file.path for file in files] == [f"s3://bucket/logs/{name}" for name in expected]
    assert [file.bytes for file in files] == [len(OBJECTS[f"logs/{name}"]) for name in expected]
    assert names("s3://bucket/logs") == expected


def test_globs_and_lists_of_s3(s3: str, tmp_path: Path) -> None:
    assert names("s3://bucket/logs/*.csv") == ["a.csv"]
    assert names("s3://bucket/logs/202[45]/*.csv*") == ["2024/b c#%20?.csv", "2025/ü.csv.zst"]
    assert names("s3://bucket/logs/**/*.csv") == ["2024/b c#%20?.csv", "a.csv"]
    assert names("s3://bucket/logs/202?") == ["2024/*.tsv", "2024/b c#%20?.csv", "2024/other.tsv", "2025/ü.csv.zst"]
    assert names("s3://bucket/logs/2024/*.tsv") == ["*.tsv"], "what exists by that name is no glob"
    assert names("s3://bucket/logs/a.csv", "s3://bucket/logs/2025", "s3://bucket/logs/*.csv") == [
        "2025/ü.csv.zst",
        "a.csv",
    ]
    (tmp_path / "local.csv").write_bytes(CSV)
    local = str(tmp_path / "local.csv")
    assert names("s3://bucket/logs/a.csv", local) == [f"file{local}", "s3/bucket/logs/a.csv"]


def test_layouts_bytes_and_streams_of_s3(s3: str) -> None:
    for file in find("s3://bucket/logs").files:
        data = OBJECTS[f"logs/{file.name}"]
        copy = pickle.loads(pickle.dumps(file))  # as Ray sends it to a task
        layout = read_layout(copy, COLUMNS)
        assert (layout.header, layout.data_start) == (["user_id", "item_id", "timestamp"], CSV.index(b"\n") + 1)
        with open_random(copy.path) as raw:
            assert raw.size() == len(data)
            assert raw.read_at(5, 7) == data[7:12]
            raw.seek(10)
            assert raw.read() == data[10:]
        with open_stream(copy) as stream:
            text = b"".join(iter(lambda stream=stream: stream.read(7), b""))
        assert text == (CSV + CSV if copy.compression else data)


def test_parquet_of_s3(s3: str, endpoint: str) -> None:
    table = pl.DataFrame({"user_id": ["a"], "item_id": ["x"], "timestamp": [1], "price": [2.5]})
    filesystem = fs.S3FileSystem(access_key="key", secret_key="secret", endpoint_override=endpoint)
    with filesystem.open_output_stream("bucket/parquet/log.parquet") as out:
        table.write_parquet(out)
    (file,) = find("s3://bucket/parquet").files
    assert read_layout(file, ColumnsConfig(features=("price",))).columns["feature:price"] == "price"


def test_options_in_the_uri_stay_with_each_file(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _set_keys(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the URI's own wins
    host = endpoint.removeprefix("http://")
    for options in (f"endpoint_override={host}&scheme=http", f"endpoint_override={endpoint}&region=eu-west-1"):
        for file in find(f"s3://bucket/logs/?{options}").files:
            assert file.path.endswith(f"?{options}")
            assert read_layout(file, COLUMNS).first_line == 2
        assert names(f"s3://bucket/logs/202?/*.csv?{options}") == ["2024/b c#%20?.csv"]


def test_titles_of_s3_are_copied(s3: str, tmp_path: Path) -> None:
    source = find("s3://bucket/ml", home=tmp_path)
    assert [file.name for file in source.files] == ["ratings.csv"]
    assert source.titles_file is not None
    assert source.titles_file.is_relative_to(tmp_path / "raw")
    assert read_titles(source.titles_file).rows() == [("2", "Heat (1995)")]
    given = find("s3://bucket/ml/ratings.csv", home=tmp_path, items="s3://bucket/ml/movies.csv").titles_file
    assert given == source.titles_file
    log = find("s3://bucket/log_and_titles", home=tmp_path, items="s3://bucket/log_and_titles/titles.csv")
    assert [file.name for file in log.files] == ["a.csv"]
    with pytest.raises(InputError, match=r"--data.items s3://bucket/ml/none.csv: cannot be copied"):
        find("s3://bucket/ml/ratings.csv", home=tmp_path, items="s3://bucket/ml/none.csv")


def test_new_files_of_s3(s3: str, tmp_path: Path) -> None:
    found = sort_files(digest_log(DataConfig(source="s3://bucket/logs/202?/*.csv*"), tmp_path), None)
    assert found.new == ["2024/b c#%20?.csv", "2025/ü.csv.zst"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://nowhere/logs", "NO_SUCH_BUCKET"),
        ("s3://nowhere/logs/*.csv", "NO_SUCH_BUCKET"),
        ("s3://bucket/nowhere", "no such file or folder"),
        ("s3://bucket/logs/*.jsonl", "no file matches"),
        ("s3://bucket/logs/2025/README.md", "unsupported extension '.md'"),
        ("s3://bucket/logs/empty.csv", "the log is empty"),
        ("s3:///logs", "no bucket"),
        ("s3://bucket/logs?scheme=gopher", "cannot be listed"),
        ("s3://bucket/logs?endpoint_override=http://127.0.0.1:9", "cannot be listed"),
        ("hdfs://host/logs", "hdfs:// is not supported"),
    ],
)
def test_bad_remote_sources_are_one_clear_line(s3: str, source: str, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        find(source)
    assert time.perf_counter() - start < 20
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_silent_endpoint_is_given_up(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.ingest.source.filesystems.SILENCE_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=r"cannot be listed.*check the name, the endpoint"):
            find(f"s3://bucket/logs?endpoint_override=http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "source",
    [
        "s3://alice:hunter2@bucket/logs",
        "s3://alice:hun/ter2@bucket/logs",
        "s3://alice@bucket/logs",
        "s3://bucket/logs?endpoint_override=http://alice:hunter2@127.0.0.1:9",
        "gs://alice:hunter2@bucket/logs",
    ],
)
def test_secrets_in_a_uri_are_refused_and_not_shown(source: str) -> None:
    with pytest.raises(InputError, match="a URI with credentials") as caught:
        find(source)
    assert not any(part in str(caught.value) for part in ("alice", "hun", "ter2"))


@pytest.fixture(scope="module")
def google_port() -> Iterator[int]:
    with subprocess.Popen([sys.executable, google_storage.__file__], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


def test_a_folder_of_gs(google_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"gs://anonymous@bucket/logs?endpoint_override=127.0.0.1:{google_port}&scheme=http"
    assert names(uri) == ["a.csv"]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{google_port}")
    remote = parse_uri("gs://bucket/logs")
    assert remote is not None
    assert isinstance(connect(remote), fs.GcsFileSystem)
    (file,) = find("gs://bucket/logs").files
    assert file == ("gs://bucket/logs/a.csv", "a.csv", len(CSV), "csv", None)
    assert names("gs://bucket/*/*.csv") == ["logs/a.csv"]
    assert read_layout(file, COLUMNS).first_line == 2
    with open_random(file.path) as raw:
        assert raw.size() == len(CSV)
        assert raw.read_at(5, 7) == CSV[7:12]
    with open_stream(file) as stream:
        assert stream.read() == google_storage.CONTENT


def test_a_dead_endpoint_of_gs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.ingest.source.filesystems.RETRY_LIMIT_S", 1)
    with pytest.raises(InputError, match=r"cannot be listed.*GOOGLE_APPLICATION_CREDENTIALS"):
        find("gs://anonymous@bucket/logs?endpoint_override=127.0.0.1:9&scheme=http")

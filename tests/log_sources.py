"""Logs as `--data.source` names them: written (compressed where the name says so), found, and split into text rows."""

import gzip
from pathlib import Path

import polars as pl
import pyarrow as pa

from mgray.config import ColumnsConfig, DataConfig
from pipelines.ingest.source.layouts import read_layout
from pipelines.ingest.source.log_files import SEPARATORS, LogFile, open_stream
from pipelines.ingest.source.resolve import Source, resolve
from pipelines.ingest.source.rows import json_columns, separated_columns, split_rows

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

"""Logs written to a path as they are given, found, and read by the layout that they turn out to have."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mgray.config import ColumnsConfig
from pipelines.ingest.source.layouts import Layout, read_layout
from pipelines.ingest.source.log_files import LogFile
from pipelines.ingest.source.ranges import inspect_file
from pipelines.ingest.source.readers import read_range
from tests.log_rows import WHOLE, Rows, as_rows
from tests.log_sources import only


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


def write_parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path

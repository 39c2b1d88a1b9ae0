"""Rows of a log as a reader gives them, as Python values; and log files made of bytes."""

from pathlib import Path
from typing import Any, NamedTuple

from mgray.config import ColumnsConfig
from pipelines.ingest.source.blocks import Block
from pipelines.ingest.source.layouts import Layout, read_layout
from pipelines.ingest.source.log_files import Compression, Format, LogFile
from pipelines.ingest.source.ranges import inspect_file
from pipelines.ingest.source.readers import read_range

PLAIN = ("user_id", "item_id", "timestamp")
WHOLE = 1 << 40


class Rows(NamedTuple):
    """A log as a reader gives it, as Python values."""

    good: list[tuple]  # user_id, item_id, timestamp, rating, event_type, features
    bad: list[tuple]  # line, reason, raw


def as_rows(blocks: list[Block]) -> Rows:
    good: list[tuple] = []
    bad: list[tuple] = []
    for block in blocks:
        names = ["user_id", "item_id", "timestamp", "rating", "event_type"]
        names += sorted(name for name in block.events.column_names if name.startswith("feature:"))
        missing = [None] * block.events.num_rows
        found = [
            block.events[name].to_pylist() if name in block.events.column_names else missing for name in names
        ]  # a path may leave out a column that is null, and may leave a blank event type as it is: staging knows none
        found[4] = [kind if kind is not None and kind.strip() not in ("", "NULL", r"\N") else None for kind in found[4]]
        good += zip(*found, strict=True)
        bad += block.bad.select("line", "reason", "raw").rows() if block.bad is not None else []
    return Rows(good, bad)


def log_at(path: Path, kind: Format, data: bytes, compression: Compression | None = None) -> LogFile:
    path.write_bytes(data)
    return LogFile(str(path), path.name, len(data), kind, compression)


def read(file: LogFile, layout: Layout, range_bytes: int = WHOLE, block_bytes: int = 1 << 20, unit: str = "s") -> Rows:
    parts = inspect_file(file, layout, range_bytes).ranges
    return as_rows([block for part in parts for block in read_range(file, layout, part, unit, block_bytes)])


def read_csv(path: Path, data: bytes, range_bytes: int = WHOLE, **columns: Any) -> Rows:
    file = log_at(path, "csv", data)
    return read(file, read_layout(file, ColumnsConfig(**columns)), range_bytes)


HEAD = b"user_id,item_id,timestamp\n"

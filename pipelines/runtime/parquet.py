"""Writes a table as Parquet: on disk for good, and known by the digest of its bytes, before anything names it."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.runtime.versions import draft_path


class WrittenDraft(NamedTuple):
    """A file under a name of its own, which the caller renames."""

    path: Path
    bytes: int
    sha256: str


def write_parquet(table: pa.Table, folder: Path, name: str, row_group_rows: int, **options: Any) -> WrittenDraft:
    """Writes a draft file `.NAME.RANDOM`, which is on disk for good when this returns. options: of pq.write_table."""
    draft = draft_path(folder / name)
    # our own write of one table: row order is certain, and the same rows give the same bytes
    pq.write_table(table, draft, compression="zstd", row_group_size=row_group_rows, **options)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return WrittenDraft(draft, draft.stat().st_size, sha256)

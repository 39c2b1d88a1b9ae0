"""Files that the tasks of an ingest leave for one another: written under a draft name, read by memory map."""

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.runtime.versions import draft_path

MAX_OPEN_FILES = 64


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Writes an Arrow file under a draft name, then renames it: a task that runs again overwrites its own work."""
    draft = draft_path(path)
    with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    os.replace(draft, path)


def read_batch(path: Path, number: int) -> pa.RecordBatch:
    """A memory map of one batch of a file: its pages are read as they are touched."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).get_batch(number)


def read_batch_again(path: Path, number: int) -> pa.RecordBatch:
    """`read_batch` for a file of which the process reads many batches: the file's list of batches is read once."""
    status = path.stat()
    return _open_batches(str(path), status.st_ino, status.st_mtime_ns).get_batch(number)


@lru_cache(MAX_OPEN_FILES)
def _open_batches(path: str, inode: int, time_ns: int) -> pa.ipc.RecordBatchFileReader:
    """inode, time_ns: part of the cache's key, so that a file put in the place of another is opened anew."""
    return pa.ipc.open_file(pa.memory_map(path))


def read_table(path: Path) -> pa.Table:
    """A memory map of a whole Arrow file."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def save_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Writes a .npy file under a draft name, then renames it."""
    draft = draft_path(path)
    with draft.open("wb") as file:
        np.save(file, values)
    os.replace(draft, path)

"""Tasks over the log: inspecting its files, reading its units, sorting the times of staged pieces."""

import shutil
import socket
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from mgray.config import ColumnsConfig
from mgray.errors import InputError
from pipelines.ingest.arrow_files import read_table, write_batches
from pipelines.ingest.context import FileRange, IngestContext
from pipelines.ingest.results import InspectedFile, InspectedFiles, Nothing, StagedUnit
from pipelines.ingest.source.blocks import Block
from pipelines.ingest.source.layouts import layout_error, read_layout
from pipelines.ingest.source.log_files import READ_ERRORS, LogFile, read_error
from pipelines.ingest.source.ranges import inspect_file
from pipelines.ingest.source.readers import read_range
from pipelines.ingest.staging import PieceWriter, commit_unit, read_done
from pipelines.runtime.versions import draft_path

BLOCK_BYTES = 32 << 20  # of decompressed text that a task holds at a time

_SHARED = "logs and --data.out must be on storage that every node sees under the same path"


def inspect_files(files: tuple[LogFile, ...], columns: ColumnsConfig, range_bytes: int) -> InspectedFiles:
    """Finds the layout, digest, size and ranges of each file."""
    found = []
    for file in files:
        layout = read_layout(file, columns)
        try:
            one = inspect_file(file, layout, range_bytes)
        except READ_ERRORS as error:
            raise layout_error(file, error) from error
        found.append(InspectedFile(one.bytes, one.sha256, layout, one.ranges))
    return InspectedFiles(found)


def read_unit(context: IngestContext, index: int) -> StagedUnit:
    """Parses one unit and stages its events, unless that was done before."""
    unit = context.units[index]
    check_shared(context)
    folder = context.staged / unit.key
    found = read_done(folder)
    if found is not None:
        return found
    assert unit.ranges, f"{unit.key}: the staged events of an append are there, or it was refused"
    draft = draft_path(folder)
    draft.mkdir(parents=True)
    try:
        writer = PieceWriter(draft, context.layers)
        for one in unit.ranges:
            for block in _blocks(context, one):
                writer.add(block, one.file.name)
        done = writer.close()
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return commit_unit(draft, folder, done)


def _blocks(context: IngestContext, one: FileRange) -> Iterator[Block]:
    """`read_range`, whose errors are the log's: those of staging are the output place's."""
    blocks = read_range(one.file, one.layout, one.extent, context.time_unit, BLOCK_BYTES)
    while True:
        try:
            block = next(blocks, None)
        except READ_ERRORS as error:
            raise read_error(one.file, error, "cannot be read") from error
        if block is None:
            return
        yield block


def sort_times(context: IngestContext, index: int) -> Nothing:
    """Stages the sorted times of a piece's events, for the quantiles of a temporal split."""
    times = np.sort(read_table(context.piece_file("rows", context.pieces[index]))["time"].to_numpy())
    batch = pa.record_batch({"time": times})
    write_batches(context.work_file("times", index), batch.schema, [batch])
    return Nothing()


def check_shared(context: IngestContext) -> None:
    """Raises InputError where this node does not see the output place."""
    if not context.folder.is_dir():
        raise InputError(f"{context.folder.parent}: not seen by node {socket.gethostname()}; {_SHARED}")

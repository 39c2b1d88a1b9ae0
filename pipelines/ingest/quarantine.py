"""Quarantine: rows of the log that cannot be read, how many of them are allowed, and their file."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mgray.errors import InputError
from mgray.schema import QUARANTINE_SCHEMA
from pipelines.ingest.arrow_files import read_table
from pipelines.ingest.results import BadRow

QUARANTINE_FILE = "quarantine/part-0.parquet"


def check_quarantine(num_bad: int, num_read: int, first: BadRow, max_share: float) -> None:
    """Raises InputError where more rows cannot be read than `max_share` of all allows."""
    if num_bad > max_share * num_read:
        encoding = "name the log's encoding, such as --data.columns.encoding latin-1, or " * ("UTF-8" in first.reason)
        raise InputError(
            f"{num_bad} of {num_read} rows cannot be read, more than data.max_quarantined_share allows ({max_share}); "
            f"the first: {first.file}, line {first.line}: {first.reason}; {encoding}mend the row, "
            "or set them aside with --data.max_quarantined_share SHARE"
        )


def write_quarantine(pieces: list[Path], path: Path) -> None:
    """Writes the bad rows of units, in the order of the log, as one Parquet file."""
    path.parent.mkdir(exist_ok=True)
    with pq.ParquetWriter(path, QUARANTINE_SCHEMA, compression="zstd") as writer:
        for piece in pieces:
            for batch in read_table(piece).to_batches():
                writer.write_batch(batch)


def first_quarantined(path: Path) -> BadRow:
    """The first row of a quarantine file."""
    with pq.ParquetFile(path) as file:
        batch: pa.RecordBatch = next(file.iter_batches(batch_size=1))
    return BadRow(**batch.to_pylist()[0])

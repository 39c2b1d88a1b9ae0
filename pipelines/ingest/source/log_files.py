"""A file of a log: what its name tells of its format, how it is opened, and what to mend where it cannot be read."""

import gzip
import re
import socket
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa

from mgray.errors import InputError
from pipelines.ingest.source.filesystems import CREDENTIALS, open_random, parse_uri

Format = Literal["csv", "tsv", "jsonl", "parquet", "inter", "u.data", "dat", "text"]
Compression = Literal["gzip", "zstd", "bz2"]
EXTENSIONS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".inter": "inter",
    ".dat": "dat",
    ".txt": "text",
    ".data": "text",
}
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}
# by format; that of "text" is given or guessed
SEPARATORS = {"csv": ",", "tsv": "\t", "inter": "\t", "u.data": "\t", "dat": "::"}
STREAM_CHUNK_BYTES = 4 << 20
# What reading broken bytes raises; pyarrow takes some damage for a column type that it does not know.
READ_ERRORS = (
    OSError,
    EOFError,
    UnicodeDecodeError,
    zlib.error,
    gzip.BadGzipFile,
    pa.ArrowInvalid,
    pa.ArrowNotImplementedError,
)
# Tells failed requests to S3 or GCS from broken bytes: Arrow's errors of both have no errno.
REQUEST_ERRORS = re.compile("AWS Error|google::cloud")


class LogFile(NamedTuple):
    """A file of the log, as it was listed."""

    path: str  # absolute; or s3://bucket/key, gs://bucket/key, with the options of data.source
    name: str  # relative to the source's folder, with /: the same on every machine
    bytes: int  # as stored, at least 1
    format: Format
    compression: Compression | None  # never of Parquet, which compresses within


def log_format(path: str | Path, given: Format | None = None) -> Format | None:
    """The format of a file: the one given, else what its name tells, or None."""
    plain, compression = split_compression(Path(path).name)
    found = "u.data" if plain == "u.data" else EXTENSIONS.get(Path(plain).suffix.lower())
    found = given or found
    return None if found == "parquet" and compression else found


def split_compression(name: str) -> tuple[str, Compression | None]:
    plain, dot, suffix = name.rpartition(".")
    compression = COMPRESSIONS.get((dot + suffix).lower())
    return (plain, compression) if compression else (name, None)


def open_stream(file: LogFile, chunk_bytes: int = STREAM_CHUNK_BYTES) -> pa.NativeFile:
    """Opens a file's decompressed bytes in order, through every gzip member and zstd frame.

    Raises OSError here or on reading: bytes that are cut off or broken.
    """
    # from S3 and GCS each read is a request
    raw = pa.BufferedInputStream(open_random(file.path), chunk_bytes)
    return raw if file.compression is None else pa.CompressedInputStream(raw, file.compression)


def read_error(file: LogFile, error: Exception, problem: str) -> InputError:
    """Makes the error of a file that cannot be read: its bytes have the `problem`, or this node does not reach them."""
    if not isinstance(error, OSError) or (error.errno is None and not REQUEST_ERRORS.search(str(error))):
        return InputError(f"{file.path}: {problem} ({error}); mend or remove the file")
    remote = parse_uri(file.path)
    storage = (
        "the log must be on storage that every node sees under the same path, and may read"
        if remote is None
        else f"every node needs the network and credentials ({CREDENTIALS[remote.scheme]}) to read the log"
    )
    return InputError(f"{file.path}: cannot be read on {socket.gethostname()} ({error}); {storage}")

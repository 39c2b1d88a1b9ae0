"""Which files of the log are new: known by their bytes, whatever they are called."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mgray.config import DataConfig
from mgray.manifest import Manifest, SourceFile
from pipelines.sources import LogFile, open_random, read_error, resolve

HASHING_THREADS = 4
CHUNK_BYTES = 4 << 20


class Files(NamedTuple):
    """The log's files by what the champion's dataset says of them."""

    new: list[str]
    known: list[str]
    missing: list[str]  # in the champion's dataset, no longer in the log

    def summary(self) -> dict[str, Any]:
        return {"new": self.new, "known": len(self.known), "missing": self.missing}


def sort_files(config: DataConfig, home: Path, manifest: Manifest | None) -> Files:
    """Which files of data.source the champion's dataset was not made from. Raises InputError as ingest does."""
    source = resolve(config, home)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        digests = list(pool.map(_sha256, source.files))
    past = {record.sha256: record.path for record in log_records(manifest)} if manifest else {}
    names = [file.name for file in source.files]
    new = [name for name, sha in zip(names, digests, strict=True) if sha not in past]
    missing = sorted(name for sha, name in past.items() if sha not in digests)
    return Files(new, [name for name in names if name not in new], missing)


def log_records(manifest: Manifest) -> list[SourceFile]:
    """What a version's log was made of: its sources but the titles, which come last and may be named like a log."""
    return manifest.sources[:-1] if manifest.config.get("titles") is not None else manifest.sources


def _sha256(file: LogFile) -> str:
    digest = hashlib.sha256()
    try:
        with open_random(file.path) as raw:
            while chunk := raw.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise read_error(file, error, "cannot be read") from error
    return digest.hexdigest()

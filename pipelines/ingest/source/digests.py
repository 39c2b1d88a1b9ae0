"""Digests of a log's files, and which files are new by them, whatever they are called."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mgray.config import DataConfig
from mgray.data.manifest import Manifest, SourceFile
from pipelines.ingest.source.filesystems import open_random
from pipelines.ingest.source.log_files import LogFile, read_error
from pipelines.ingest.source.resolve import Source, resolve

HASHING_THREADS = 4
CHUNK_BYTES = 4 << 20


class Log(NamedTuple):
    """A log as it was found: a caller that digested it hands it on to ingest, which need not look again."""

    source: Source
    sha256: tuple[str, ...]  # of each of the source's files


class Files(NamedTuple):
    """Names of the log's files, sorted by whether the champion's dataset was made from them."""

    new: list[str]
    known: list[str]
    missing: list[str]  # in the champion's dataset, no longer in the log

    def summary(self) -> dict[str, Any]:
        return {"new": self.new, "known": len(self.known), "missing": self.missing}


def digest_log(config: DataConfig, home: Path) -> Log:
    """Finds the files of data.source and reads each. Raises InputError as ingest does."""
    source = resolve(config, home)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return Log(source, tuple(pool.map(_sha256, source.files)))


def sort_files(log: Log, manifest: Manifest | None) -> Files:
    """Tells new files of the log from those that the champion's dataset (manifest) was made from."""
    past = {file.sha256: file.path for file in log_sources(manifest)} if manifest else {}
    found = [(file.name, sha256) for file, sha256 in zip(log.source.files, log.sha256, strict=True)]
    new = [name for name, sha256 in found if sha256 not in past]
    known = [name for name, sha256 in found if sha256 in past]
    return Files(new, known, sorted(past[sha256] for sha256 in past.keys() - set(log.sha256)))


def log_sources(manifest: Manifest) -> list[SourceFile]:
    """The sources of a version but the titles, which come last and may be named like a log."""
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

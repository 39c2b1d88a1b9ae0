"""Which files of the log are new: known by their bytes, whatever they are called."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mgray.config import DataConfig
from mgray.manifest import Manifest, file_sha256
from pipelines.sources import resolve

HASHING_THREADS = 4


class Files(NamedTuple):
    """The log's files by what the champion's dataset says of them."""

    new: list[str]
    known: list[str]
    missing: list[str]  # in the champion's dataset, no longer in the log

    def summary(self) -> dict[str, Any]:
        return {"new": self.new, "known": len(self.known), "missing": self.missing}


def sort_files(config: DataConfig, home: Path, manifest: Manifest | None) -> Files:
    """Which files of data.source the champion's dataset was not made from. Raises InputError as ingest does."""
    source = resolve(config.source, config.items, config.columns, home)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        digests = list(pool.map(file_sha256, (file.path for file in source.files)))
    past = {record.sha256: record.path for record in manifest.sources} if manifest else {}
    if source.titles_file is not None:
        past.pop(file_sha256(source.titles_file), None)
    names = [file.name for file in source.files]
    new = [name for name, sha in zip(names, digests, strict=True) if sha not in past]
    missing = sorted(name for sha, name in past.items() if sha not in digests)
    return Files(new, [name for name in names if name not in new], missing)

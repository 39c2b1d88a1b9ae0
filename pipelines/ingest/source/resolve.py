"""Resolves `data.source` and `data.items`: the log's files with their formats, and the file of titles."""

import fnmatch
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mgray.config import MOVIELENS_100K, DataConfig
from mgray.data.manifest import short_key
from mgray.errors import InputError, first_few
from pipelines.ingest.source.filesystems import Found, Listing, list_files, open_random, parse_uri
from pipelines.ingest.source.log_files import Format, LogFile, log_format, split_compression
from pipelines.ingest.source.presets import fetch_movielens, known_preset

# in a folder or a glob, read only where no other name is a log's: notes and settings have such names too
DOUBTFUL: tuple[str, ...] = (".txt", ".data", ".json")
SUPPORTED = (
    ".csv, .tsv, .txt, .dat, .data, .jsonl, .ndjson, .json, .inter (each also .gz, .zst, .bz2), .parquet, .pq; others "
    "with --data.columns.format"
)

LEFT_OUT_SHOWN = 5

# names (in lower case) in a folder of logs that nobody would take for a log: no warning for these
NO_LOGS = ("readme*", "license*", "*.md5", "*.sha1", "*.sha256", "*.crc", "md5sums*", "sha*sums*", "checksums*")

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """Files that `data.source` and `data.items` name."""

    files: tuple[LogFile, ...]  # sorted by name: the order of the log
    titles_file: Path | None


def resolve(config: DataConfig, home: Path) -> Source:
    """Lists the log's files in order, and the file of titles. Opens no log file; warns of files that are left out.

    Names are relative to the folder given, or to the deepest folder that all paths of `data.source` have in common; of
    a glob, what stands before its first wildcard counts. A file met twice, by a link or an overlap, is listed once.
    Raises InputError: what is missing, where, how to mend it.
    """
    sources = _sources(config)
    if not sources:
        raise InputError(f"--data.source: an empty list; give a log's path, or {MOVIELENS_100K} for the sample")
    kind = config.columns.format

    def is_log(name: str) -> bool:
        return log_format(name, kind) is not None

    titles, real_titles = _given_titles(config.items, home) if config.items else (None, None)
    logs: list[Found] = []
    left_out: list[Found] = []
    bases: list[tuple[str, ...]] = []
    own_titles: dict[str, None] = {}
    for source in sources:
        listing = list_files(str(fetch_movielens(home)) if source == MOVIELENS_100K else source, is_log)
        found, others, own = _choose_logs(source, listing, real_titles, is_log)
        logs += found
        left_out += others
        bases.append(listing.base)
        own_titles |= dict.fromkeys([own] if own else [])
    if titles is None and len(own_titles) > 1:
        raise InputError(
            f"--data.source: {len(own_titles)} of its folders bring titles of their own; name one file by --data.items"
        )
    by_real: dict[str, Found] = {}
    for file in sorted(logs, key=lambda file: (file.linked, file.parts)):
        by_real.setdefault(file.real, file)
    # writers may leave empty files, without even a header
    filled = [file for file in by_real.values() if file.bytes]
    if not filled:
        raise InputError(f"--data.source {_shown(sources)}: the log is empty (no bytes); give a log with events")
    depth = _common_depth(bases)
    _tell_left_out(sources, sorted({file.real: "/".join(file.parts[depth:]) for file in left_out}.values()))
    files = (_log_file(file, "/".join(file.parts[depth:]), kind) for file in filled)
    if titles is None and own_titles:
        titles = _local_copy(next(iter(own_titles)), home)
    return Source(tuple(sorted(files, key=lambda file: file.name)), titles)


def check_apart(config: DataConfig, out: Path) -> None:
    """Raises InputError where versions would lie in a folder of the log: the next ingest would read them as events."""
    for source in _sources(config):
        if source == MOVIELENS_100K or parse_uri(source) is not None:
            continue
        folder = os.path.abspath(os.path.expanduser(source))
        if os.path.isdir(folder) and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(folder)):
            raise InputError(
                f"--data.out {out}: lies in --data.source {source}, so its files would be read as events; "
                "give a folder outside of it with --data.out (or --home)"
            )


def _sources(config: DataConfig) -> tuple[str, ...]:
    return (config.source,) if isinstance(config.source, str) else config.source


def _tell_left_out(sources: tuple[str, ...], names: list[str]) -> None:
    if names:
        logger.warning(
            "--data.source %s: %d left out, as the name is no log's: %s (read are %s)",
            _shown(sources),
            len(names),
            first_few(names, LEFT_OUT_SHOWN),
            SUPPORTED,
        )


def _common_depth(bases: list[tuple[str, ...]]) -> int:
    levels = enumerate(zip(*bases, strict=False))
    return next((depth for depth, parts in levels if len(set(parts)) > 1), min(map(len, bases)))


def _shown(sources: tuple[str, ...]) -> str:
    return sources[0] if len(sources) == 1 else f"({len(sources)} paths)"


def _given_titles(items: str, home: Path) -> tuple[Path, str]:
    """The file of titles as a local one, and its Found.real, by which it is known among the log's files."""
    remote = parse_uri(items)
    if remote is not None:
        return _local_copy(items, home), f"{remote.scheme}://{remote.key}"
    path = Path(items).expanduser()
    if not path.is_file():
        raise InputError(f"--data.items {items}: no such file; give a CSV, TSV or Parquet file with item_id and title")
    return path, os.path.realpath(path)


def _local_copy(path: str, home: Path) -> Path:
    """A file of titles as a local one: itself, or HOME/raw/titles/DIGEST/NAME with what s3:// or gs:// holds now."""
    remote = parse_uri(path)
    if remote is None:
        return Path(path)
    folder = home / "raw" / "titles" / short_key(hashlib.sha256(path.encode()).hexdigest())
    target = folder / remote.key.rsplit("/", 1)[-1]
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_random(path) as file:
            draft.write_bytes(file.read())
        os.replace(draft, target)
    except (OSError, ValueError) as error:
        raise InputError(f"--data.items {path}: cannot be copied to {folder} ({error}); mend that") from error
    return target


def _choose_logs(
    source: str, listing: Listing, titles: str | None, is_log: Callable[[str], bool]
) -> tuple[list[Found], list[Found], str | None]:
    """Sorts a listing's files -> (logs, files left out that deserve a warning, path of a known folder's titles).

    In a known folder (presets) its companions are no logs; whatever else is named like a log is one, as in any folder.
    """
    if listing.kind == "file":
        (file,) = listing.files
        if not is_log(file.parts[-1]):
            suffix = Path(file.parts[-1]).suffix
            raise InputError(f"--data.source {source}: unsupported extension {suffix!r}; supported: {SUPPORTED}")
        return [file], [], None
    top = {file.parts[-1]: file for file in listing.files if len(file.parts) == len(listing.base) + 1}
    preset = known_preset(set(top)) if listing.kind == "folder" else None
    logs: list[Found] = []
    left_out: list[Found] = []
    for file in listing.files:
        name = file.parts[-1]
        is_companion = preset is not None and file is top.get(name) and preset.is_companion(name)
        if file.real == titles or is_companion:
            continue
        if log_format(name) is not None and not _is_doubtful(name):
            logs.append(file)
        elif not any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in NO_LOGS):
            left_out.append(file)
    if not logs:
        logs = [file for file in left_out if is_log(file.parts[-1])]
        left_out = [file for file in left_out if not is_log(file.parts[-1])]
    if not logs:
        names = ", ".join(sorted(file.parts[-1] for file in listing.files)[:5]) or "nothing"
        where = "the folder holds no log file" if listing.kind == "folder" else "no log file matches"
        raise InputError(f"--data.source {source}: {where} (found: {names}); supported: {SUPPORTED}")
    own = top.get(preset.titles) if preset is not None else None
    return logs, left_out, own.path if own is not None else None


def _log_file(file: Found, name: str, given: Format | None) -> LogFile:
    try:
        file.path.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"--data.source: the name {file.path!a} is not valid UTF-8; rename the file") from error
    kind = log_format(file.parts[-1], given)
    assert kind is not None
    return LogFile(file.path, name, file.bytes, kind, split_compression(file.parts[-1])[1])


def _is_doubtful(name: str) -> bool:
    return log_format(name) != "u.data" and Path(split_compression(name)[0]).suffix.lower() in DOUBTFUL

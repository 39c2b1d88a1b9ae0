"""Finds out how a log file is laid out: where its rows begin, which column is which, how text is cut and encoded."""

import csv
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mgray.config import ColumnsConfig
from mgray.errors import InputError
from mgray.schema import ITEM_ID, OPTION_COLUMNS, USER_ID
from pipelines.ingest.source import dialects, nested
from pipelines.ingest.source.column_roles import are_histories, how_to_name, map_columns, role_name
from pipelines.ingest.source.dialects import BLANKS
from pipelines.ingest.source.filesystems import open_random
from pipelines.ingest.source.log_files import (
    READ_ERRORS,
    SEPARATORS,
    STREAM_CHUNK_BYTES,
    LogFile,
    open_stream,
    read_error,
)
from pipelines.ingest.source.text_heads import (
    HEADER_BYTES,
    JSON_ROWS_FOR_KEYS,
    LAYOUT_CHUNK_BYTES,
    choose_separator,
    first_lines,
    guess_note,
    header_line,
    is_one_array,
    json_keys,
    sample_lines,
)

TYPE_CHARS = 100  # of a column's type, in an error


class Layout(NamedTuple):
    """How a log file is laid out."""

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
    notes: tuple[str, ...] = ()  # what was guessed, for the user to read

    @property
    def is_wide(self) -> bool:
        return dialects.is_wide(self.encoding)

    def splits(self, file: LogFile) -> bool:
        """Whether the file's bytes can be cut at newlines as they are stored."""
        return not file.compression and not self.is_wide

    def has_quoting(self, file: LogFile) -> bool:
        """Whether the file is text with fields that may be quoted."""
        return file.format not in ("parquet", "jsonl") and self.dialect(file)[1]

    def dialect(self, file: LogFile) -> tuple[str, bool]:
        """(separator, whether fields may be quoted) of a text file that is not JSON Lines."""
        separator = self.separator or SEPARATORS[file.format]
        return separator, not self.is_histories and dialects.may_quote(file.format, separator)


def open_text(file: LogFile, encoding: str | None, chunk_bytes: int = STREAM_CHUNK_BYTES) -> pa.NativeFile:
    """Opens a text file: its decompressed bytes in order, converted to UTF-8 from a wide encoding."""
    stream = open_stream(file, chunk_bytes)
    return pa.transcoding_input_stream(stream, encoding, "utf-8") if dialects.is_wide(encoding) else stream


def read_layout(file: LogFile, columns: ColumnsConfig) -> Layout:
    """Finds the layout of a file from its first bytes (of Parquet, its last).

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
    """Makes the error of a file whose columns or ranges cannot be found; Parquet has both in its footer."""
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
    wanted, partitions = map_columns(file, names, columns)
    in_lists = {role: found[name][1] for role, name in wanted.items()}
    for role, name in wanted.items():
        kind = found[name][0]
        if nested.unreadable(kind):
            given = _shown_type(schema, name, kind)
            raise InputError(
                f"{file.path}: column {name!r} is of type {given}, of which no {role_name(role)} can be read; "
                f"{how_to_name(role)}"
            )
    is_histories = are_histories(file, columns, wanted, in_lists)
    return Layout(wanted, schema.names, 0, 1, is_histories=is_histories, partitions=partitions)


def _shown_type(schema: pa.Schema, name: str, kind: pa.DataType) -> str:
    text = str(schema.field(name).type if name in schema.names else kind)
    return text if len(text) <= TYPE_CHARS else text[:TYPE_CHARS] + "..."


def _text_layout(file: LogFile, columns: ColumnsConfig) -> Layout:
    num_lines = JSON_ROWS_FOR_KEYS if file.format == "jsonl" else 1
    with open_stream(file, LAYOUT_CHUNK_BYTES) as stream:
        first = first_lines(stream, num_lines)
    if not first:
        return _empty_layout(file, columns)
    encoding, notes = dialects.canonical_encoding(columns.encoding), []
    if columns.encoding is None:
        encoding = dialects.marked_encoding(first)
        notes = [f"read as {encoding}, as its byte order mark says"] if encoding else []
    if dialects.is_wide(encoding):
        with open_text(file, encoding, LAYOUT_CHUNK_BYTES) as stream:
            first = first_lines(stream, num_lines)
    stored = None if dialects.is_wide(encoding) else encoding  # of `first`
    head, newline, _ = first.partition(b"\n")
    if b"\0" in head:
        raise EOFError(
            f"its first line holds NUL bytes: it is not {encoding or 'UTF-8'} text, perhaps UTF-16: "
            "--data.columns.encoding utf-16"
        )
    if file.format == "jsonl":
        if is_one_array(dialects.transcode(first, stored)):
            raise InputError(
                f"{file.path}: one JSON array, and a log is JSON Lines, an object a line; write it so, as "
                "`jq -c '.[]' FILE > FILE.jsonl` does"
            )
        keys = json_keys(dialects.transcode(first, stored))
        wanted, partitions = map_columns(file, list(keys), columns)
        in_lists = {role: keys.get(name, False) for role, name in wanted.items()}
        is_histories = are_histories(file, columns, wanted, in_lists)
        return Layout(wanted, [], 0, 1, None, encoding, is_histories, partitions=partitions, notes=tuple(notes))
    if columns.rows == "histories":
        return _text_of_histories(file, dialects.transcode(first, stored), columns, encoding, notes)
    if not newline and len(first) >= HEADER_BYTES:
        raise EOFError(f"its first line is longer than {HEADER_BYTES} bytes")
    separator, note = choose_separator(file, dialects.transcode(first, stored), columns)
    if separator is None:
        raise InputError(
            f"{file.path}: what separates its columns is not clear from its first lines; give "
            "--data.columns.separator, and --data.columns.header where it has no header line (of lines of user, item, "
            "item, ...: --data.columns.rows histories)"
        )
    notes += [note] if note else []
    header, start, line = header_line(first, file.format, separator, columns.header, stored)
    wanted, partitions = map_columns(file, header, columns, separator)
    own = None if separator == SEPARATORS.get(file.format) else separator
    return Layout(wanted, header, start, line, own, encoding, partitions=partitions, notes=tuple(notes))


def _text_of_histories(
    file: LogFile, first: bytes, columns: ColumnsConfig, encoding: str | None, notes: list[str]
) -> Layout:
    """The layout of lines of user, item, item, ..."""
    optional = (column.role for column in OPTION_COLUMNS)
    given = [name for name in ("header", *optional, "features") if getattr(columns, name)]
    if given:
        raise InputError(
            f"{file.path}: data.columns.{given[0]}: a line of text of histories is a user and items, and nothing else; "
            "leave it out"
        )
    if columns.separator is not None:
        separator = dialects.given_separator(columns.separator)
    else:
        lines = sample_lines(first)
        fit = [one for one in dialects.SEPARATORS if any(len(row) > 1 for row in dialects.fields(lines, one, False))]
        fit = [one for one in fit if one != "\t" or BLANKS not in fit]  # a tab is a blank
        if len(fit) != 1:
            raise InputError(
                f"{file.path}: what separates a user and the items is not clear from its first lines; give "
                "--data.columns.separator"
            )
        (separator,) = fit
        notes = [*notes, guess_note(separator)]
    roles = {USER_ID: columns.user_id, ITEM_ID: columns.item_id}
    return Layout(roles, [], 0, 1, separator, encoding, True, has_times=False, notes=tuple(notes))


def _empty_layout(file: LogFile, columns: ColumnsConfig) -> Layout:
    """The layout of an empty compressed file, which Spark writes for a partition without rows: any columns will do."""
    optional: list[str | None] = [getattr(columns, column.role) for column in OPTION_COLUMNS]
    names = (columns.user_id, columns.item_id, columns.timestamp, *columns.features, *optional)
    header = list(dict.fromkeys(name for name in names if name is not None))
    return Layout(map_columns(file, header, columns)[0], header, 0, 1)

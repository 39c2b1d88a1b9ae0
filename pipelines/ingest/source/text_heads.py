"""First lines of a text file, and what they tell: its header, its separator, the keys of its JSON."""

import json

import pyarrow as pa

from mgray.config import ColumnsConfig
from mgray.errors import InputError
from pipelines.ingest.source import dialects
from pipelines.ingest.source.column_roles import lacking_roles
from pipelines.ingest.source.dialects import SAMPLE_LINES
from pipelines.ingest.source.log_files import SEPARATORS, Format, LogFile
from pipelines.ingest.source.presets import RATINGS_HEADER

HEADER_BYTES = 1 << 20
LAYOUT_CHUNK_BYTES = 64 << 10
JSON_ROWS_FOR_KEYS = 100


def first_lines(stream: pa.NativeFile, num_lines: int) -> bytes:
    """Reads the first lines, at most about HEADER_BYTES; the last one may be cut."""
    data = b""
    while data.count(b"\n") < num_lines and len(data) < HEADER_BYTES:
        chunk = stream.read(LAYOUT_CHUNK_BYTES)
        if not chunk:
            break
        data += chunk
    return data


def sample_lines(first: bytes) -> list[str]:
    """The first lines that are whole, as text."""
    lines = first.decode("utf-8-sig", "replace").split("\n")
    return [line for line in (lines[:-1] if len(lines) > 1 else lines) if line.strip()][:SAMPLE_LINES]


def header_line(
    first: bytes, kind: Format, separator: str, given: tuple[str, ...] | None, encoding: str | None
) -> tuple[list[str], int, int]:
    """Column names, bytes before the first row, its line number. encoding: of `first`."""
    line, newline, _ = first.partition(b"\n")
    if given is not None:
        return list(given), 0, 1
    if kind == "u.data" or (kind == "dat" and separator == SEPARATORS["dat"]):
        return list(RATINGS_HEADER), 0, 1
    text = line.decode(encoding or "utf-8-sig").rstrip("\r")
    names = next(iter(dialects.fields([text], separator, dialects.may_quote(kind, separator))), [])
    if kind == "inter":
        names = [name.split(":")[0] for name in names]
    return names, len(line) + len(newline), 2


def choose_separator(file: LogFile, first: bytes, columns: ColumnsConfig) -> tuple[str | None, str | None]:
    """Finds the separator of a text file -> (separator, note for the user on a guess); None: it is not clear.

    A format's own separator is the first choice, and stays where no other fits: its columns are then found missing.
    """
    own = SEPARATORS.get(file.format)
    if columns.separator is not None:
        return dialects.given_separator(columns.separator), None
    if file.format in ("inter", "u.data"):
        return own, None
    lines = sample_lines(first)

    def fits(row: list[str]) -> bool:
        if columns.header is not None:
            return len(row) == len(columns.header)
        return not lacking_roles(file, row, columns)

    def is_quoted(separator: str) -> bool:
        return dialects.may_quote(file.format, separator)

    head: list[list[str]] = []
    if own is not None:
        head = dialects.fields(lines[:1], own, is_quoted(own))
        is_ratings = file.format == "dat" and columns.header is None and own in "".join(lines[:1])
        if is_ratings or (head and fits(head[0])):
            return own, None
    others = [one for one in dialects.SEPARATORS if one != own and (file.format != "csv" or len(one) == 1)]
    even, uneven = dialects.guess(lines, others, is_quoted, fits)
    is_named = columns.header is None  # else only the number of fields is known, which is no reason to refuse a file
    if even is None and uneven is None and is_named and file.format != "dat" and not (head and len(head[0]) > 1):
        even, _ = dialects.guess(lines, others, is_quoted, lambda row: True)  # whose columns the error then lists
    if even is not None:
        return even, guess_note(even)
    if uneven is not None and is_named:
        raise InputError(
            f"{file.path}: its header is separated by {dialects.shown(uneven)}, and its first rows do not all have as "
            f"many fields; give --data.columns.separator '{uneven}' to read it so"
        )
    return own, None


def guess_note(separator: str) -> str:
    return f"read as separated by {dialects.shown(separator)} (--data.columns.separator would say otherwise)"


def is_one_array(first: bytes) -> bool:
    """Whether a file is [{...}, ...] over one or more lines, which JSON Lines is not."""
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"["):
        return False
    try:
        row = json.loads(text.split(b"\n", 1)[0])
    except ValueError:
        return True
    return bool(row) and isinstance(row[0], dict)


def json_keys(first: bytes) -> dict[str, bool]:
    """Lists the keys of the first rows, and dotted paths in their objects: key -> whether its first value is a list.

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
    """Lists dotted paths to the values within an object, or within the objects of a list."""
    if isinstance(value, list) and value and not in_list:
        return _json_paths(path, value[0], True)
    found: dict[str, bool] = {}
    for key, inner in value.items() if isinstance(value, dict) else ():
        is_list = in_list or isinstance(inner, list)
        found |= {f"{path}.{key}": is_list} | _json_paths(f"{path}.{key}", inner, in_list)
    return found

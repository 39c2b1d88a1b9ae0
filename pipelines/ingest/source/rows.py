"""Splits text into rows, and rows into columns of text; what breaks a rule has its line and its reason."""

import re

import numpy as np
import polars as pl
import pyarrow as pa

from mgray.ingest.spelling import positional
from mgray.schema import ITEM_ID, TIMESTAMP, USER_ID
from pipelines.ingest.source.dialects import BLANKS

TORN = "its quotes do not match"
IDS = (USER_ID, ITEM_ID)


def split_rows(data: bytes, first_line: int, quoted: bool, encoding: str = "UTF-8") -> pl.DataFrame:
    """Splits text into rows: `line`, `raw`, `problem` (null, or that its bytes are no UTF-8). Blank lines are left out.

    With `quoted`, a row goes on past newlines inside double quotes; its line is its first one. encoding: that of the
    log, for the error; `data` is UTF-8 by now, but for bytes that the encoding does not know.
    """
    array = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(array == ord("\n"))
    ends, lines = newlines, np.arange(len(newlines))
    if quoted and b'"' in data:
        outside = np.searchsorted(np.flatnonzero(array == ord('"')), newlines) % 2 == 0
        ends, lines = newlines[outside], lines[outside]
    lines = np.concatenate([[0], lines + 1]) + first_line
    offsets = np.concatenate([[0], ends + 1, [len(data)] if not len(ends) or ends[-1] + 1 < len(data) else []])
    offsets = offsets.astype(np.int64)
    try:
        data.decode()
        valid, kind = data, pa.large_string()
    except UnicodeDecodeError:
        valid, kind = data, pa.large_binary()
    text = pa.Array.from_buffers(kind, len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(valid)])
    column = pl.Series("raw", pl.from_arrow(text))
    problem = pl.repeat(None, len(column), dtype=pl.String, eager=True)
    if kind == pa.large_binary():
        decoded = _decode_lossy(data, offsets)
        problem = pl.select(
            pl.when(decoded.cast(pl.Binary) != column).then(pl.lit(f"the row is not valid {encoding}"))
        ).to_series()
        column = decoded
    rows = pl.DataFrame(
        {"line": lines[: len(column)], "raw": column.str.strip_chars_end("\r\n"), "problem": problem},
        schema_overrides={"line": pl.Int64},
    )
    # a TSV row of tabs alone is a row of empty fields, not a blank line
    return rows.filter(~pl.col("raw").str.contains("^ *$"))


def _decode_lossy(data: bytes, offsets: np.ndarray) -> pl.Series:
    """Decodes rows, with U+FFFD in place of what is no UTF-8. Newlines stay, and so does the number of rows."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    lossy = data.decode(errors="replace").encode()
    lossy_ends = np.flatnonzero(np.frombuffer(lossy, np.uint8) == ord("\n"))
    assert len(ends) == len(lossy_ends), "a newline is never part of a broken sequence"
    moved = np.concatenate([[0], lossy_ends + 1, [len(lossy)]])
    places = np.searchsorted(np.concatenate([[0], ends + 1]), offsets[:-1])
    starts = np.concatenate([moved[places], [len(lossy)]]).astype(np.int64)
    array = pa.Array.from_buffers(pa.large_string(), len(starts) - 1, [None, pa.py_buffer(starts), pa.py_buffer(lossy)])
    return pl.Series("raw", pl.from_arrow(array))


def split_fields(raw: pl.Series, separator: str) -> pl.Series:
    """Splits rows into lists of fields, without regard to quotes."""
    return raw.str.extract_all(r"[^ \t]+") if separator == BLANKS else raw.str.split(separator)


def separated_columns(
    rows: pl.DataFrame, separator: str, header: list[str], columns: dict[str, str], quoted: bool
) -> pl.DataFrame:
    """Splits rows into `line`, `raw`, `problem` and a column of text a role; header: the log's names in order."""
    raw = rows["raw"]
    fields = split_fields(raw, separator)
    problem = rows["problem"]
    if quoted:
        has_quotes = raw.str.contains('"', literal=True)
        if has_quotes.any():
            unquoted, wrong = _unquote(raw.filter(has_quotes), separator)
            places = has_quotes.arg_true()
            table = fields.to_frame("fields").with_row_index("row")
            fields = table.update(pl.DataFrame({"row": places, "fields": unquoted}), on="row")["fields"]
            problem = problem.scatter(places.filter(wrong), TORN)
    expected = len(header)
    wrong_number = pl.when(fields.list.len() != expected).then(
        pl.format("{} fields where the header names {}", fields.list.len(), pl.lit(expected))
    )
    found = {role: fields.list.get(header.index(name), null_on_oob=True).rename(role) for role, name in columns.items()}
    return rows.with_columns(pl.coalesce(problem, wrong_number).alias("problem"), *found.values())


def _unquote(raw: pl.Series, separator: str) -> tuple[pl.Series, pl.Series]:
    """Splits rows with quotes -> (lists of fields without the quotes, which rows break RFC 4180)."""
    led = separator + raw  # so that every field, the first one too, begins with a separator
    mark = re.escape(separator)
    parts = led.str.extract_all(f'{mark}(?:"(?:[^"]|"")*"|[^"{mark}]*)')
    wrong = parts.list.join("") != led
    field = pl.element().str.slice(1)
    plain = pl.when(field.str.starts_with('"')).then(
        field.str.slice(1, field.str.len_chars() - 2).str.replace_all('""', '"', literal=True)
    )
    return parts.list.eval(plain.otherwise(field)), wrong


def json_ids(frame: pl.DataFrame) -> list[pl.Series]:
    """Respells the ids of rows from JSON, by the rule of `json_columns`."""
    return [_whole(frame[role]) for role in IDS if role in frame.columns]


def _whole(ids: pl.Series) -> pl.Series:
    """Respells whole numbers without a fraction: a JSON path does not tell the number 12.0 from the text "12.0"."""
    return ids.str.replace(r"^(-?[0-9]+)\.0+$", "${1}")


def _json_path(keys: list[str]) -> str:
    quoted = (key.replace("\\", "\\\\").replace("'", "\\'") for key in keys)
    return "$" + "".join(f"['{key}']" for key in quoted)


def _without_exponents(ids: pl.Series) -> pl.Series:
    """Respells small numbers by the rule of ids: 1e-7 is 0.0000001."""
    small = ids.str.contains(r"^-?\d(\.\d+)?e-\d{1,3}$").fill_null(False)
    return ids.scatter(small.arg_true(), [positional(one) for one in ids.filter(small)]) if small.any() else ids


def json_columns(rows: pl.DataFrame, columns: dict[str, str]) -> pl.DataFrame:
    """Reads rows of JSON into `line`, `raw`, `problem` and a column of text a role."""
    raw = rows["raw"]
    found: dict[str, pl.Series] = {}
    for role, name in columns.items():
        value = raw.str.json_path_match(_json_path([name]))
        if "." in name:  # a key that has the dot itself comes first
            value = pl.select(pl.coalesce(value, raw.str.json_path_match(_json_path(name.split("."))))).to_series()
        value = value.rename(role)
        found[role] = _whole(_without_exponents(value)) if role in IDS else value
    frame = rows.with_columns(*found.values())
    needed = [role for role in (USER_ID, ITEM_ID, TIMESTAMP) if role in found]
    missing = frame.select(pl.any_horizontal(pl.col(needed).is_null())).to_series()
    no_object = pl.when(missing & ~raw.str.json_path_match("$").fill_null("").str.starts_with("{")).then(
        pl.lit("the row is not a JSON object")
    )
    ids = [role for role in (USER_ID, ITEM_ID) if role in found]
    # a path's answer does not tell the number 1e+20 from the text; a number below 1e16 has no exponent
    inexact = pl.any_horizontal(pl.col(ids).str.contains(r"^-?\d(\.\d+)?e[+]?\d{2,}$"))
    too_large = pl.when(inexact).then(pl.lit("an id is a number too large to be exact: write it as text"))
    return frame.with_columns(pl.coalesce("problem", no_object, too_large).alias("problem"))

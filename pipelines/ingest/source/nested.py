"""Turns rows that hold lists (histories) into rows of one event each.

A path such as `events.aid` names a field of a struct, or that field of each struct of a list.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mgray.ingest.spelling import positional
from mgray.schema import FEATURE, ITEM_ID
from pipelines.ingest.source.arrow_types import readable

Ints = npt.NDArray[np.int64]
MAX_EXPONENT = 400  # of a JSON number that is respelled without it; no float has a larger one
MAX_RAW_CHARS = 10_000  # of a row set aside: a history may be long


class Column(NamedTuple):
    """A column of a block of rows. A column of lists has all values in one array, and how many each row has."""

    values: pa.Array | pa.ChunkedArray
    lengths: Ints | None = None  # [rows], 0 of a null; none: a value a row


class Exploded(NamedTuple):
    """A block of histories as events."""

    columns: dict[str, pa.Array | pa.ChunkedArray]  # a value an event
    row: Ints  # of each event, from 0
    reasons: dict[int, str]  # rows set aside: why


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def leaves(schema: pa.Schema) -> dict[str, tuple[pa.DataType, bool]]:
    """Lists what can be read: path -> (type of a value, whether a row holds a list). A column wins over a field."""
    found: dict[str, tuple[pa.DataType, bool]] = {}
    deep: dict[str, tuple[pa.DataType, bool]] = {}
    for field in schema:
        for path, kind, in_list in _walk(field.name, field.type, False):
            (found if path == field.name else deep).setdefault(path, (kind, in_list))
    return {**deep, **found}


def _walk(path: str, kind: pa.DataType, in_list: bool) -> Iterator[tuple[str, pa.DataType, bool]]:
    if is_list(kind) and not in_list:
        yield from _walk(path, kind.value_type, True)
        return
    yield path, kind, in_list
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _walk(f"{path}.{field.name}", field.type, in_list)


def unreadable(kind: pa.DataType) -> bool:
    """Whether a type can have no role: it does not hold one value an event, or it is a time without a day."""
    if isinstance(kind, pa.BaseExtensionType):
        return unreadable(kind.storage_type)
    types = pa.types
    tests = (types.is_nested, types.is_duration, types.is_time, types.is_interval, types.is_union)
    return any(test(kind) for test in tests)


def column_at(table: pa.Table, path: str) -> Column:
    """The column that a path names, of types that polars reads."""
    name, rest = path, list[str]()
    while name not in table.column_names:
        name, _, last = name.rpartition(".")
        rest.insert(0, last)
    values, lengths = table[name], None
    while is_list(values.type) or rest:
        if is_list(values.type):
            lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy().astype(np.int64)
            values = pc.list_flatten(values)
        else:
            values = pc.struct_field(values, rest.pop(0))
    return Column(readable(values), lengths)


def explode(columns: Mapping[str, Column], item: str, num_rows: int, roles: Mapping[str, str]) -> Exploded:
    """Turns histories into events; a value that is no list goes to all events of its row. roles: role -> column.

    A row whose lists are not as long as that of the items is set aside. One without items has no event.
    """
    lengths = columns[item].lengths
    assert lengths is not None, "the column of items is one of lists"
    good = np.ones(num_rows, bool)
    reasons: dict[int, str] = {}
    for role, name in roles.items():
        own = columns[name].lengths
        if own is None:
            continue
        for place in np.flatnonzero(good & (own != lengths)).tolist():
            reasons[place] = (
                f"{role.removeprefix(FEATURE)} has {own[place]} values where {ITEM_ID} has {lengths[place]}"
            )
        good &= own == lengths
    row = np.repeat(np.arange(num_rows), np.where(good, lengths, 0))
    found: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name, column in columns.items():
        if column.lengths is None:
            found[name] = column.values.take(pa.array(row))
        elif good.all():
            found[name] = column.values
        else:
            found[name] = column.values.filter(pa.array(np.repeat(good, column.lengths)))
    return Exploded(found, row, dict(sorted(reasons.items())))


def json_histories(records: pl.DataFrame, roles: Mapping[str, str]) -> tuple[dict[str, Column], dict[int, str]]:
    """Reads JSON Lines -> (columns of text by name, reasons by row for the rows that are no histories)."""
    names = list(dict.fromkeys(roles.values()))
    item = roles[ITEM_ID]
    values: dict[str, list[Any]] = {name: [] for name in names}
    reasons: dict[int, str] = {}
    for row, (raw, problem) in enumerate(records.select("raw", "problem").iter_rows()):
        found, reason = (None, problem) if problem else _json_row(raw)
        own = {name: _json_at(found, name) for name in names} if reason is None else {}
        if reason is None and not isinstance(own[item], list):
            own, reason = {}, f"{ITEM_ID} is empty" if own[item] is None else f"{ITEM_ID} is not a list"
        if reason is not None:
            reasons[row] = reason
        for name in names:
            values[name].append(own.get(name))
    lengths = np.array([len(items or ()) for items in values[item]], np.int64)
    return {name: _json_column(values[name], lengths, name == item) for name in names}, reasons


def _json_row(raw: str) -> tuple[dict[str, Any] | None, str | None]:
    """(the object, None), or (None, why the row is none). Numbers are text, in the form of the rule of ids."""
    try:
        found = json.loads(raw, parse_int=str, parse_float=_number_text, parse_constant=str)
    except (ValueError, RecursionError):
        return None, "the row is not JSON"
    return (found, None) if isinstance(found, dict) else (None, "the row is not a JSON object")


def _number_text(number: str) -> str:
    return positional(number) if abs(Decimal(number).adjusted()) <= MAX_EXPONENT else number


def _json_at(value: Any, path: str) -> Any:
    if isinstance(value, list):
        return [_json_at(one, path) for one in value]
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    for end in (place for place, letter in enumerate(path) if letter == "."):
        if path[:end] in value:
            return _json_at(value[path[:end]], path[end + 1 :])
    return None


def _json_column(values: list[Any], lengths: Ints, is_item: bool) -> Column:
    """Makes a column of lists where some row has a list: a single value, or null, goes to all events of its row."""
    if not is_item and not any(isinstance(value, list) for value in values):
        return Column(pa.array([_json_text(value) for value in values], pa.string()))
    counts = lengths.tolist()
    lists = [one if isinstance(one, list) else [one] * count for one, count in zip(values, counts, strict=True)]
    flat = [_json_text(one) for value in lists for one in value]
    return Column(pa.array(flat, pa.string()), np.array([len(value) for value in lists], np.int64))


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def text_histories(fields: pl.Series) -> tuple[Column, Column, dict[int, str]]:
    """Parts lists of user, item, item, ... -> (users, their items, reasons by row for the rows without an item)."""
    lengths = (fields.list.len().cast(pl.Int64) - 1).to_numpy()
    items = fields.list.slice(1)
    flat = items.filter(items.list.len() > 0).explode()
    empty = dict.fromkeys(np.flatnonzero(lengths < 1).tolist(), "the row has a user and no items")
    users = fields.list.first().to_arrow(compat_level=pl.CompatLevel.oldest())
    return Column(users), Column(flat.to_arrow(compat_level=pl.CompatLevel.oldest()), np.maximum(lengths, 0)), empty


def raw_rows(table: pa.Table, rows: Sequence[int]) -> list[str]:
    """Rows as JSON, for people."""
    picked = (table.slice(row, 1).to_pylist()[0] for row in rows)
    return [json.dumps(row, default=str)[:MAX_RAW_CHARS] for row in picked]

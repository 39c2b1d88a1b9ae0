"""Histories as padded tensors: batches of like lengths, padded on the left."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mgray.data.columns import Columns, concatenate
from mgray.data.inputs import Inputs
from mgray.schema import EVENT_COLUMNS, PAD, OptionalColumn

LENGTH_STEP = 8  # longer padded lengths are multiples of this: fewer shapes, fewer allocator arenas

IntArray = npt.NDArray[np.int64]


class Padding(NamedTuple):
    """How a column of a batch is stored, and its value where there is no event."""

    dtype: type[np.generic]
    value: float


# Field of Inputs -> its padding.
PADDING: dict[str, Padding] = {
    "items": Padding(np.int64, PAD),
    **{column.name: Padding(column.batch_dtype, column.padding) for column in EVENT_COLUMNS},
}


def padded_length(longest: int) -> int:
    """Positions L of a batch whose longest history has `longest` events: at least 1; above LENGTH_STEP, a multiple."""
    # Where histories are shorter than the step, padding would be most of the work.
    return max(1, longest) if longest <= LENGTH_STEP else -(-longest // LENGTH_STEP) * LENGTH_STEP


def plan_batches(lengths: IntArray, batch_events: int, max_rows: int | None = None) -> Iterator[IntArray]:
    """Group rows of similar lengths, longest first: each [B], at most `batch_events` padded events, `max_rows` rows."""
    max_rows = len(lengths) if max_rows is None else max_rows
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        longest = padded_length(int(lengths[order[begin]]))
        end = begin + max(1, min(max_rows, batch_events // longest))
        yield order[begin:end]
        begin = end


def flat_places(begins: IntArray, ends: IntArray) -> tuple[IntArray, IntArray]:
    """Every event of the ranges begins[i]..ends[i]: (i, the event's index), each [events of all ranges]."""
    lengths = ends - begins
    owner = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return owner, begins[owner] + within


def blank_columns(names: Iterable[str], like: Columns, num_rows: int, length: int) -> dict[str, npt.NDArray[Any]]:
    """Arrays of padding alone: name -> [num_rows, length]; of a vector column, [num_rows, length, F]."""
    padded = {}
    for name in names:
        column = getattr(like, name)
        assert column is not None, f"{name} must be read from the dataset"
        padding = PADDING[name]
        padded[name] = np.full((num_rows, length, *column.shape[1:]), padding.value, padding.dtype)
    return padded


def fill_rows(
    padded: dict[str, npt.NDArray[Any]], rows: IntArray, source: Columns, begins: IntArray, ends: IntArray
) -> None:
    """Write events begins[i]..ends[i] of `source` to the end of row rows[i] of each array."""
    positions = np.arange(-next(iter(padded.values())).shape[1], 0)
    is_real = positions >= (begins - ends)[:, None]
    places = (ends[:, None] + positions)[is_real]
    for name, array in padded.items():
        block = array[rows]
        block[is_real] = getattr(source, name)[places]
        array[rows] = block


def to_inputs(padded: dict[str, npt.NDArray[Any]]) -> Inputs:
    """Arrays as tensors on the same memory."""
    return Inputs(**{name: torch.from_numpy(array) for name, array in padded.items()})


def pad_spans(columns: Columns, begins: IntArray, ends: IntArray, names: Collection[OptionalColumn] = ()) -> Inputs:
    """Events begins[i]..ends[i] of `columns` -> row i of [B, L]. names: the event columns that are read."""
    length = padded_length(int((ends - begins).max(initial=0)))
    padded = blank_columns(("items", *names), columns, len(begins), length)
    fill_rows(padded, np.arange(len(begins)), columns, begins, ends)
    return to_inputs(padded)


def left_pad(histories: Sequence[Columns], max_length: int, names: Collection[OptionalColumn] = ()) -> Inputs:
    """The last `max_length` events of each history -> [B, L]. names: the event columns that are read."""
    read = [history.only(names).take(slice(max(0, len(history) - max_length), None)) for history in histories]
    lengths = np.asarray([len(history) for history in read], dtype=np.int64)
    ends = np.cumsum(lengths)
    return pad_spans(concatenate(read), ends - lengths, ends, names)

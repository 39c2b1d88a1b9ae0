"""Histories as padded tensors: batches of like lengths, padded on the left."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mgray.data.columns import Columns, OptionalColumn, concatenate
from mgray.data.inputs import Inputs
from mgray.schema import PAD

LENGTH_STEP = 8  # longer padded lengths are multiples of this: fewer shapes, fewer allocator arenas

IntArray = npt.NDArray[np.int64]


class Padding(NamedTuple):
    dtype: type[np.generic]
    value: float


# Of each column of a batch.
PADDING = {
    "items": Padding(np.int64, PAD),
    "times": Padding(np.float64, 0.0),
    "event_types": Padding(np.int64, 0),
    "ratings": Padding(np.float32, np.nan),
    "features": Padding(np.float32, 0.0),
}


def padded_length(longest: int) -> int:
    """Positions of a batch whose longest history has `longest` events: one at least, or a multiple of LENGTH_STEP."""
    # Where histories are shorter than the step, padding would be most of the work.
    return max(1, longest) if longest <= LENGTH_STEP else -(-longest // LENGTH_STEP) * LENGTH_STEP


def plan_batches(lengths: IntArray, batch_events: int, max_rows: int | None = None) -> Iterator[IntArray]:
    """Rows [B] of like lengths together, longest first: at most `batch_events` padded events and `max_rows` rows."""
    max_rows = len(lengths) if max_rows is None else max_rows
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        longest = padded_length(int(lengths[order[begin]]))
        end = begin + max(1, min(max_rows, batch_events // longest))
        yield order[begin:end]
        begin = end


def flat_places(begins: IntArray, ends: IntArray) -> tuple[IntArray, IntArray]:
    """Every event of the spans begins[i]..ends[i]: (its span's index, its place), each [events of all spans]."""
    lengths = ends - begins
    owner = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return owner, begins[owner] + within


def blank_columns(names: Iterable[str], like: Columns, num_rows: int, length: int) -> dict[str, npt.NDArray[Any]]:
    """Name -> [num_rows, length] of padding, [num_rows, length, F] for features."""
    padded = {}
    for name in names:
        column = getattr(like, name)
        assert column is not None, f"{name} must be read of the dataset"
        padding = PADDING[name]
        padded[name] = np.full((num_rows, length, *column.shape[1:]), padding.value, padding.dtype)
    return padded


def fill_rows(
    padded: dict[str, npt.NDArray[Any]], rows: IntArray, source: Columns, begins: IntArray, ends: IntArray
) -> None:
    """Row rows[i] of each array ends in the events begins[i]..ends[i] of `source`."""
    positions = np.arange(-next(iter(padded.values())).shape[1], 0)
    is_real = positions >= (begins - ends)[:, None]
    places = (ends[:, None] + positions)[is_real]
    for name, array in padded.items():
        block = array[rows]
        block[is_real] = getattr(source, name)[places]
        array[rows] = block


def to_inputs(padded: dict[str, npt.NDArray[Any]]) -> Inputs:
    return Inputs(**{name: torch.from_numpy(array) for name, array in padded.items()})


def pad_spans(columns: Columns, begins: IntArray, ends: IntArray, names: Collection[OptionalColumn] = ()) -> Inputs:
    """Events begins[i]..ends[i] of `columns` -> row i of [B, L]. names: the inputs beside items."""
    length = padded_length(int((ends - begins).max(initial=0)))
    padded = blank_columns(("items", *names), columns, len(begins), length)
    fill_rows(padded, np.arange(len(begins)), columns, begins, ends)
    return to_inputs(padded)


def left_pad(histories: Sequence[Columns], max_length: int, names: Collection[OptionalColumn] = ()) -> Inputs:
    """The last `max_length` events of each history -> [B, L]. names: the inputs beside items."""
    read = [history.only(names).take(slice(max(0, len(history) - max_length), None)) for history in histories]
    lengths = np.asarray([len(history) for history in read], dtype=np.int64)
    ends = np.cumsum(lengths)
    return pad_spans(concatenate(read), ends - lengths, ends, names)

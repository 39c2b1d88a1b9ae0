"""Events as parallel arrays: the item of each, and the event columns (EVENT_COLUMNS in mgray/schema.py) beside it.

Legend: `E` events, `F` numeric features.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from mgray.schema import OptionalColumn


@dataclass(frozen=True)
class Columns:
    """E events, oldest first: one user's history, or those of many users one after another. None: not read."""

    items: npt.NDArray[np.int32]  # [E] 1..V or UNKNOWN
    times: npt.NDArray[np.float64] | None = None  # [E] seconds since 1970
    event_types: npt.NDArray[np.int16] | None = None  # [E] 1.. of a list of names, 0 = none
    ratings: npt.NDArray[np.float32] | None = None  # [E] NaN = none
    features: npt.NDArray[np.float32] | None = None  # [E, F] standardized

    def __len__(self) -> int:
        return len(self.items)

    def present(self) -> dict[str, npt.NDArray[Any]]:
        """Name -> array of each column that was read, items included."""
        return {name: array for name, array in zip(_NAMES, _arrays(self), strict=True) if array is not None}

    def take(self, chosen: slice | npt.NDArray[Any]) -> "Columns":
        """The events of a slice, a mask or indices."""
        taken: list[Any] = [None if array is None else array[chosen] for array in _arrays(self)]
        return Columns(*taken)

    def only(self, wanted: Collection[OptionalColumn]) -> "Columns":
        """Drop the columns that are not wanted; items stay."""
        return Columns(**{name: array for name, array in self.present().items() if name in ("items", *wanted)})


_NAMES = tuple(field.name for field in fields(Columns))
_arrays = attrgetter(*_NAMES)  # every field of a Columns, in order


def concatenate(histories: Sequence[Columns]) -> Columns:
    """Join histories in order; each must have the same columns. No history gives no event, in `items` alone."""
    if not histories:
        return Columns(np.zeros(0, np.int32))
    names = histories[0].present()
    return Columns(**{name: np.concatenate([history.present()[name] for history in histories]) for name in names})


def parts_of(
    offsets: npt.NDArray[np.int64], train_end: npt.NDArray[np.integer], valid_end: npt.NDArray[np.integer]
) -> npt.NDArray[np.int8]:
    """TRAIN, VALID or TEST of each event, [E], where the parts of a history are ranges.

    offsets: [U + 1], user u has the events offsets[u]..offsets[u + 1]; train_end, valid_end: [U], indices in a history.
    """
    lengths = np.diff(offsets)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    behind = (position >= np.repeat(train_end, lengths)).astype(np.int8)
    return behind + (position >= np.repeat(valid_end, lengths))

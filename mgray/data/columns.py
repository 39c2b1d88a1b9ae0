"""The columns of events beside their order: what a log says of each event, as parallel arrays.

Legend: `E` events, `F` numeric features.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# What a log may have, or a model may read, beside item ids and the order of events.
OptionalColumn = Literal["times", "event_types", "ratings", "features"]
# What their lists are called in a dataset's shards, and in a request to a served model.
LIST_NAMES: dict[OptionalColumn, str] = {
    "times": "timestamps",
    "event_types": "event_types",
    "ratings": "ratings",
    "features": "features",
}


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
        """Name -> array of each column that there is."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: column for name, column in named.items() if column is not None}

    def take(self, chosen: slice | npt.NDArray[Any]) -> "Columns":
        """The events of a slice, a mask or places."""
        return Columns(
            self.items[chosen],
            None if self.times is None else self.times[chosen],
            None if self.event_types is None else self.event_types[chosen],
            None if self.ratings is None else self.ratings[chosen],
            None if self.features is None else self.features[chosen],
        )

    def only(self, wanted: Collection[OptionalColumn]) -> "Columns":
        """Without the columns that are not wanted; items stay."""
        return Columns(**{name: column for name, column in self.present().items() if name in ("items", *wanted)})


def concatenate(parts: Sequence[Columns]) -> Columns:
    """Histories one after another; each must have the same columns. No part: no event, and items alone."""
    if not parts:
        return Columns(np.zeros(0, np.int32))
    names = parts[0].present()
    return Columns(**{name: np.concatenate([part.present()[name] for part in parts]) for name in names})


def parts_of(
    offsets: npt.NDArray[np.int64], train_end: npt.NDArray[np.integer], valid_end: npt.NDArray[np.integer]
) -> npt.NDArray[np.int8]:
    """TRAIN, VALID or TEST of each event, [E], where the parts of a history are ranges.

    offsets: [U + 1], user u has the events offsets[u]..offsets[u + 1]; train_end, valid_end: [U], places in a history.
    """
    lengths = np.diff(offsets)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    behind = (position >= np.repeat(train_end, lengths)).astype(np.int8)
    return behind + (position >= np.repeat(valid_end, lengths))

"""Events written out by hand or drawn, as mgray.ingest.clean takes them."""

from typing import Any

import numpy as np

from mgray.ingest import clean
from mgray.ingest.clean import Events

DAY = 86_400.0
NAN = float("nan")


def make(*rows: tuple) -> Events:
    """(user, item, time[, rating[, event type[, features]]]) in the order given."""
    full = [row + (NAN, -1, ())[len(row) - 3 :] for row in rows]
    columns: list[Any] = list(map(list, zip(*full, strict=True))) or [[]] * 6
    width = len(columns[5][0]) if columns[5] else 0
    return Events(
        np.array(columns[0], np.int32),
        np.array(columns[1], np.int32),
        np.array(columns[2], np.float64),
        {"ratings": np.array(columns[3], np.float32)},
        np.array(columns[4], np.int16),
        np.array(columns[5], np.float64).reshape(len(rows), width),
    )


def arrays(events: Events) -> list[np.ndarray]:
    """Every column: user, item, time, numbers, event type, features."""
    return [*events[:3], *events.numbers.values(), *events[4:]]


def joined(one: Events, other: Events) -> Events:
    """The events of both, one after the other."""
    user, item, time, ratings, *rest = (np.concatenate(pair) for pair in zip(arrays(one), arrays(other), strict=True))
    return Events(user, item, time, {"ratings": ratings}, *rest)


def ordered(events: Events) -> Events:
    return events.take(clean.order_events(events.user, events.time))


def offsets_of(events: Events) -> clean.Ints:
    return clean.user_offsets(events.user, int(events.user.max()) + 1 if len(events.user) else 0)

"""Orders, cleans and splits the events of whole users, and lays them out as histories.

Pure functions over flat numpy columns. Legend: `E` events, `U` users, `F` numeric features. From `order_events` on,
events are sorted by (user, time), and user `u` owns events offsets[u]..offsets[u + 1].
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, assert_never

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mgray.ingest.hashing import mix
from mgray.schema import (
    EVENT_COLUMNS,
    HISTORY_SCHEMA,
    TEST,
    TRAIN,
    UNKNOWN,
    USER_ID,
    VALID,
    EventColumn,
    OptionalColumn,
)

SplitKind = Literal["leave_one_out", "temporal", "random"]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Times = npt.NDArray[np.float64]  # seconds since 1970

DAY_S = 86_400.0
RANDOM_TRAIN, RANDOM_VALID = 0.8, 0.9  # shares of the random split, cumulative


class Events(NamedTuple):
    user: npt.NDArray[np.int32]  # [E] 0..U-1
    item: npt.NDArray[np.int32]  # [E] code in the ingest's item list
    time: Times  # [E]
    numbers: dict[OptionalColumn, npt.NDArray[np.floating]]  # column of NUMBER_COLUMNS -> [E], NaN: none
    event_type: npt.NDArray[np.int16]  # [E] code in the ingest's list of event types, -1: none
    features: npt.NDArray[np.float64]  # [E, F], NaN: none

    def take(self, chosen: Ints | Mask) -> "Events":
        return Events(
            user=self.user[chosen],
            item=self.item[chosen],
            time=self.time[chosen],
            numbers={name: values[chosen] for name, values in self.numbers.items()},
            event_type=self.event_type[chosen],
            features=self.features[chosen],
        )


def order_events(user: npt.NDArray[np.int32], time: Times) -> Ints:
    """Sorting order of the events by (user, time); ties keep the order given. user, time: [E] -> places [E].

    Where user, time and place fit together in one 64-bit word, words are sorted: five times as fast as sorting by keys.
    """
    if not len(user):
        return np.zeros(0, np.int64)
    first = time.min()
    place_bits = max(1, (len(user) - 1).bit_length())
    # float64 does not have every whole number from 2**53 on: the differences would be rounded. Halves are compared,
    # because the difference itself may overflow.
    if time.max() / 2 - first / 2 < 2.0**52 and (np.floor(time) == time).all():
        time_bits = int(time.max() - first).bit_length()
        if int(user.max()).bit_length() + time_bits + place_bits <= 64:
            word = user.astype(np.uint64) << np.uint64(time_bits + place_bits)
            word |= (time - first).astype(np.uint64) << np.uint64(place_bits)
            word |= np.arange(len(user), dtype=np.uint64)
            word.sort()
            word &= np.uint64((1 << place_bits) - 1)
            return word.astype(np.int64)
    return np.lexsort((time, user))


def user_offsets(user: npt.NDArray[np.int32], num_users: int) -> Ints:
    """Offsets [U + 1] of sorted events: where each user's begin, and where the last one's end."""
    return np.concatenate([[0], np.cumsum(np.bincount(user, minlength=num_users))]).astype(np.int64)


def are_first(events: Events) -> Mask:
    """Which events to keep as no duplicate, [E]: false for an event that equals an earlier one in every column."""
    same = (events.user[1:] == events.user[:-1]) & (events.time[1:] == events.time[:-1])
    tied = np.zeros(len(events.user), bool)
    tied[1:] |= same
    tied[:-1] |= same
    places = np.flatnonzero(tied)  # only these can have an equal
    keep = ~tied
    if len(places):
        run = np.concatenate([[0], np.cumsum(~same)])[places]
        columns = {"run": run, "item": events.item[places], "type": events.event_type[places]}
        columns |= {f"number {name}": values[places] for name, values in events.numbers.items()}
        columns |= {f"feature {i}": events.features[places, i] for i in range(events.features.shape[1])}
        frame = pl.DataFrame(columns).with_row_index("place")
        first = frame.unique(subset=list(columns), keep="first", maintain_order=True)["place"].to_numpy()
        keep[places[first]] = True
    return keep


def are_bots(offsets: Ints, time: Times, max_per_day: int) -> Mask:
    """Which users are taken for bots, [U]: more than `max_per_day` events within some 24 hours."""
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    later = np.arange(max_per_day, len(time))
    fast = (user[later] == user[later - max_per_day]) & (time[later] - time[later - max_per_day] < DAY_S)
    found = np.zeros(len(offsets) - 1, bool)
    found[user[later[fast]]] = True
    return found


def are_repeats(events: Events, window_s: float) -> Mask:
    """Which events are repeats, [E]: the user had an event on the same item at most `window_s` seconds before."""
    key = events.user.astype(np.int64) << 32 | events.item
    order = np.argsort(key, kind="stable")
    ordered, time = key[order], events.time[order]
    found = np.zeros(len(order), bool)
    found[order[1:]] = (ordered[1:] == ordered[:-1]) & (time[1:] - time[:-1] <= window_s)
    return found


def sums(offsets: Ints, values: Mask) -> Ints:
    """Counts the true values of each user's events, [E] -> [U]."""
    total = np.concatenate([[0], np.cumsum(values)])
    found: Ints = total[offsets[1:]] - total[offsets[:-1]]
    return found


def split_ends(
    offsets: Ints, time: Times, kind: SplitKind, valid_from: float | None = None, test_from: float | None = None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(train_end, valid_end), each [U]: a user's events up to train_end train, up to valid_end validate, the rest test.

    `leave_one_out`: the last event tests, the last but one validates. The first event always trains, so a user with two
    events has none that validates. `temporal`: an event at a cut is behind it. `random`: both are 0, because the parts
    are not ranges.
    """
    lengths = np.diff(offsets)
    if kind == "leave_one_out":
        at_least_one = np.minimum(lengths, 1)
        ends = np.maximum(lengths - 2, at_least_one), np.maximum(lengths - 1, at_least_one)
    elif kind == "temporal":
        assert valid_from is not None
        assert test_from is not None
        ends = sums(offsets, time < valid_from), sums(offsets, time < test_from)
    else:
        ends = np.zeros_like(lengths), np.zeros_like(lengths)
    return ends[0].astype(np.int32), ends[1].astype(np.int32)


def random_parts(offsets: Ints, time: Times, hashes: npt.NDArray[np.uint64], seed: int = 0) -> npt.NDArray[np.int8]:
    """Draws TRAIN, VALID or TEST for each event, [E], by a hash.

    The hash is of user, time, and the place among the user's events of that time: an event's part does not change when
    other events join the log. hashes: of the users' ids, [U].
    """
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    starts = np.concatenate([[True], (user[1:] != user[:-1]) | (time[1:] != time[:-1])])[: len(time)]
    first = np.flatnonzero(starts)
    place = np.arange(len(time)) - np.repeat(first, np.diff(np.append(first, len(time))))
    value = mix(hashes[user] ^ (time + 0.0).view(np.uint64)) + place.astype(np.uint64) + np.uint64(seed << 32)
    share = (mix(value) >> np.uint64(11)) / 2.0**53
    return np.select([share < RANDOM_TRAIN, share < RANDOM_VALID], [TRAIN, VALID], TEST).astype(np.int8)


def core_step(offsets: Ints, item: npt.NDArray[np.int32], alive_items: Mask, min_user_events: int) -> tuple[Mask, Mask]:
    """One turn of the k-core -> (events to keep [E], events on alive items [E]).

    An event is kept where its item is alive and its user has at least `min_user_events` events on alive items.
    """
    on_alive = alive_items[item]
    enough = sums(offsets, on_alive) >= min_user_events
    return on_alive & np.repeat(enough, np.diff(offsets)), on_alive


def _outside_lists(offsets: Ints, numbers: npt.NDArray[np.int32], outside: npt.NDArray[np.int32]) -> pa.Array:
    """Lists the `outside` entries of each user's UNKNOWN events. numbers, outside: [E]."""
    unknown = numbers == UNKNOWN
    ends = np.concatenate([[0], np.cumsum(unknown)])[offsets]
    return _lists(ends, pa.array(outside[unknown]))


def _lists(offsets: Ints, values: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)


def _value_lists(column: EventColumn, offsets: Ints, values: npt.NDArray[Any]) -> pa.Array:
    """Each user's values of an event column, as a shard holds them. values: [E] or [E, F]."""
    match column.kind:
        case "time":
            return _lists(offsets, pa.array(values))
        case "number":
            return _lists(offsets, pa.array(values, from_pandas=True))  # NaN becomes null
        case "name":
            return _lists(offsets, pa.array(values, mask=values < 0))
        case "vector":
            return _lists(offsets * values.shape[1], pa.array(values.reshape(-1)))
        case _:
            assert_never(column.kind)


def history_table(
    user_ids: pa.Array,
    offsets: Ints,
    numbers: npt.NDArray[np.int32],
    values: Mapping[OptionalColumn, npt.NDArray[Any]],
    parts: npt.NDArray[np.int8] | None,
    train_end: npt.NDArray[np.int32],
    valid_end: npt.NDArray[np.int32],
    outside: npt.NDArray[np.int32] | None = None,
) -> pa.Table:
    """Lays events out as a table of histories, HISTORY_SCHEMA [U].

    numbers: [E] 1..V or UNKNOWN. values: [E], or [E, F] of a vector, of each event column that the log has. parts: [E]
    of a random split. outside: [E] row of the item in the file of outside items, for UNKNOWN events only.
    """
    empty = {name: pa.nulls(len(user_ids), HISTORY_SCHEMA.field(name).type) for name in HISTORY_SCHEMA.names}
    columns = {
        USER_ID: user_ids.cast(pa.large_string()),
        "items": _lists(offsets, pa.array(numbers)),
        "train_end": pa.array(train_end),
        "valid_end": pa.array(valid_end),
    }
    if outside is not None:
        columns["outside_items"] = _outside_lists(offsets, numbers, outside)
    for column in EVENT_COLUMNS:
        if column.name in values:
            columns[column.list_name] = _value_lists(column, offsets, values[column.name])
    if parts is not None:
        columns["parts"] = _lists(offsets, pa.array(parts))
    return pa.table({**empty, **columns}, schema=HISTORY_SCHEMA)

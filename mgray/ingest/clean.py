"""Events of whole users as flat columns: order, clean, split, count, and lay out as histories.

Pure functions over numpy columns. Legend: `E` events, `U` users, `F` numeric features. From `order_events` on, events
are sorted by (user, time), and user `u` owns events offsets[u]..offsets[u + 1].
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mgray.ingest.hashing import mix
from mgray.schema import HISTORY_SCHEMA, TEST, TRAIN, UNKNOWN, VALID

SplitKind = Literal["leave_one_out", "temporal", "random"]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Times = npt.NDArray[np.float64]  # seconds since 1970

DAY_S = 86_400.0
RANDOM_TRAIN, RANDOM_VALID = 0.8, 0.9  # shares of the random split, cumulative


class Events(NamedTuple):
    user: npt.NDArray[np.int32]  # [E] 0..U-1
    item: npt.NDArray[np.int32]  # [E] code of the run's item list
    time: Times  # [E]
    rating: npt.NDArray[np.float32]  # [E], NaN: none
    event_type: npt.NDArray[np.int16]  # [E] number of the run's list, -1: none
    features: npt.NDArray[np.float64]  # [E, F], NaN: none

    def take(self, chosen: Ints | Mask) -> "Events":
        return Events._make(column[chosen] for column in self)


def order_events(user: npt.NDArray[np.int32], time: Times) -> Ints:
    """Places of the events by (user, time), equal ones in the order given. user, time: [E] -> [E].

    Where user, time and place fit in one 64-bit word together, words are sorted: five times as fast as sorting by keys.
    """
    if not len(user):
        return np.zeros(0, np.int64)
    first = time.min()
    place_bits = max(1, (len(user) - 1).bit_length())
    # From 2**53 on float64 has no longer every whole number: the differences would be rounded. Half of each, for the
    # difference of two floats may be none.
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
    """[U + 1] of sorted events."""
    return np.concatenate([[0], np.cumsum(np.bincount(user, minlength=num_users))]).astype(np.int64)


def are_first(events: Events) -> Mask:
    """[E]: false for an event that equals an earlier one in every column."""
    same = (events.user[1:] == events.user[:-1]) & (events.time[1:] == events.time[:-1])
    tied = np.zeros(len(events.user), bool)
    tied[1:] |= same
    tied[:-1] |= same
    places = np.flatnonzero(tied)  # only these can have an equal
    keep = ~tied
    if len(places):
        run = np.concatenate([[0], np.cumsum(~same)])[places]
        columns = {"run": run, "item": events.item[places], "rating": events.rating[places]}
        columns |= {"type": events.event_type[places]}
        columns |= {f"feature {i}": events.features[places, i] for i in range(events.features.shape[1])}
        frame = pl.DataFrame(columns).with_row_index("place")
        first = frame.unique(subset=list(columns), keep="first", maintain_order=True)["place"].to_numpy()
        keep[places[first]] = True
    return keep


def are_bots(offsets: Ints, time: Times, max_per_day: int) -> Mask:
    """[U]: users with more than `max_per_day` events within some 24 hours."""
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    later = np.arange(max_per_day, len(time))
    fast = (user[later] == user[later - max_per_day]) & (time[later] - time[later - max_per_day] < DAY_S)
    found = np.zeros(len(offsets) - 1, bool)
    found[user[later[fast]]] = True
    return found


def are_repeats(events: Events, window_s: float) -> Mask:
    """[E]: events whose user had an event on the same item at most `window_s` seconds before."""
    key = events.user.astype(np.int64) << 32 | events.item
    order = np.argsort(key, kind="stable")
    ordered, time = key[order], events.time[order]
    found = np.zeros(len(order), bool)
    found[order[1:]] = (ordered[1:] == ordered[:-1]) & (time[1:] - time[:-1] <= window_s)
    return found


def sums(offsets: Ints, values: Mask) -> Ints:
    """How many events of each user are true, [E] -> [U]."""
    total = np.concatenate([[0], np.cumsum(values)])
    return total[offsets[1:]] - total[offsets[:-1]]


def split_ends(
    offsets: Ints, time: Times, kind: SplitKind, valid_from: float | None = None, test_from: float | None = None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(train_end, valid_end), each [U]: of a user [0, train_end) train, [train_end, valid_end) validate, the rest test.

    `leave_one_out`: the last event tests, the last but one validates; the first one always trains, so of two the last
    tests and none validates. `temporal`: an event at or after a cut is behind it. `random`: both 0, for the parts are
    no ranges there.
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
    """TRAIN, VALID or TEST of each event, [E], by a hash of user, time, and place among its user's events of that time.

    So an event's part does not change when others join the log. hashes: of the users' ids, [U].
    """
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    starts = np.concatenate([[True], (user[1:] != user[:-1]) | (time[1:] != time[:-1])])[: len(time)]
    first = np.flatnonzero(starts)
    place = np.arange(len(time)) - np.repeat(first, np.diff(np.append(first, len(time))))
    value = mix(hashes[user] ^ (time + 0.0).view(np.uint64)) + place.astype(np.uint64) + np.uint64(seed << 32)
    share = (mix(value) >> np.uint64(11)) / 2.0**53
    return np.select([share < RANDOM_TRAIN, share < RANDOM_VALID], [TRAIN, VALID], TEST).astype(np.int8)


def core_step(offsets: Ints, item: npt.NDArray[np.int32], alive_items: Mask, min_user_events: int) -> tuple[Mask, Mask]:
    """One turn of the k-core: (events on alive items, of users with enough of them [E]; the former alone [E])."""
    on_alive = alive_items[item]
    enough = sums(offsets, on_alive) >= min_user_events
    return on_alive & np.repeat(enough, np.diff(offsets)), on_alive


def _outside_lists(offsets: Ints, numbers: npt.NDArray[np.int32], outside: npt.NDArray[np.int32]) -> pa.Array:
    """The `outside` entries of each user's UNKNOWN events. numbers, outside: [E]."""
    unknown = numbers == UNKNOWN
    ends = np.concatenate([[0], np.cumsum(unknown)])[offsets]
    return _lists(ends, pa.array(outside[unknown]))


def _lists(offsets: Ints, values: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)


def history_table(
    user_ids: pa.Array,
    offsets: Ints,
    numbers: npt.NDArray[np.int32],
    time: Times,
    rating: npt.NDArray[np.float32] | None,
    event_type: npt.NDArray[np.int16] | None,
    features: npt.NDArray[np.float32] | None,
    parts: npt.NDArray[np.int8] | None,
    train_end: npt.NDArray[np.int32],
    valid_end: npt.NDArray[np.int32],
    outside: npt.NDArray[np.int32] | None = None,
) -> pa.Table:
    """HISTORY_SCHEMA [U]. numbers: [E] 1..V or UNKNOWN; None: a column that the log does not have.

    outside: [E] row of each UNKNOWN event's item in the file of outside items; elsewhere it means nothing.
    """
    empty = {name: pa.nulls(len(user_ids), HISTORY_SCHEMA.field(name).type) for name in HISTORY_SCHEMA.names}
    columns = {
        "user_id": user_ids.cast(pa.large_string()),
        "items": _lists(offsets, pa.array(numbers)),
        "timestamps": _lists(offsets, pa.array(time)),
        "train_end": pa.array(train_end),
        "valid_end": pa.array(valid_end),
    }
    if outside is not None:
        columns["outside_items"] = _outside_lists(offsets, numbers, outside)
    if rating is not None:
        columns["ratings"] = _lists(offsets, pa.array(rating, from_pandas=True))  # NaN becomes null
    if event_type is not None:
        columns["event_types"] = _lists(offsets, pa.array(event_type, mask=event_type < 0))
    if features is not None:
        columns["features"] = _lists(offsets * features.shape[1], pa.array(features.reshape(-1)))
    if parts is not None:
        columns["parts"] = _lists(offsets, pa.array(parts))
    return pa.table({**empty, **columns}, schema=HISTORY_SCHEMA)

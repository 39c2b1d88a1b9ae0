"""mgray.ingest.clean: numbers that a reader can derive by hand, and laws over drawn logs."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.data.columns import parts_of
from mgray.ingest import clean
from mgray.ingest.clean import Events
from mgray.ingest.hashing import stable_hash
from mgray.schema import HISTORY_SCHEMA, TEST, TRAIN, UNKNOWN, VALID

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
    user, item, time, ratings, *rest = (np.concatenate(pair) for pair in zip(arrays(one), arrays(other), strict=True))
    return Events(user, item, time, {"ratings": ratings}, *rest)


def ordered(events: Events) -> Events:
    return events.take(clean.order_events(events.user, events.time))


def offsets_of(events: Events) -> clean.Ints:
    return clean.user_offsets(events.user, int(events.user.max()) + 1 if len(events.user) else 0)


# ---------------------------------------------------------------- order


def test_equal_times_keep_the_order_of_the_log() -> None:
    log = make((1, 9, 5), (0, 8, 5), (0, 7, 5), (0, 6, 1))
    assert ordered(log).item.tolist() == [6, 8, 7, 9]


def test_the_order_of_nothing_and_of_one() -> None:
    assert clean.order_events(np.zeros(0, np.int32), np.zeros(0)).tolist() == []
    for time in (0.0, -1.5, 1e300, 1e9):
        assert clean.order_events(np.array([2**31 - 1], np.int32), np.array([time])).tolist() == [0]


whole = st.integers(-5, 5).map(float) | st.integers(-(10**9), 2 * 10**9).map(float)
fractional = st.floats(-10, 10) | st.sampled_from([0.1, 0.25, -0.0, 0.0])
huge = st.sampled_from([2.0**53, 2.0**53 + 2, 2.0**53 - 1, -1.0, -3.0, 2.0**60, -(2.0**62), 1e300, -1e300, 1.0])


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([whole, fractional, huge, whole | fractional | huge]).flatmap(
        lambda times: st.lists(st.tuples(st.sampled_from([0, 1, 2, 70_000, 2**31 - 1]), times), max_size=40)
    )
)
def test_the_order_is_that_of_a_stable_sort(rows: list[tuple[int, float]]) -> None:
    user, time = np.array([user for user, _ in rows], np.int32), np.array([time for _, time in rows], np.float64)
    assert clean.order_events(user, time).tolist() == sorted(range(len(rows)), key=rows.__getitem__)


def test_whole_seconds_that_float64_cannot_tell_apart_once_shifted() -> None:
    # 2**53 + 1 is no float64, so that both of the late times are 2**53 seconds after the first
    time = np.array([2.0**53, 2.0**53 - 1, -1.0])
    assert clean.order_events(np.zeros(3, np.int32), time).tolist() == [2, 1, 0]


def test_times_whose_difference_is_no_float() -> None:
    time = np.array([1e308, 0.0, -1e308, 1e308])
    assert clean.order_events(np.zeros(4, np.int32), time).tolist() == [2, 1, 0, 3]


def test_a_large_log_is_in_order_whichever_way_it_is_sorted() -> None:
    generator = np.random.default_rng(0)
    user = generator.integers(0, 500, 50_000).astype(np.int32)
    time = generator.integers(-1000, 1000, 50_000).astype(np.float64)
    wanted = np.lexsort((np.arange(50_000), time, user)).tolist()
    assert clean.order_events(user, time).tolist() == wanted
    # half a second more for everybody changes no order, but whole seconds are packed and others are not
    assert clean.order_events(user, time + 0.5).tolist() == wanted


def test_offsets_of_users_with_and_without_events() -> None:
    assert clean.user_offsets(np.array([0, 0, 2], np.int32), 5).tolist() == [0, 2, 2, 3, 3, 3]
    assert clean.user_offsets(np.zeros(0, np.int32), 2).tolist() == [0, 0, 0]


# ---------------------------------------------------------------- cleaning


def test_the_first_of_equal_events_stays() -> None:
    log = make((0, 5, 1, 5.0), (0, 5, 1, 4.0), (0, 5, 1, 5.0), (0, 5, 2, 5.0), (1, 5, 1, 5.0))
    assert clean.are_first(log).tolist() == [True, True, False, True, True]
    # the first of the log, whatever lies between it and its equal
    log = ordered(make((1, 5, 1), (0, 5, 1), (1, 6, 1), (1, 5, 1), (0, 5, 1)))
    assert list(zip(log.user.tolist(), log.item.tolist(), clean.are_first(log).tolist(), strict=True)) == [
        (0, 5, True),
        (0, 5, False),
        (1, 5, True),
        (1, 6, True),
        (1, 5, False),
    ]


def test_events_that_differ_in_one_column_are_two() -> None:
    log = make((0, 5, 1, 5.0, 0, (1.0, 2.0)))
    for other in (
        make((1, 5, 1, 5.0, 0, (1.0, 2.0))),
        make((0, 6, 1, 5.0, 0, (1.0, 2.0))),
        make((0, 5, 2, 5.0, 0, (1.0, 2.0))),
        make((0, 5, 1, NAN, 0, (1.0, 2.0))),
        make((0, 5, 1, 5.0, -1, (1.0, 2.0))),
        make((0, 5, 1, 5.0, 0, (1.0, NAN))),
        make((0, 5, 1, 5.0, 0, (2.0, 1.0))),
    ):
        assert clean.are_first(joined(log, other)).tolist() == [True, True]
    assert clean.are_first(joined(log, log)).tolist() == [True, False]


one_event = st.tuples(
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 3),
    st.sampled_from([NAN, NAN, 1.0, 2.0]),
    st.integers(-1, 1),
    st.tuples(st.sampled_from([NAN, 0.0])),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(one_event, max_size=40))
def test_first_events_are_those_of_a_loop(rows: list[tuple]) -> None:
    log = ordered(make(*rows)) if rows else make()
    seen: set[str] = set()
    wanted = []
    for row in zip(*(column.tolist() for column in arrays(log)), strict=True):
        wanted.append(repr(row) not in seen)  # in writing nan equals nan, as it does here
        seen.add(repr(row))
    assert clean.are_first(log).tolist() == wanted


def test_bots_have_more_than_the_limit_within_24_hours() -> None:
    def bots(limit: int, *users: list[float]) -> list[bool]:
        offsets = np.concatenate([[0], np.cumsum([len(times) for times in users])])
        return clean.are_bots(
            offsets, np.array([time for times in users for time in times], np.float64), limit
        ).tolist()

    assert bots(3, [0, 1, 2], [0, 1, 2, 3], [], [5]) == [False, True, False, False]
    # 24 hours later is another day; a second earlier is not
    assert bots(2, [0, 1, DAY], [0, 1, DAY - 1]) == [False, True]
    # a day begins with each event, not at midnight: noon to noon
    assert bots(2, [DAY / 2, DAY - 1, DAY + 1, 9 * DAY], [0, DAY / 2, DAY, 1.5 * DAY]) == [True, False]
    # two users together are no bot
    assert bots(1, [0], [0], [0]) == [False] * 3
    assert bots(1, [0, 0], [0]) == [True, False]
    assert bots(5, [], []) == [False, False]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), max_size=8).map(sorted), max_size=5), st.integers(1, 4))
def test_bots_are_those_of_a_loop(quarters: list[list[int]], limit: int) -> None:
    users = [[quarter * DAY / 4 for quarter in times] for times in quarters]
    wanted = [any(sum(first <= t < first + DAY for t in times) > limit for first in times) for times in users]
    offsets = np.concatenate([[0], np.cumsum([len(times) for times in users])]).astype(np.int64)
    assert (
        clean.are_bots(offsets, np.array([time for times in users for time in times], np.float64), limit).tolist()
        == wanted
    )


def test_repeats_follow_their_like_within_the_window() -> None:
    log = make((0, 5, 0), (0, 5, 10), (0, 6, 11), (0, 5, 21), (1, 5, 21), (1, 5, 21))
    assert clean.are_repeats(log, 10).tolist() == [False, True, False, False, False, True]
    # a chain: each within the window of the one before it, which is itself a repeat
    chain = make(*((0, 5, 10 * place) for place in range(4)))
    assert clean.are_repeats(chain, 10).tolist() == [False, True, True, True]
    assert clean.are_repeats(chain, 9.9).tolist() == [False] * 4
    assert clean.are_repeats(make(), 1).tolist() == []


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(-4, 4)), max_size=30),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_repeats_are_those_of_a_loop(rows: list[tuple[int, int, int]], window: float) -> None:
    log = ordered(make(*rows)) if rows else make()
    last: dict[tuple[int, int], float] = {}
    wanted = []
    for user, item, time in zip(log.user.tolist(), log.item.tolist(), log.time.tolist(), strict=True):
        wanted.append(time - last.get((user, item), -np.inf) <= window)
        last[user, item] = time
    assert clean.are_repeats(log, window).tolist() == wanted


# ---------------------------------------------------------------- splits


def test_leave_one_out_splits() -> None:
    offsets, time = np.array([0, 5, 8]), np.zeros(8)
    train_end, valid_end = clean.split_ends(offsets, time, "leave_one_out")
    assert (train_end.tolist(), valid_end.tolist()) == ([3, 1], [4, 2])
    parts = parts_of(offsets, train_end, valid_end)
    assert parts.tolist() == [TRAIN, TRAIN, TRAIN, VALID, TEST, TRAIN, VALID, TEST]


def test_an_event_at_a_cut_is_behind_it() -> None:
    log = make((0, 0, 1), (0, 0, 2), (0, 0, 3), (1, 0, 2), (1, 0, 9), (2, 0, 0), (2, 0, 1))
    offsets = offsets_of(log)
    train_end, valid_end = clean.split_ends(offsets, log.time, "temporal", 2.0, 3.0)
    assert list(zip(train_end.tolist(), valid_end.tolist(), strict=True)) == [(1, 2), (0, 1), (2, 2)]
    parts = parts_of(offsets, train_end, valid_end)
    assert parts.tolist() == [TRAIN, VALID, TEST, VALID, TEST, TRAIN, TRAIN]


def test_a_random_split_has_no_ends() -> None:
    train_end, valid_end = clean.split_ends(np.array([0, 2, 5]), np.zeros(5), "random")
    assert (train_end.tolist(), valid_end.tolist()) == ([0, 0], [0, 0])
    assert train_end.dtype == valid_end.dtype == np.int32


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=40),
    st.sampled_from(["leave_one_out", "temporal"]),
    st.tuples(st.integers(0, 5), st.integers(0, 5)).map(sorted),
)
def test_laws_of_a_cleaned_log(rows: list[tuple], kind: clean.SplitKind, cuts: list[int]) -> None:
    valid_from, test_from = map(float, cuts)
    log = ordered(make(*rows))
    log = log.take(clean.are_first(log))
    log = log.take((np.bincount(log.user) >= 3)[log.user])  # short users go
    offsets = offsets_of(log)
    assert len(set(zip(log.user.tolist(), log.item.tolist(), log.time.tolist(), strict=True))) == len(log.user)
    ends = clean.split_ends(offsets, log.time, kind, valid_from, test_from)
    parts = parts_of(offsets, *ends)
    for user, (train_end, valid_end) in enumerate(zip(*ends, strict=True)):
        own = slice(offsets[user], offsets[user + 1])
        times, own_parts = log.time[own].tolist(), parts[own].tolist()
        assert (log.user[own] == user).all()
        assert times == sorted(times)
        if not times:
            continue
        assert 0 <= train_end <= valid_end <= len(times)
        assert own_parts == [TRAIN] * train_end + [VALID] * (valid_end - train_end) + [TEST] * (len(times) - valid_end)
        if kind == "leave_one_out":
            assert own_parts == [TRAIN] * (len(times) - 2) + [VALID, TEST]
        else:  # nothing at or after a cut is before it
            wanted = [TRAIN if t < valid_from else VALID if t < test_from else TEST for t in times]
            assert own_parts == wanted


def test_random_parts_are_about_80_10_10() -> None:
    hashes = stable_hash(pa.array([str(user) for user in range(1000)]))
    parts = clean.random_parts(np.arange(0, 20_001, 20), np.tile(np.arange(20.0), 1000), hashes)
    shares = np.bincount(parts, minlength=3) / 20_000
    # 5 standard deviations of a fair draw: 0.4 * 5 / sqrt(20000) = 0.014 and 0.3 * 5 / sqrt(20000) = 0.011
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.0142)
    assert parts.dtype == np.int8
    # nor does the part follow the user, or the time: a share of each part within every user of 20 and time of 1000
    by_time = np.stack([(parts.reshape(1000, 20) == part).mean(0) for part in (TRAIN, VALID, TEST)])
    assert np.abs(by_time - [[0.8], [0.1], [0.1]]).max() < 5 * 0.4 / np.sqrt(1000)
    per_user = (parts.reshape(1000, 20) == TRAIN).mean(1)
    assert per_user.std() == pytest.approx(0.4 / np.sqrt(20), rel=0.15)
    # events of one time are drawn apart, and another seed draws others
    same_time = clean.random_parts(np.array([0, 20_000]), np.zeros(20_000), hashes[:1])
    assert np.bincount(same_time, minlength=3) / 20_000 == pytest.approx([0.8, 0.1, 0.1], abs=0.0142)
    other = clean.random_parts(np.arange(0, 20_001, 20), np.tile(np.arange(20.0), 1000), hashes, seed=1)
    assert (other == parts).mean() == pytest.approx(0.8**2 + 2 * 0.1**2, abs=0.03)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 3)), min_size=1, max_size=30), st.sets(st.integers(0, 29)))
def test_a_random_part_does_not_change_when_others_join(rows: list[tuple[int, int]], joining: set[int]) -> None:
    hashes = stable_hash(pa.array([f"user {user}" for user in range(4)]))

    def parts(log: list[tuple[int, int]], users: list[int]) -> dict[tuple[int, int], list[int]]:
        """The parts of each user's events of one time, which have no names but their places."""
        offsets = np.concatenate([[0], np.cumsum([sum(row[0] == user for row in log) for user in users])])
        log = sorted(log, key=lambda row: (users.index(row[0]), row[1]))
        found = clean.random_parts(offsets, np.array([row[1] for row in log], np.float64), hashes[users])
        by_event: dict[tuple[int, int], list[int]] = {}
        for row, part in zip(log, found.tolist(), strict=True):
            by_event.setdefault(row, []).append(part)
        return by_event

    before = [row for place, row in enumerate(rows) if place not in joining]
    after = parts(rows, [3, 0, 2, 1])
    for event, own in parts(before, [0, 1, 2, 3]).items() if before else ():
        assert after[event][: len(own)] == own
    assert clean.random_parts(np.array([0]), np.zeros(0), hashes[:0]).tolist() == []


# ---------------------------------------------------------------- k-core


def k_core_slowly(pairs: list[tuple[int, int]], min_user: int, min_item: int) -> list[bool]:
    """Takes out one poor user's or item's events after the other until there is none."""
    kept = [True] * len(pairs)
    while True:
        left = [pair for pair, keep in zip(pairs, kept, strict=True) if keep]
        poor_users = {u for u, _ in left if sum(user == u for user, _ in left) < min_user}
        poor_items = {i for _, i in left if sum(item == i for _, item in left) < min_item}
        if not poor_users and not poor_items:
            return kept
        kept = [
            keep and user not in poor_users and item not in poor_items
            for keep, (user, item) in zip(kept, pairs, strict=True)
        ]


def k_core(pairs: list[tuple[int, int]], min_user: int, min_item: int) -> list[bool]:
    offsets = clean.user_offsets(np.array([user for user, _ in pairs], np.int32), 6)
    item = np.array([item for _, item in pairs], np.int32)
    counts = np.bincount(item, minlength=6)
    while True:
        kept, on_alive = clean.core_step(offsets, item, counts >= min_item, min_user)
        assert (kept <= on_alive).all()
        fewer = np.bincount(item[kept], minlength=6)
        if (fewer == counts).all():
            return kept.tolist()
        counts = fewer


def test_one_turn_of_the_core_by_hand() -> None:
    # user 0: items 0, 1, 1; user 1: item 0; user 2: nothing; item 1 is out
    offsets, item = np.array([0, 3, 4, 4]), np.array([0, 1, 1, 0], np.int32)
    kept, on_alive = clean.core_step(offsets, item, np.array([True, False]), 1)
    assert kept.tolist() == on_alive.tolist() == [True, False, False, True]
    kept, on_alive = clean.core_step(offsets, item, np.array([True, True]), 2)
    assert (kept.tolist(), on_alive.tolist()) == ([True, True, True, False], [True] * 4)
    # one user's going takes an item with it, that another: nothing is left
    ladder = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]
    assert k_core(ladder, 2, 2) == [False] * 5


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40).map(sorted),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_the_core_is_that_of_a_slow_search(pairs: list[tuple[int, int]], min_user: int, min_item: int) -> None:
    assert k_core(pairs, min_user, min_item) == k_core_slowly(pairs, min_user, min_item)


# ---------------------------------------------------------------- the table


def test_histories_by_hand() -> None:
    numbers = np.array([1, 2, 1, 2, 1, UNKNOWN], np.int32)
    table = clean.history_table(
        pa.array(["a", "b"]),
        np.array([0, 3, 6]),
        numbers,
        {"times": np.array([1.0, 2, 3, 1, 2, 3]), "ratings": np.array([2, 4, 5, 1, NAN, 3], np.float32)},
        None,
        np.array([1, 1], np.int32),
        np.array([2, 2], np.int32),
        np.array([-1, -1, -1, -1, -1, 8], np.int32),
    )
    assert table.schema == HISTORY_SCHEMA
    rest = {"train_end": 1, "valid_end": 2, "timestamps": [1.0, 2.0, 3.0]}
    rest |= {"event_types": None, "features": None, "parts": None}
    assert table.to_pylist() == [
        {"user_id": "a", "items": [1, 2, 1], "outside_items": [], "ratings": [2.0, 4.0, 5.0], **rest},
        {
            "user_id": "b",
            "items": [2, 1, UNKNOWN],
            "outside_items": [8],  # one entry for each UNKNOWN
            "ratings": [1.0, None, 3.0],
            **rest,
        },
    ]


def test_columns_that_only_some_logs_have() -> None:
    table = clean.history_table(
        pa.array(["a", "b", "c"], pa.large_string()),
        np.array([0, 1, 1, 3]),
        np.array([1, 2, 3], np.int32),
        {
            "times": np.array([1.0, 2, 3]),
            "event_types": np.array([0, -1, 7], np.int16),
            "features": np.array([[1, 2], [3, 4], [5, 6]], np.float32),
        },
        np.array([TRAIN, VALID, TEST], np.int8),
        np.zeros(3, np.int32),
        np.zeros(3, np.int32),
    )
    assert table.schema == HISTORY_SCHEMA
    assert table["ratings"].to_pylist() == [None, None, None]
    assert table["items"].to_pylist() == [[1], [], [2, 3]]
    assert table["event_types"].to_pylist() == [[0], [], [None, 7]]
    assert table["features"].to_pylist() == [[1, 2], [], [3, 4, 5, 6]]  # two of each event, one event after the other
    assert table["parts"].to_pylist() == [[TRAIN], [], [VALID, TEST]]
    table.validate(full=True)


def test_a_table_of_no_users() -> None:
    none = np.zeros(0, np.int32)
    table = clean.history_table(
        pa.array([], pa.string()), np.array([0]), none, {"times": np.zeros(0)}, None, none, none
    )
    assert table.schema == HISTORY_SCHEMA
    assert table.num_rows == 0

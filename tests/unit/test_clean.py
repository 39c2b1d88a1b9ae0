"""mgray.ingest.clean: order, duplicates, bots, repeats and the k-core, by hand and against slow loops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.ingest import clean
from tests.clean_events import DAY, NAN, arrays, joined, make, ordered


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

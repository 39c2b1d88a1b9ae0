"""mgray.ingest.clean: the parts of a split, and the table of histories."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.data.columns import parts_of
from mgray.ingest import clean
from mgray.ingest.hashing import stable_hash
from mgray.schema import HISTORY_SCHEMA, TEST, TRAIN, UNKNOWN, VALID
from tests.clean_events import NAN, make, offsets_of, ordered


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

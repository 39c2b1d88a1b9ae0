"""mgray.ingest.parse: numbers that a reader can derive by hand, and laws over drawn logs."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.data.columns import parts_of
from mgray.ingest import parse
from mgray.ingest.clean import order_events, split_ends, user_offsets
from mgray.ingest.hashing import merge_ids, stable_hash
from mgray.ingest.vocabulary import build_vocabulary, order_event_types
from mgray.schema import NUMBERED_SCHEMA, TRAIN

DAY = 86400.0


def raw_rows(**columns: list) -> pl.DataFrame:
    count = len(next(iter(columns.values())))
    numbers = pl.int_range(1, count + 1, eager=True)
    return pl.DataFrame({"line": numbers, **columns})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("86400", DAY),
        (" 1.5 ", 1.5),
        ("1e3", 1000.0),
        ("-1", -1.0),
        ("1970-01-02", DAY),
        ("1970-01-02 00:00", DAY),
        ("1970-01-02T00:00:01", DAY + 1),
        ("1970-01-02t00:00:00z", DAY),
        ("1970-01-01T00:00:00.25Z", 0.25),
        ("1970-01-02T02:00:00+02:00", DAY),
        ("1970-01-01T22:00-0200", DAY),
        ("1970-01-02 10:00:00+00", DAY + 36_000),  # as PostgreSQL writes it
        ("1970-01-02 10:00:00.5-05", DAY + 54_000.5),
        ("1970-01-02T02:00+02", DAY),
        ("1970-01-02 10:00:00+", None),
        ("1970-01-02 10:00:00+5", None),
        ("9999-12-31T23:59:59", 253_402_300_799.0),
        ("-253402300799.5", -253_402_300_799.5),
        ("253402300800", None),  # the year 10000
        ("-1e308", None),
        ("yesterday", None),
        ("1970-13-01", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        (None, None),
    ],
)
def test_timestamps_are_seconds_or_iso(text: str | None, seconds: float | None) -> None:
    mixed = pl.Series("timestamp", ["0", text, "1970-01-02"], dtype=pl.String)
    assert parse.epoch_seconds(mixed).to_list() == [0.0, seconds, DAY]


def test_typed_timestamps() -> None:
    moments = pl.Series(["1970-01-02T00:00:00.5"]).str.to_datetime(time_unit="ns")
    assert parse.epoch_seconds(moments).to_list() == [DAY + 0.5]
    assert parse.epoch_seconds(moments.dt.replace_time_zone("Europe/Paris")).to_list() == [DAY + 0.5 - 3600]
    assert parse.epoch_seconds(moments.dt.date()).to_list() == [DAY]
    assert parse.epoch_seconds(pl.Series([7], dtype=pl.Int32)).to_list() == [7.0]


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
def test_units_are_of_numbers_alone(unit: str, per_second: int) -> None:
    text = pl.Series(["86400", "1.5", "-1", "1970-01-02", "1970-01-01T00:00:01.5Z", "soon", None])
    wanted = [DAY / per_second, 1.5 / per_second, -1 / per_second, DAY, 1.5, None, None]
    assert parse.epoch_seconds(text, unit).to_list() == wanted
    assert parse.epoch_seconds(pl.Series([1_500_000, None]), unit).to_list() == [1.5e6 / per_second, None]
    assert parse.epoch_seconds(pl.Series([1.5]), unit).to_list() == [1.5 / per_second]
    assert parse.epoch_seconds(pl.Series(["1970-01-02"]).str.to_date(), unit).to_list() == [DAY]


@pytest.mark.parametrize(
    ("given", "unit", "looks_like"),
    [
        (1_700_000_000, "s", None),  # November 2023 in every unit
        (1_700_000_000_000, "s", "ms"),
        (1_700_000_000_000_000, "s", "us"),
        (1_700_000_000_000_000_000, "s", "ns"),
        (1e308, "s", ""),
        (1_700_000_000_000, "ms", None),
        (1_700_000_000_000_000, "ms", "us"),
        (1_700_000_000_000_000_000, "us", "ns"),
        (-1_700_000_000_000, "s", "ms"),
        ("1700000000000", "s", "ms"),
        ("9999-12-31", "s", None),
        ("soon", "s", None),
        (None, "s", None),
        (float("inf"), "s", None),
    ],
)
def test_a_time_beyond_the_year_9999_tells_its_unit(given: object, unit: str, looks_like: str | None) -> None:
    assert parse.finer_unit(pl.Series([given]), unit).to_list() == [looks_like]


def test_times_beyond_the_year_9999_are_set_aside() -> None:
    times = ["7", "1e308", "-1e308", "1700000000000", "1e400"]
    good, bad = parse.parse_events(raw_rows(user_id=["u"] * 5, item_id=["i"] * 5, timestamp=times))
    assert good["timestamp"].to_list() == [7.0]
    assert bad.select("line", "reason").rows() == [
        (2, "timestamp '1e308' in s is further from 1970 than the year 9999"),
        (3, "timestamp '-1e308' in s is further from 1970 than the year 9999"),
        (4, "timestamp '1700000000000' looks like ms: see data.columns.timestamp_unit"),
        (5, "timestamp '1e400' is neither seconds since 1970 nor ISO 8601"),
    ]


@pytest.mark.parametrize(
    ("dtype", "far", "seconds"),
    [
        (pl.Date, 2**31 - 1, (2**31 - 1) * DAY),
        (pl.Datetime("ms"), 2**62, 2**62 / 1e3),
        (pl.Datetime("us", "UTC"), 2**62, 2**62 / 1e6),
    ],
)
def test_typed_times_that_no_calendar_can_spell(dtype: pl.DataType, far: int, seconds: float) -> None:
    times = pl.Series([0, far, None]).cast(pl.Int32 if dtype == pl.Date else pl.Int64).cast(dtype)
    rows = raw_rows(user_id=[1, 2, 3], item_id=[1, 2, 3], timestamp=times)
    good, bad = parse.parse_events(rows, "ms")
    assert good["timestamp"].to_list() == [0.0]
    assert bad["line"].to_list() == [2, 3]
    _, shown, rest = bad["reason"][0].split("'")
    assert float(shown) == seconds
    assert rest == " in s is further from 1970 than the year 9999"
    assert bad["reason"][1] == "timestamp is empty"


def test_ids_are_text_whatever_the_log_has() -> None:
    assert parse.id_text(pl.Series([12, None])).to_list() == ["12", None]
    assert parse.id_text(pl.Series([12.0, -3.0, 1.5, float("nan"), None])).to_list() == [
        "12",
        "-3",
        "1.5",
        None,
        None,
    ]
    assert parse.id_text(pl.Series(["012", "12.0", "", " ", None])).to_list() == ["012", "12", None, None, None]


def test_bad_rows_are_set_aside_with_their_reason() -> None:
    rows = raw_rows(
        user_id=["u", "", "u", "u", "u", "u", "u"],
        item_id=["i", "i", None, "i", "i", "i", "i"],
        timestamp=["1", "1", "1", "soon", "", "1", "1"],
        rating=["", "1", "1", "1", "1", "five", "inf"],
    ).with_columns(pl.format("raw {}", "line").alias("raw"))
    good, bad = parse.parse_events(rows)
    assert good.select("user_id", "item_id", "timestamp").rows() == [("u", "i", 1.0)]
    assert good["rating"].to_list() == [None]  # a blank rating is no rating, not a bad row
    assert bad["line"].to_list() == [2, 3, 4, 5, 6, 7]
    assert bad["raw"].to_list() == [f"raw {line}" for line in range(2, 8)]
    assert bad["reason"].to_list() == [
        "user_id is empty",
        "item_id is empty",
        "timestamp 'soon' is neither seconds since 1970 nor ISO 8601",
        "timestamp is empty",
        "rating 'five' is not a number",
        "rating 'inf' is not a number",
    ]


def test_a_typed_bad_row_is_kept_as_json() -> None:
    rows = raw_rows(user_id=[1, None], item_id=[2, 3], timestamp=[4, 5])
    good, bad = parse.parse_events(rows)
    assert good.select("user_id", "item_id", "timestamp", "rating").row(0) == ("1", "2", 4.0, None)
    assert bad["raw"].to_list() == ['{"user_id":null,"item_id":3,"timestamp":5}']
    assert good.schema == {
        "user_id": pl.String,
        "item_id": pl.String,
        "timestamp": pl.Float64,
        "rating": pl.Float64,
        "event_type": pl.String,
    }


def test_features_are_numbers_or_missing() -> None:
    rows = raw_rows(
        user_id=["u"] * 7,
        item_id=["i"] * 7,
        timestamp=["1"] * 7,
        **{
            "feature:price": ["1", "", None, " 2.5 ", "dear", "inf", "4"],
            "feature:age": ["7", "8", " ", "1e3", "9", "9", "nan"],
        },
    ).with_columns(pl.format("raw {}", "line").alias("raw"))
    good, bad = parse.parse_events(rows)
    assert good["feature:price"].to_list() == [1.0, None, None, 2.5]
    assert good["feature:age"].to_list() == [7.0, 8.0, None, 1000.0]
    assert bad.rows() == [
        (5, "price 'dear' is not a number", "raw 5"),
        (6, "price 'inf' is not a number", "raw 6"),
        (7, "age 'nan' is not a number", "raw 7"),
    ]


def test_typed_numbers_keep_their_value() -> None:
    rows = raw_rows(user_id=[1, 2], item_id=[1, 2], timestamp=[1, 2], rating=[0.1, 3.0]).with_columns(
        pl.col("rating").cast(pl.Float32), pl.Series("feature:count", [2**60, None])
    )
    good, bad = parse.parse_events(rows)
    assert bad.is_empty()
    assert good["rating"].to_list() == [float(np.float32(0.1)), 3.0]
    assert good["feature:count"].to_list() == [2.0**60, None]


def test_the_readers_own_problem_comes_first() -> None:
    rows = raw_rows(user_id=["", "u"], item_id=["i", "i"], timestamp=["1", "1"], problem=["too short", None])
    good, bad = parse.parse_events(rows)
    assert (good.height, bad["reason"].to_list()) == (1, ["too short"])


# ---------------------------------------------------------------- cut times


def test_quantile_cuts_by_hand() -> None:
    ten = np.arange(10.0)
    assert parse.temporal_cuts([ten]) == (8.0, 9.0)  # events 0..7 are 80%
    # the sorted log is 1 x6, 2 x3, 3 x1: index 8 is 2, index 9 is 3; parts of the log may have times in common
    parts = [np.array(part) for part in ([1.0, 1.0, 3.0], [], [1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 2.0])]
    assert parse.temporal_cuts(parts) == (2.0, 3.0)
    assert parse.temporal_cuts([ten], valid_from=4.5) == (4.5, 9.0)
    assert parse.temporal_cuts([ten], test_from=8.5) == (8.0, 8.5)
    assert parse.temporal_cuts([], 1.0, 2.0) == (1.0, 2.0)
    assert parse.temporal_cuts([np.array([-3.5])]) == (-3.5, -3.5)


moments = (
    st.integers(-3, 3).map(float)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 1.5e9, 1.5e9 + 2**-20, -1e-300, 5e-324, 1e300])
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(moments, max_size=12), min_size=1, max_size=5).filter(any))
def test_cuts_are_the_values_of_the_sorted_log(parts: list[list[float]]) -> None:
    log = sorted(time for part in parts for time in part)
    wanted = (log[len(log) * 8 // 10], log[len(log) * 9 // 10])
    assert parse.temporal_cuts([np.sort(np.array(part, np.float64)) for part in parts]) == wanted


# ---------------------------------------------------------------- vocabulary


def test_vocabulary_counts_the_training_part_only() -> None:
    log = [
        ("a", "x", 1), ("a", "x", 2), ("a", "v", 3), ("a", "t", 4),
        ("b", "y", 1), ("b", "10", 2), ("b", "9", 3), ("b", "x", 4)
    ]  # fmt: skip
    log = [*log, *(("c" + user, item, time) for user, item, time in log)]
    users, items = (pa.array(column) for column in list(zip(*log, strict=True))[:2])
    user, (item, _, item_ids) = merge_ids(stable_hash(users), users).codes, merge_ids(stable_hash(items), items)
    time = np.array([float(row[2]) for row in log])
    order = order_events(user, time)
    offsets = user_offsets(user, 4)
    trains = parts_of(offsets, *split_ends(offsets, time[order], "leave_one_out")) == TRAIN
    counts = np.bincount(item[order][trains], minlength=len(item_ids))
    titles = pl.DataFrame({"item_id": ["x", "x", "v"], "title": ["X", "again", "V"]})
    found = build_vocabulary(item_ids, counts, titles)
    assert found.warm.schema == NUMBERED_SCHEMA
    # falling count, ties by id as text; v, 9 validate and t tests, so they have no number
    assert found.warm.to_pylist() == [
        {"item": 1, "item_id": "x", "num_train_events": 4, "title": "X"},
        {"item": 2, "item_id": "10", "num_train_events": 2, "title": None},
        {"item": 3, "item_id": "y", "num_train_events": 2, "title": None},
    ]
    numbers = dict(zip(item_ids.to_pylist(), found.numbers.tolist(), strict=True))
    assert numbers == {"x": 1, "10": 2, "y": 3, "v": 0, "t": 0, "9": 0}
    assert found.cold.num_rows == 0


def vocabulary(counts: dict[str, int], **options: object) -> tuple[list[tuple], list[tuple], list[int]]:
    """Of the warm (item, item_id, num_train_events), of the cold (item_id, num_train_events), and the numbers."""
    found = build_vocabulary(pa.array(list(counts), pa.string()), np.array(list(counts.values()), np.int64), **options)
    warm = pl.DataFrame(pl.from_arrow(found.warm)).drop("title").rows()
    return warm, pl.DataFrame(pl.from_arrow(found.cold)).rows(), found.numbers.tolist()


def test_ties_are_in_the_order_of_bytes() -> None:
    ids = ["b", "a", "B", "\u00e9", "10", "9", "\U0001f600", "\uffee"]
    warm, _, _ = vocabulary(dict.fromkeys(ids, 3))
    assert [item for _, item, _ in warm] == sorted(ids, key=str.encode)


def test_items_with_too_few_training_events_are_cold() -> None:
    warm, cold, numbers = vocabulary({"a": 2, "b": 5, "c": 0, "d": 3, "e": 2}, min_count=3)
    assert warm == [(1, "b", 5), (2, "d", 3)]
    assert cold == [("a", 2), ("e", 2)]  # c trains in no event: it is neither
    assert numbers == [0, 1, 0, 2, 0]
    assert vocabulary({}) == ([], [], [])


def test_known_items_keep_their_numbers() -> None:
    titles = pl.DataFrame({"item_id": ["gone", "new"], "title": ["Gone", "New"]})
    counts = {"new": 9, "a": 1, "b": 7, "never": 0, "newer": 9, "rare": 2}
    warm, cold, numbers = vocabulary(counts, titles=titles, min_count=3, known=["b", "gone", "a"])
    # "gone" has no events any more, "a" too few: both have been given a number before
    assert warm == [(1, "b", 7), (2, "gone", 0), (3, "a", 1), (4, "new", 9), (5, "newer", 9)]
    assert cold == [("rare", 2)]
    assert numbers == [4, 3, 1, 0, 5, 0]
    found = build_vocabulary(pa.array(["new"]), np.array([1]), titles, known=["gone"])
    assert found.warm["title"].to_pylist() == ["Gone", "New"]
    assert found.warm.schema == NUMBERED_SCHEMA


def test_event_types_by_training_events() -> None:
    counts = {"apply": 0, "buy": 2, "view": 9, "cart": 2, "B": 2}
    assert order_event_types(counts) == ["view", "B", "buy", "cart"]
    # "gone" has no events any more and "apply" none yet: both have been given a number before
    known = ["cart", "gone", "apply"]
    assert order_event_types(counts, known) == [*known, "view", "B", "buy"]
    assert order_event_types({}) == []


names = st.text(st.sampled_from("ab\u00e9"), min_size=1, max_size=2)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(names, st.integers(0, 4), max_size=12),
    st.lists(names, unique=True, max_size=4),
    st.integers(1, 3),
    st.dictionaries(names, st.integers(0, 4), max_size=12),
)
def test_an_appended_log_renumbers_nobody(
    counts: dict[str, int], known: list[str], min_count: int, later: dict[str, int]
) -> None:
    warm, cold, numbers = vocabulary(counts, min_count=min_count, known=known)
    assert [item for item, *_ in warm] == list(range(1, len(warm) + 1))
    assert [name for _, name, _ in warm][: len(known)] == known
    by_name = {name: item for item, name, _ in warm}
    assert [by_name.get(name, 0) for name in counts] == numbers
    new = {name: count for name, count in counts.items() if count >= min_count and name not in known}
    assert [name for _, name, _ in warm][len(known) :] == sorted(new, key=lambda name: (-new[name], name.encode()))
    assert dict(cold) == {n: count for n, count in counts.items() if 0 < count < min_count and n not in known}
    again, _, _ = vocabulary(later, min_count=min_count, known=list(by_name))
    assert [row[:2] for row in again][: len(warm)] == [row[:2] for row in warm]

"""mgray.features: numbers that a reader can derive by hand, and laws over drawn logs."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray import features
from mgray.schema import EVENT_SCHEMA, HISTORY_SCHEMA, UNKNOWN, VOCABULARY_SCHEMA

DAY = 86400.0


def events(*rows: tuple) -> pl.DataFrame:
    """(user, item, timestamp[, rating]) in log order."""
    return pl.DataFrame(
        [
            {
                "user_id": row[0],
                "item_id": row[1],
                "timestamp": float(row[2]),
                "rating": row[3] if len(row) > 3 else None,
                "event_type": None,
                "order": order,
            }
            for order, row in enumerate(rows)
        ],
        schema=pl.from_arrow(EVENT_SCHEMA.empty_table()).schema,
    )


def raw_rows(**columns: list) -> pl.DataFrame:
    count = len(next(iter(columns.values())))
    numbers = pl.int_range(1, count + 1, eager=True)
    return pl.DataFrame({"line": numbers, "order": numbers, **columns})


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
    assert features.epoch_seconds(mixed).to_list() == [0.0, seconds, DAY]


def test_typed_timestamps() -> None:
    moments = pl.Series(["1970-01-02T00:00:00.5"]).str.to_datetime(time_unit="ns")
    assert features.epoch_seconds(moments).to_list() == [DAY + 0.5]
    assert features.epoch_seconds(moments.dt.replace_time_zone("Europe/Paris")).to_list() == [DAY + 0.5 - 3600]
    assert features.epoch_seconds(moments.dt.date()).to_list() == [DAY]
    assert features.epoch_seconds(pl.Series([7], dtype=pl.Int32)).to_list() == [7.0]


def test_ids_are_text_whatever_the_log_has() -> None:
    assert features.id_text(pl.Series([12, None])).to_list() == ["12", None]
    assert features.id_text(pl.Series([12.0, -3.0, 1.5, float("nan"), None])).to_list() == [
        "12",
        "-3",
        "1.5",
        None,
        None,
    ]
    assert features.id_text(pl.Series(["012", "12.0", "", " ", None])).to_list() == ["012", "12.0", None, None, None]


def test_bad_rows_are_set_aside_with_their_reason() -> None:
    rows = raw_rows(
        user_id=["u", "", "u", "u", "u", "u", "u"],
        item_id=["i", "i", None, "i", "i", "i", "i"],
        timestamp=["1", "1", "1", "soon", "", "1", "1"],
        rating=["", "1", "1", "1", "1", "five", "inf"],
    ).with_columns(pl.format("raw {}", "line").alias("raw"))
    good, bad = features.parse_events(rows)
    assert good["order"].to_list() == [1]
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
    good, bad = features.parse_events(rows)
    assert good.select("user_id", "item_id", "timestamp", "rating").row(0) == ("1", "2", 4.0, None)
    assert bad["raw"].to_list() == ['{"user_id":null,"item_id":3,"timestamp":5}']
    assert good.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(EVENT_SCHEMA).num_rows == 1


def test_the_first_of_equal_events_stays() -> None:
    log = events(("u", "i", 1, 5.0), ("u", "i", 1, 4.0), ("u", "i", 1, 5.0), ("u", "i", 2, 5.0), ("v", "i", 1, 5.0))
    assert features.drop_duplicates(log)["order"].to_list() == [0, 1, 3, 4]
    assert features.drop_duplicates(log.reverse())["order"].to_list() == [0, 1, 3, 4]


def test_equal_times_keep_the_order_of_the_log() -> None:
    log = events(("b", "z", 5), ("a", "y", 5), ("a", "x", 5), ("a", "w", 1))
    assert features.sort_events(log)["item_id"].to_list() == ["w", "y", "x", "z"]


def test_short_users_go() -> None:
    log = events(("a", "x", 1), ("b", "x", 1), ("a", "y", 2), ("b", "y", 2), ("a", "z", 3))
    assert features.drop_short_users(log, 3)["user_id"].to_list() == ["a"] * 3
    assert features.drop_short_users(log, 2).height == 5
    assert features.drop_short_users(log, 4).height == 0


def test_leave_one_out_splits() -> None:
    log = features.assign_splits(
        events(*(("a", "x", t) for t in range(5)), *(("b", "x", t) for t in range(3))), "leave_one_out"
    )
    assert log.select("position", "train_end", "valid_end").rows() == [
        *((place, 3, 4) for place in range(5)),
        *((place, 1, 2) for place in range(3)),
    ]


def test_an_event_at_a_cut_is_behind_it() -> None:
    log = events(
        ("a", "x", 1), ("a", "x", 2), ("a", "x", 3), ("b", "x", 2), ("b", "x", 9), ("c", "x", 0), ("c", "x", 1)
    )
    split = features.assign_splits(log, "temporal", valid_from=2.0, test_from=3.0)
    ends = split.group_by("user_id", maintain_order=True).agg(pl.col("train_end", "valid_end").first())
    assert ends.rows() == [("a", 1, 2), ("b", 0, 1), ("c", 2, 2)]


def test_quantile_cuts_by_hand() -> None:
    ten = pl.DataFrame({"timestamp": [float(t) for t in range(10)], "count": [1] * 10})
    assert features.temporal_cuts(ten) == (8.0, 9.0)  # events 0..7 are 80%
    # the sorted log is 1 x6, 2 x3, 3 x1: index 8 is 2, index 9 is 3; pieces of the log may repeat a timestamp
    pieces = pl.DataFrame({"timestamp": [3.0, 1.0, 2.0, 1.0], "count": [1, 4, 3, 2]})
    assert features.temporal_cuts(pieces) == (2.0, 3.0)
    assert features.temporal_cuts(ten, valid_from=4.5) == (4.5, 9.0)


def test_vocabulary_counts_the_training_part_only() -> None:
    log = events(
        ("a", "x", 1), ("a", "x", 2), ("a", "v", 3), ("a", "t", 4),
        ("b", "y", 1), ("b", "10", 2), ("b", "9", 3), ("b", "x", 4)
    )  # fmt: skip
    counts = features.count_train_items(features.assign_splits(log, "leave_one_out"))
    titles = pl.DataFrame({"item_id": ["x", "x", "v"], "title": ["X", "again", "V"]})
    table = features.build_vocabulary(pl.concat([counts, counts]), titles)
    assert table.schema == VOCABULARY_SCHEMA
    # falling count, ties by id as text; v, 9 validate and t tests, so they have no number
    assert table.to_pylist() == [
        {"item": 1, "item_id": "x", "num_train_events": 4, "title": "X"},
        {"item": 2, "item_id": "10", "num_train_events": 2, "title": None},
        {"item": 3, "item_id": "y", "num_train_events": 2, "title": None},
    ]


def test_histories_by_hand() -> None:
    log = events(
        ("b", "y", 1, 1.0),
        ("a", "x", 1, 2.0),
        ("b", "x", 2),
        ("b", "t", 3, 3.0),
        ("a", "y", 2, 4.0),
        ("a", "x", 3, 5.0),
    )
    split = features.assign_splits(features.sort_events(log), "leave_one_out")
    vocabulary = pl.from_arrow(features.build_vocabulary(features.count_train_items(split)))
    assert isinstance(vocabulary, pl.DataFrame)
    table = features.encode_histories(split, vocabulary, has_ratings=True, has_event_types=False)
    assert table.schema == HISTORY_SCHEMA
    ends = {"train_end": 1, "valid_end": 2, "timestamps": [1.0, 2.0, 3.0], "event_types": None}
    assert table.to_pylist() == [
        {"user_id": "a", "items": [1, 2, 1], "ratings": [2.0, 4.0, 5.0], **ends},
        {"user_id": "b", "items": [2, 1, UNKNOWN], "ratings": [1.0, None, 3.0], **ends},
    ]
    assert features.encode_histories(split, vocabulary, False, False)["ratings"].to_pylist() == [None, None]


def test_buckets_are_pinned() -> None:
    # a change of these numbers moves users between shards, and so changes every fingerprint
    assert features.stable_bucket(pl.Series(["a", "b", "ab", "ba", "a", "é"]), 1000).tolist() == [
        532,
        622,
        427,
        33,
        532,
        250,
    ]
    sizes = pl.Series(features.stable_bucket(pl.Series([str(i) for i in range(8000)]), 8)).value_counts()["count"]
    assert sizes.min() > 850
    assert sizes.max() < 1150


ids = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(st.lists(ids, min_size=1, max_size=30), st.integers(1, 7))
def test_a_bucket_depends_on_the_id_alone(names: list[str], num_buckets: int) -> None:
    together = features.stable_bucket(pl.Series(names), num_buckets).tolist()
    alone = [features.stable_bucket(pl.Series([name]), num_buckets)[0] for name in names]
    assert together == alone
    assert all(0 <= bucket < num_buckets for bucket in together)


rows_of_a_log = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 4)), min_size=1, max_size=40
)


@settings(max_examples=40, deadline=None)
@given(rows_of_a_log, st.sampled_from(["leave_one_out", "temporal"]))
def test_laws_of_a_cleaned_log(rows: list[tuple], kind: features.SplitKind) -> None:
    log = features.drop_short_users(features.sort_events(features.drop_duplicates(events(*rows))), 3)
    split = features.assign_splits(log, kind, 2.0, 4.0)
    assert len(set(split.select("user_id", "item_id", "timestamp").rows())) == split.height
    for _, history in split.group_by("user_id"):
        assert history["position"].to_list() == list(range(history.height))
        assert history.select("timestamp", "order").rows() == sorted(history.select("timestamp", "order").rows())
        train_end, valid_end = history["train_end"][0], history["valid_end"][0]
        assert 0 <= train_end <= valid_end <= history.height
        if kind == "temporal":
            times = history["timestamp"].to_list()
            assert all(t < 2.0 for t in times[:train_end])
            assert all(2.0 <= t < 4.0 for t in times[train_end:valid_end])
            assert all(t >= 4.0 for t in times[valid_end:])

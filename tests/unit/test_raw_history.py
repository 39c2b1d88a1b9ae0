"""What a service sends is read, or refused with the row, the name and what it should be."""

from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from mgray.data.inputs import InputSpec
from mgray.data.manifest import Feature
from mgray.errors import InputError
from mgray.serve.recommender import Recommender
from mgray.serve.request import HistoryEncoder, id_list, id_text_of
from tests.models import model_config, write_model

CONFIG = model_config(inputs=("event_type", "features", "rating", "time_gap"))
SPEC = InputSpec(event_types=("buy", "view"), features=(Feature(name="price", mean=10, std=5),))
HISTORIES = [["a", "no such item", "b"], []]
BESIDE = {
    "timestamps": [[1, 2, 3.5], []],
    "event_types": [["view", "buy", "no such type"], []],
    "ratings": [[4, None, None], None],
    "features": [[[15], None, None], []],
}


@pytest.fixture
def encoder() -> HistoryEncoder:
    return HistoryEncoder(["a", "b"], CONFIG, SPEC)


def test_unknown_items_are_left_out_of_every_column(encoder: HistoryEncoder) -> None:
    encoder.check(2, BESIDE)
    columns, unknown = encoder.encode(HISTORIES, BESIDE, 0)
    assert unknown == 1
    assert columns.items.tolist() == [1, 2]
    assert columns.times.tolist() == [1, 3.5]
    assert columns.event_types.tolist() == [2, 0]
    assert np.array_equal(columns.ratings, np.float32([4, np.nan]), equal_nan=True)
    assert columns.features.tolist() == [[1.0], [0.0]]  # (15 - 10) / 5, and a missing one at the mean


def test_ids_are_matched_by_the_rule_of_ids() -> None:
    plain = HistoryEncoder(["a", "7", "007", "true"], model_config(), InputSpec())
    history = [
        7,
        7.0,
        "7.0",
        " 7\t",
        np.int64(7),
        np.float32(7),
        Decimal("7.00"),
        "007",
        "a ",
        "7.5",
        "NULL",
        " ",
    ]
    columns, unknown = plain.encode([history], {}, 0)
    assert columns.items.tolist() == [2] * 7 + [3, 1]
    assert unknown == 3
    # a model that an earlier rule trained: an id exactly as it has it comes first
    older = HistoryEncoder(["7.0", " b", "7", "8.0", "x"], model_config(), InputSpec())
    assert older.numbers_of(["7.0", "7", 7, "8", 8.0, "8.00", "b", " b", "x ", "y"], "history") == [
        1,
        3,
        3,
        4,
        4,
        4,
        2,
        2,
        5,
        0,
    ]


def test_an_empty_history_has_every_column(encoder: HistoryEncoder) -> None:
    columns, unknown = encoder.encode(HISTORIES, BESIDE, 1)
    assert unknown == 0
    assert {name: len(column) for name, column in columns.present().items()} == dict.fromkeys(
        ("items", "times", "event_types", "ratings", "features"), 0
    )
    assert columns.features.shape == (0, 1)


def test_a_model_of_items_needs_nothing_beside_them() -> None:
    plain = HistoryEncoder(["a", "b"], model_config(), InputSpec())
    plain.check(2, {})
    columns, _ = plain.encode(HISTORIES, {"timestamps": ["what", "ever"]}, 0)
    assert list(columns.present()) == ["items"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestamps": None}, "the model reads timestamps, which are not given: put a column timestamps beside"),
        ({"ratings": [[1, 2, 3]]}, "ratings: 1 lists for 2 histories"),
        ({"ratings": [[1, 2], []]}, "row 0: ratings has 2 values for the 3 items"),
        ({"ratings": [["good", 2, 3], []]}, "row 0: ratings are not what they should be: ratings, none"),
        ({"timestamps": [[3, 2, 1], []]}, "row 0: timestamps must be seconds since 1970, oldest first"),
        ({"timestamps": [[1, None, 3], []]}, "row 0: timestamps must be"),
        ({"timestamps": [[1, 2, float("inf")], []]}, "row 0: timestamps must be finite numbers"),
        ({"ratings": [[1, float("inf"), 3], []]}, "row 0: ratings must be finite numbers"),
        ({"ratings": [float("nan"), []]}, "row 0: ratings must be a list"),
        ({"ratings": [["5", 2, 3], []]}, "row 0: ratings are not what they should be: .*'5' is no number"),
        ({"ratings": [[True, 2, 3], []]}, "row 0: ratings are not what they should be: .*True is no number"),
        ({"ratings": [[1e300, 2, 3], []]}, "row 0: ratings must be finite numbers"),
        ({"timestamps": [["1", 2, 3], []]}, "row 0: timestamps are not what they should be: .*'1' is no number"),
        ({"timestamps": [[1, 2, 10**400], []]}, "row 0: timestamps are not what they should be"),
        ({"timestamps": ["123", []]}, "row 0: timestamps must be a list, a value for each item of history, not '123'"),
        ({"event_types": [[True, "buy", "buy"], []]}, "row 0: event_types are not what they should be: names"),
        ({"event_types": [[["buy"], "buy", "buy"], []]}, "row 0: event_types are not what they should be"),
        ({"features": [[[float("inf")], [1], [1]], []]}, "row 0: features are not what they should be"),
        ({"features": [[[1, 2], [1, 2], [1, 2]], []]}, "row 0: features are not what they should be: lists"),
        ({"features": [[["1"], [1], [1]], []]}, "row 0: features are not what they should be: lists"),
        ({"features": [[[1e300], [1], [1]], []]}, "row 0: features are not what they should be: .*infinite"),
    ],
)
def test_what_is_wrong_is_said(encoder: HistoryEncoder, change: dict, message: str) -> None:
    given = {name: values for name, values in (BESIDE | change).items() if values is not None}

    def read() -> None:
        encoder.check(2, given)
        encoder.encode(HISTORIES, given, 0)

    with pytest.raises(InputError, match=message):
        read()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("7", "7"),
        ("no such item", "no such item"),
        (7, "7"),
        (-7, "-7"),
        (7.0, "7"),
        (1e20, "100000000000000000000"),
        (2**60 + 1, "1152921504606846977"),
        (7.5, "7.5"),
        (np.int32(7), "7"),
        (np.float64(7), "7"),
        (Decimal("7.00"), "7"),
        (np.str_("7"), "7"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    ],
)
def test_an_id_is_text_or_a_whole_number(value: Any, text: str) -> None:
    found = id_text_of(value, "history")
    assert (found, type(found)) == (text, str)


@pytest.mark.parametrize("value", [None, True, np.True_, float("nan"), float("inf"), [7], {"id": 7}, b"7"])
def test_what_is_no_id_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^row 3: history: .* is neither text nor a whole number"):
        id_text_of(value, "row 3: history")


def test_a_list_of_ids_is_no_text() -> None:
    assert id_list(None, "blocked") == []
    assert sorted(id_list({7, "8"}, "blocked")) == ["7", "8"]
    for value in ("78", b"78", 78, {"7": 8}, "x" * 1000):
        with pytest.raises(InputError, match=r"^blocked must be a list of item ids, not .{1,60}$"):
            id_list(value, "blocked")


def test_numbers_of_every_kind_are_read(encoder: HistoryEncoder) -> None:
    numbers = {"timestamps": [[1, np.int64(2), Decimal("3.5")], []], "ratings": [[4, 1.5, float("nan")], []]}
    columns, _ = encoder.encode([["a", "b", "a"], []], BESIDE | numbers, 0)
    assert columns.times.tolist() == [1, 2, 3.5]
    assert np.array_equal(columns.ratings, np.float32([4, 1.5, np.nan]), equal_nan=True)


def test_event_types_of_digits_may_be_numbers() -> None:
    spec = InputSpec(event_types=("1", "2"))
    encoder = HistoryEncoder(["a"], model_config(inputs=("event_type",)), spec)
    columns, _ = encoder.encode([["a"] * 5], {"event_types": [[2, "2", 1.0, None, float("nan")]]}, 0)
    assert columns.event_types.tolist() == [2, 2, 1, 0, 0]


def test_empty_histories_need_nothing_beside_them(encoder: HistoryEncoder) -> None:
    for histories in ([], [[]], [None, []]):
        found = encoder.encode_all(histories, {})
        assert [len(columns) for columns, _ in found] == [0] * len(histories)
    with pytest.raises(InputError, match="row 0: ratings has 1 values for the 0 items"):
        encoder.encode_all([[]], {"ratings": [[1]]})
    with pytest.raises(InputError, match="the model reads event_types"):
        encoder.encode_all([[], ["a"]], {})


def test_a_recommender_takes_ids_in_any_spelling(tmp_path: Path) -> None:
    config = model_config(outputs="both")
    recommender = Recommender(write_model(tmp_path / "model", ["7", "8", "9", "x"], [4, 3, 2, 1], config=config))
    beside = {"ratings": [[4, None]]}
    wanted = recommender.recommend([["7", "8"]], 4, True, beside, candidates=["7", "9", "x"], blocked=["x"])
    assert wanted.items == [["9"]]
    given = recommender.recommend([[7.0, " 8\t"]], 4, True, beside, candidates=[7, "9.0", "x "], blocked=["x\u00a0"])
    assert (given.items, given.scores, given.num_unknown) == (wanted.items, wanted.scores, [0])
    ratings = recommender.rate([["7", "8"]], [["9", "9"]], beside)
    assert recommender.rate([[7, 8.0]], [["9.0", 9]], beside) == ratings

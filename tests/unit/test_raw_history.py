"""What a service sends is read, or refused with the row, the name and what it should be."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from mgray.errors import InputError
from mgray.inputs import InputSpec
from mgray.manifest import Feature
from mgray.raw_history import HistoryEncoder
from mgray.recommend import Recommender
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
        None,
        "NULL",
        True,
    ]
    columns, unknown = plain.encode([history], {}, 0)
    assert columns.items.tolist() == [2] * 7 + [3, 1, 4]
    assert unknown == 3
    # a model that an earlier rule trained: an id exactly as it has it comes first
    older = HistoryEncoder(["7.0", " b", "7", "8.0", "x"], model_config(), InputSpec())
    assert [older.number(item) for item in ("7.0", "7", 7, "8", 8.0, "8.00", "b", " b", "x ", "y")] == [
        1,
        3,
        1,
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
        ({"event_types": [[["buy"], "buy", "buy"], []]}, "row 0: event_types are not what they should be"),
        ({"features": [[[float("inf")], [1], [1]], []]}, "row 0: features are not what they should be"),
        ({"features": [[[1, 2], [1, 2], [1, 2]], []]}, "row 0: features are not what they should be: lists"),
    ],
)
def test_what_is_wrong_is_said(encoder: HistoryEncoder, change: dict, message: str) -> None:
    given = {name: values for name, values in (BESIDE | change).items() if values is not None}

    def read() -> None:
        encoder.check(2, given)
        encoder.encode(HISTORIES, given, 0)

    with pytest.raises(InputError, match=message):
        read()


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

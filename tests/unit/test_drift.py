"""Drift's numbers, each to be had by hand."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mgray.eval.drift import (
    Drift,
    LogSummary,
    drift_line,
    known_share,
    measure_drift,
    popularity_bins,
    stability_index,
    summarize,
    verdict,
)
from tests.datasets import write_dataset

NO_LENGTHS = np.zeros(7, dtype=np.int64)


def log_summary(events: dict[str, int], unknown: int = 0, types: dict[str, int] | None = None) -> LogSummary:
    return LogSummary(list(events), np.asarray([0, *events.values()]), unknown, types or {}, NO_LENGTHS)


def test_stability_index_by_hand() -> None:
    # (3/4 - 1/2) ln(3/2) + (1/4 - 1/2) ln(1/2) = 1/4 ln 3
    assert stability_index([50, 50], [75, 25]) == pytest.approx(math.log(3) / 4)
    assert stability_index([1, 2, 3], [10, 20, 30]) == pytest.approx(0)
    # an empty bin counts as 0.0001: (0.0001 - 1/2) ln(0.0002) + (1 - 1/2) ln 2
    assert stability_index([5, 5], [9, 0]) == pytest.approx((1e-4 - 0.5) * math.log(2e-4) + 0.5 * math.log(2))
    assert stability_index([0, 0], [1, 2]) is None


def test_verdicts_are_the_usual_thresholds() -> None:
    words = [verdict(index) for index in (0.0, 0.0999, 0.1, 0.2499, 0.25)]
    assert words == ["stable", "stable", "shifted", "shifted", "drifted"]


def test_popularity_bins_hold_equal_shares_of_events() -> None:
    assert popularity_bins(np.asarray([1, 4, 1, 2]), 2).tolist() == [1, 0, 1, 1]
    assert popularity_bins(np.full(100, 3)).tolist() == [number // 10 for number in range(100)]
    # one item with most events fills its bin and those after it
    assert popularity_bins(np.asarray([90, 5, 5])).tolist() == [0, 9, 9]


def test_new_events_are_the_difference_of_two_logs() -> None:
    """a had 10 of 20 events and gets 8 of 10 new ones; numbers differ between the two vocabularies."""
    before = log_summary({"a": 10, "b": 10}, types={"view": 10, "buy": 10})
    after = log_summary({"b": 12, "a": 18, "c": 0}, types={"view": 18, "buy": 12})
    drift = measure_drift(before, after)
    # of the 10 new events 8 are on a, the item of bin 0, and 2 on b, that of bin 5, which had half each
    expected = 0.3 * math.log(0.8 / 0.5) + (0.2 - 0.5) * math.log(0.2 / 0.5)
    assert drift == Drift(10, pytest.approx(expected), pytest.approx(expected), None, 0.0)
    assert drift.verdict == "drifted"


def test_share_of_events_outside_the_vocabulary() -> None:
    """12 new events: 4 on a, 3 on c (new to the champion), 5 on items that no training part has."""
    before = log_summary({"a": 10}, unknown=1)
    after = log_summary({"a": 14, "c": 3}, unknown=6)
    drift = measure_drift(before, after)
    assert (drift.num_new_events, drift.oov_share) == (12, pytest.approx(8 / 12))
    assert drift.event_types is None


def test_nothing_new_has_no_drift() -> None:
    same = log_summary({"a": 3, "b": 1})
    drift = measure_drift(same, same)
    assert drift == Drift(0, None, None, None, None)
    assert drift.verdict == "unknown"
    assert "0 new events" in drift_line(drift)
    assert "not known" in drift_line(None)


def test_known_share_tells_other_ids_apart() -> None:
    current = log_summary({"a": 6, "b": 2}, unknown=2)
    assert known_share(["a", "z"], current) == 0.6
    assert known_share(["1", "2"], current) == 0.0
    # of the new events, 3 on a, 1 on b and 1 unknown, three fifths are on a known item
    assert known_share(["a", "z"], current, log_summary({"a": 3, "b": 1}, unknown=1)) == 0.6
    assert math.isnan(known_share(["a"], current, current))


def test_summary_of_a_dataset(tmp_path: Path) -> None:
    """u1 has 4 events, u2 has 3; each user's last two, a and d or c and a, are behind the training part."""
    log = pl.DataFrame(
        {
            "user_id": ["u1"] * 4 + ["u2"] * 3,
            "item_id": ["a", "b", "a", "d", "b", "c", "a"],
            "timestamp": [float(t) for t in range(7)],
            "rating": [1.0] * 7,
        }
    )
    summary = summarize(write_dataset(tmp_path / "data", log))
    assert summary.item_ids == ["b", "a"]
    assert summary.item_events.tolist() == [0, 2, 3]
    assert summary.unknown_events == 2
    assert summary.lengths.tolist() == [2, 0, 0, 0, 0, 0, 0]
    assert summary.event_types == {}

"""Logs as people have them, in the shape of public ones, through a whole ingest on Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgray.config import ModelConfig
from mgray.data_rules import resolve_model
from mgray.dataset import Dataset
from mgray.errors import InputError
from tests.plain_ingest import decode


def histories(result: Any) -> dict[str, list[str | None]]:
    return {user: history.items for user, history in decode(result).items()}


def messages(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(caplog.messages)


# ---------------------------------------------------------------- a log without times


def test_the_order_of_a_log_without_times_is_the_order_of_events(
    tmp_path: Path, run_ingest: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """Files by name, then rows; a repeat stays, for without a time it is not told from a copy."""
    log = tmp_path / "log"
    log.mkdir()
    (log / "b.csv").write_text("user_id,item_id,rating\nu,i1,1\nv,i4,2\nu,i2,3\n")
    (log / "a.csv").write_text("user_id,item_id,rating\nu,i9,1\nu,i2,5\nu,i2,5\nv,i1,4\nv,i2,\n")
    columns = {"timestamp": None}
    result = run_ingest(log, columns=columns)
    wanted = {"u": ["i9", "i2", "i2", "i1", "i2"], "v": ["i1", "i2", None]}  # what never trains has no number
    assert histories(result) == wanted
    assert {tuple(history.times) for history in decode(result).values()} == {(0.0,) * 5, (0.0,) * 3}
    assert decode(result)["u"].ratings == [1.0, 5.0, 5.0, 1.0, 3.0]
    manifest = result.manifest
    assert manifest.rows == {"read": 8, "written": 8, "dropped_short_users": 0, "quarantined": 0}
    assert not manifest.has_times
    assert (manifest.first_timestamp, manifest.last_timestamp) == (0.0, 0.0)
    assert "the log has no times (data.columns.timestamp none)" in messages(caplog)
    assert "exact duplicates are kept" in messages(caplog)
    page = (result.path / "report.html").read_text()
    assert "in the order of the log, without times" in page
    assert "1970" not in page

    dataset = Dataset(result.path)
    assert dataset.newest_counts(0.1).tolist() == dataset.item_counts.tolist(), "without times nothing is newer"
    assert resolve_model(ModelConfig(inputs="auto"), manifest).inputs == ("rating",)
    for inputs in ("time_gap", "hour", "weekday"):
        with pytest.raises(InputError, match=rf"model\.inputs: {inputs} needs times, and the dataset has none"):
            resolve_model(ModelConfig(inputs=(inputs,)), manifest)
    for level in ("7d", "session:30m"):
        with pytest.raises(InputError, match=rf"model\.granularities: {level} spans time, and the dataset has no"):
            resolve_model(ModelConfig(granularities=(1, level)), manifest)

    (log / "c.csv").write_text("user_id,item_id,rating\nv,i9,1\n")
    appended = run_ingest(log, columns=columns, append=True)
    assert histories(appended)["v"] == ["i1", "i2", None, "i9"]
    assert not appended.manifest.has_times


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"split": "temporal"}, "data.split: temporal"),
        ({"clean": {"min_timestamp": 1.0}}, "data.clean.min_timestamp"),
        ({"clean": {"max_timestamp": 1.0}}, "data.clean.max_timestamp"),
        ({"clean": {"max_user_events_per_day": 9}}, "data.clean.max_user_events_per_day"),
        ({"clean": {"repeat_window_s": 9.0}}, "data.clean.repeat_window_s"),
    ],
)
def test_what_needs_times_is_refused_without(
    tmp_path: Path, run_ingest: Callable, settings: dict[str, Any], asked: str
) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id\nu,i1\nu,i2\nu,i3\n")
    with pytest.raises(InputError) as caught:
        run_ingest(tmp_path / "log.csv", columns={"timestamp": None}, **settings)
    assert str(caught.value).startswith(f"{asked} needs times, and the log has none (data.columns.timestamp none);")
    assert "\n" not in str(caught.value)

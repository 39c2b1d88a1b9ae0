"""Logs as people have them, in the shape of public ones, through a whole ingest on Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mgray.config import ModelConfig
from mgray.data.dataset import Dataset
from mgray.errors import InputError
from mgray.train.resolve import resolve_model
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
    assert "1970-" not in page

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


# ---------------------------------------------------------------- the shapes of public logs


def test_rees46_in_folders_of_days(tmp_path: Path, run_ingest: Callable) -> None:
    """Times with UTC behind them, the kind of event in the path, a file without an extension."""
    head = "event_time,product_id,category_code,price,user_id\n"
    for kind, rows in (
        ("view", [("00:00:00", 44, "u"), ("00:00:05", 45, "u"), ("00:00:09", 46, "v"), ("00:01:00", 44, "v")]),
        ("cart", [("00:00:02", 44, "u"), ("00:00:10", 46, "v"), ("00:02:00", 44, "u"), ("00:03:00", 45, "u")]),
    ):
        folder = tmp_path / "log" / "dt=2019-10-01" / f"event_type={kind}"
        folder.mkdir(parents=True)
        text = "".join(f"2019-10-01 {time} UTC,{item},a.b,1.5,{user}\n" for time, item, user in rows)
        (folder / "part-00000").write_text(head + text)
        (folder / "_SUCCESS").touch()
    columns = {"item_id": "product_id", "timestamp": "event_time", "event_type": "event_type", "format": "csv"}
    result = run_ingest(tmp_path / "log", columns=columns, min_user_events=3)
    found = decode(result)
    start = 1569888000.0
    assert [time - start for time in found["u"].times] == [0, 2, 5, 120, 180]
    assert found["u"].kinds == ["view", "cart", "view", "cart", "cart"]
    assert [time - start for time in found["v"].times] == [9, 10, 60]
    assert {kind.name for kind in result.manifest.event_types} == {"view", "cart"}
    # the same bytes in another folder are other events
    other = tmp_path / "other" / "dt=2019-10-01" / "event_type=view"
    other.mkdir(parents=True)
    (other / "part-00000").write_bytes((tmp_path / "log/dt=2019-10-01/event_type=cart/part-00000").read_bytes())
    names = [tmp_path / "log/dt=2019-10-01/event_type=cart", other]
    apart = [run_ingest(name, columns=columns) for name in names]
    assert [one.manifest.event_types[0].name for one in apart] == ["cart", "view"]
    assert not apart[1].reused


def test_book_crossing(tmp_path: Path, run_ingest: Callable, caplog: pytest.LogCaptureFixture) -> None:
    """A semicolon between quoted fields, latin-1, no times."""
    rows = [("1", "é1", 5), ("1", "b2", 0), ("1", "b3", 7), ("2", "b3", 1), ("2", "é1", 2), ("2", "b2", 3)]
    text = '"User-ID";"ISBN";"Book-Rating"\r\n' + "".join(f'"{u}";"{i}";"{r}"\r\n' for u, i, r in rows)
    (tmp_path / "BX-Book-Ratings.csv").write_bytes(text.encode("latin-1"))
    columns = {"user_id": "User-ID", "item_id": "ISBN", "rating": "Book-Rating", "timestamp": None}
    told = r"2 of 6 rows .* name the log's encoding, such as --data\.columns\.encoding latin-1"
    with pytest.raises(InputError, match=told):
        run_ingest(tmp_path / "BX-Book-Ratings.csv", columns=columns)
    result = run_ingest(tmp_path / "BX-Book-Ratings.csv", columns=columns | {"encoding": "latin-1"}, range_bytes=30)
    ratings = {user: history.ratings for user, history in decode(result).items()}
    assert ratings == {"1": [5.0, 0.0, 7.0], "2": [1.0, 2.0, 3.0]}
    assert histories(result)["1"][0] == "é1"
    assert "BX-Book-Ratings.csv: read as separated by ';'" in messages(caplog)


def test_histories_of_text_and_of_lists(tmp_path: Path, run_ingest: Callable, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train.txt").write_text("0 5 6 7\n1 7 5 9 5\n")
    result = run_ingest(tmp_path / "train.txt", columns={"rows": "histories"})
    assert {user: len(items) for user, items in histories(result).items()} == {"0": 3, "1": 4}
    assert histories(result)["1"][:2] == ["7", "5"]
    assert "the log has no times (it is text of histories)" in messages(caplog)
    with pytest.raises(InputError, match=r"data\.split: temporal needs times, and the log has none \(it is text"):
        run_ingest(tmp_path / "train.txt", columns={"rows": "histories"}, split="temporal")
    kinds = ((5, "clicks"), (6, "carts"), (7, "clicks"))
    events = [{"aid": aid, "ts": 1000 * aid, "type": kind} for aid, kind in kinds]
    pl.DataFrame({"session": [1, 2], "events": [events, events[::-1]]}).write_parquet(tmp_path / "otto.parquet")
    columns = {"user_id": "session", "item_id": "events.aid", "timestamp": "events.ts", "event_type": "events.type"}
    otto = decode(run_ingest(tmp_path / "otto.parquet", columns=columns | {"timestamp_unit": "ms"}))
    assert [history.times for history in otto.values()] == [[5.0, 6.0, 7.0]] * 2
    assert otto["1"].items[0] == "5"


def test_files_with_and_without_times_do_not_mix(tmp_path: Path, run_ingest: Callable) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.tsv").write_text("0 5 6 7\n")
    pl.DataFrame({"user_id": [1], "item_id": [[5]], "timestamp": [[1]]}).write_parquet(tmp_path / "log" / "b.parquet")
    with pytest.raises(InputError, match=r"some of its files have times and some have none \(such as .*/a\.tsv\)"):
        run_ingest(tmp_path / "log", columns={"rows": "histories"})

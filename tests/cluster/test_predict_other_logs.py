"""jobs/predict.py and jobs/eval.py on a log that the model was not trained on: by real ingests, beside the pyfunc."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import polars as pl
import pytest

from mgray.config import CleanConfig, EvalJobConfig, PredictJobConfig, TrackingConfig
from mgray.config.command_line import validate
from mgray.errors import InputError
from pipelines import tracking
from pipelines.evaluate import job as evaluate
from pipelines.ingest.job import IngestResult
from pipelines.predict import job as predict
from tests.models import write_model
from tests.plain_ingest import Event, plain_clean
from tests.stores import give_store

ITEMS = [f"i{number}" for number in range(40)]
HEADER = "user_id,item_id,timestamp\n"

Row = tuple[str, str, int]
Lists = dict[str, tuple[list[str], list[float]]]


def draw_rows(seed: int, lengths: list[int], num_items: int = 60) -> list[Row]:
    """A user of each length; items from i40 on are unknown to the model; distinct times within a user."""
    draw = random.Random(seed)
    rows = [
        (f"u{user}", f"i{draw.randrange(num_items)}", 1000 * place + draw.randrange(1000))
        for user, length in enumerate(lengths)
        for place in range(length)
    ]
    draw.shuffle(rows)
    return rows


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text(HEADER + "".join(f"{user},{item},{time}\n" for user, item, time in rows))
    return path


@pytest.fixture(scope="module")
def home(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HOME with a registered model of ITEMS."""
    home = tmp_path_factory.mktemp("home")
    folder = write_model(home / "model", ITEMS, list(range(80, 40, -1)))
    config = TrackingConfig(uri=f"sqlite:///{home / 'mlflow.db'}", system_metrics=False)
    give_store(home)
    tracking.open_tracking(config, home)
    with tracking.start_run(config, {}, {}, "test"):
        tracking.register(config, folder, {"history": [ITEMS[:2]]}, {})
    return home


def settings(home: Path, source: Path, **data: Any) -> dict[str, Any]:
    return {
        "home": str(home),
        "data": {"source": str(source), "out": str(source.parent / "datasets"), "num_shards": 2} | data,
        "tracking": {"uri": f"sqlite:///{home / 'mlflow.db'}"},
    }


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], Lists]]:
    """run(log, predict=..., **data settings) -> the result line, and user -> (items, scores)."""

    def go(source: Path, asked: dict[str, Any] | None = None, **data: Any) -> tuple[dict[str, Any], Lists]:
        options = {"out": str(tmp_path / "lists"), "num_workers": 1} | (asked or {})
        result = predict.run_prediction(
            validate(PredictJobConfig, settings(home, source, **data) | {"predict": options})
        )
        table = pl.read_parquet(Path(result["path"]) / "part-*.parquet").sort("user_id", "rank")
        lists = table.group_by("user_id", maintain_order=True).agg("item_id", "score").iter_rows()
        return result, {user: (items, scores) for user, items, scores in lists}

    return go


def served(home: Path, rows: list[Row], **params: Any) -> Lists:
    """The registered model's lists for each user's whole history."""
    histories: dict[str, list[str]] = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        histories.setdefault(user, []).append(item)
    mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/mgray-interest@champion")
    found = model.predict(pd.DataFrame({"history": list(histories.values())}), params=params)
    return dict(zip(histories, zip(found["items"], found["scores"], strict=True), strict=True))


def assert_same(lists: Lists, wanted: Lists) -> None:
    assert lists.keys() == wanted.keys()
    for user, (items, scores) in wanted.items():
        assert lists[user][0] == list(items), user
        assert lists[user][1] == pytest.approx(list(scores), abs=1e-5), user


@pytest.mark.parametrize("split", ["leave_one_out", "temporal", "random"])
def test_every_user_gets_the_list_of_the_whole_history(split: str, run: Callable, home: Path, tmp_path: Path) -> None:
    rows = draw_rows(1, [1, 2, 2, 3, 3, 4, 9, 30, 1, 5] * 3)
    result, lists = run(write(tmp_path / "log.csv", rows), {"k": 7}, split=split)
    assert_same(lists, served(home, rows, k=7))
    known = {user for user, item, _ in rows if item in ITEMS}
    assert result["rows"] == {
        "users": 30,
        "users_by_history": len(known),
        "users_fallback": 30 - len(known),
        "users_short": 12,
        "users_empty": 0,
        "predictions": 210,
    }


@pytest.mark.parametrize(
    ("lengths", "data"),
    [
        ([2], {"split": "temporal"}),  # no time between the cuts
        ([1, 3], {"split": "temporal", "columns": {"timestamp": None}}),
        ([1, 2, 1, 2, 2], {}),  # nobody trains
        ([1], {}),
        ([3, 4, 2], {"split": "temporal", "valid_from": 1e9, "test_from": 2e9}),  # nobody tests
        ([3, 4, 6, 2, 9], {"clean": {"min_item_events": 3}}),  # a k-core that leaves nobody
        ([3, 4, 6, 2, 9], {"min_item_count": 50}),  # no vocabulary at all
    ],
)
def test_a_log_too_small_to_train_on_is_scored(
    lengths: list[int], data: dict[str, Any], run: Callable, home: Path, tmp_path: Path
) -> None:
    rows = [("u0", "i1", 500), *draw_rows(2, lengths)]
    result, lists = run(write(tmp_path / "log.csv", rows), {"remove_seen": False}, **data)
    if "columns" in data:  # without times the order of the log is that of events
        rows = [(user, item, place) for place, (user, item, _) in enumerate(rows)]
    assert_same(lists, served(home, rows, remove_seen=False))
    assert result["rows"]["users"] == len(lengths)


def test_the_newest_events_count(run: Callable, home: Path, tmp_path: Path) -> None:
    """The last two events count too where the history is in no training part; once they did not."""
    rows = [("new3", "i5", 1), ("new3", "i8", 2), ("new3", "i11", 3)]
    rows += [("twice", "i5", 1), ("twice", "i5", 1), ("twice", "i8", 2)]  # equal events are events
    _, lists = run(write(tmp_path / "log.csv", rows), {"k": 37})
    assert_same(lists, served(home, rows, k=37))
    assert not {"i5", "i8", "i11"} & set(lists["new3"][0])


@pytest.mark.parametrize("min_item_events", [1, 3])
def test_who_is_too_short_to_train_is_in_a_datasets_lists(
    min_item_events: int,
    run: Callable,
    run_ingest: Callable[..., IngestResult],
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Short users, those whom the k-core takes out, and one whom the rules leave nothing.

    Who stays has lost the events on rare items for good, which is said.
    """
    rows = draw_rows(3, [1, 2, 3, 4, 8, 12, 15, 20, 20], 25)
    rows += [("lost", "i1", -5), ("rare", "i7", 1), ("rare", "i8", 2), ("rare", "i50", 3), ("rare", "i51", 4)]
    log = write(tmp_path / "log.csv", rows)
    clean = {"min_item_events": min_item_events, "min_timestamp": 0.0}
    made = run_ingest(log, clean=clean, min_user_events=4)
    stay = plain_clean([Event(*row) for row in rows], CleanConfig(**clean), 4).histories
    assert made.manifest.short_users == 11 - len(stay) >= 4
    assert ("rare" in stay) == (min_item_events == 1)
    on_disk = {path.relative_to(made.path).as_posix() for path in made.path.rglob("*.*")}
    assert on_disk == {"manifest.json", *made.manifest.files()}
    result, lists = run(log, dataset=str(made.path))
    assert result["rows"]["users_short"] == made.manifest.short_users
    assert lists.pop("lost")[0] == ITEMS[:10], "popular items"
    short = [row for row in rows if row[0] not in stay and row[0] != "lost"]
    left = [(event.user, event.item, int(event.time)) for history in stay.values() for event in history]
    assert_same(lists, served(home, short + left))
    said = " ".join(capsys.readouterr().err.split())
    assert ("events on items with fewer than 3 are not in it" in said) == (min_item_events == 3)


def test_evaluation_ranks_all_items_of_the_model(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each user's last item in the list of what came before: over 40 items of the model, though the log has 3."""
    draw = random.Random(4)
    rows = [(f"u{user}", draw.choice(("i1", "i30", "i99")), time) for user in range(60) for time in range(1, 5)]
    asked = settings(home, write(tmp_path / "log.csv", rows)) | {"evaluate": {"remove_seen": False}}
    result = evaluate.run_evaluation(validate(EvalJobConfig, asked))
    before = served(home, [row for row in rows if row[2] < 4], remove_seen=False)
    last = {user: item for user, item, time in rows if time == 4}
    hits = [last[user] in items for user, (items, _) in before.items()]
    assert result["metrics"]["hr@10"] == pytest.approx(sum(hits) / len(hits))
    unknown = sum(item == "i99" for item in last.values())
    history = sum(item == "i99" and time < 4 for _, item, time in rows)
    assert result["rows"] == {
        "queries": 60,
        "unknown_targets": unknown,
        "history_events": 180,
        "unknown_history_events": history,
    }
    said = " ".join(capsys.readouterr().err.split())
    assert f"{unknown} of the 60 targets" in said
    assert "the model ranks all 40 items that it knows" in said


def test_a_log_of_other_ids_is_refused(run: Callable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="knows none of the dataset's 3 item ids"):
        run(write(tmp_path / "log.csv", [("u", "x", 1), ("u", "y", 2), ("u", "z", 3)]))

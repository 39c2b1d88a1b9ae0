"""A dataset version gives its columns, training parts and queries as they were written."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mgray.data.columns import Columns, concatenate
from mgray.data.dataset import Dataset
from mgray.data.feed import feed, plan_epoch
from mgray.data.inputs import InputSpec
from mgray.errors import InputError
from mgray.ingest.clean import SplitKind
from mgray.model.input_encoder import DAY_S
from mgray.schema import PAD, TRAIN, UNKNOWN, VALID
from mgray.serve.request import HistoryEncoder
from mgray.testing.synthetic import make_log
from tests.datasets import write_dataset
from tests.models import model_config

# One user whose items are a b c d e, one whose are a a b c.
LOG = pl.DataFrame(
    {
        "user_id": ["u"] * 5 + ["v"] * 4,
        "item_id": [*"abcde", *"aabc"],
        "timestamp": [10.0, 20, 30, 40, 50, 1, 2, 3, 4],
        "rating": [1.0, None, 3, 4, 5, 5, 5, 3, 1],
        "event_type": ["view", "buy", None, "view", "buy", "buy", "view", "view", "view"],
        "feature:price": [1.0, 2, 3, 100, 100, 3, 4, 100, 100],
    }
)
ALL = ("times", "event_types", "ratings", "features")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "version", LOG, num_shards=1)


def test_columns_are_read_where_asked_for(dataset: Dataset) -> None:
    bare = dataset.read(0).row(0)
    assert list(bare.present()) == ["items"]
    full = dataset.read(0, ALL).row(0)
    assert [dataset.item_ids[item - 1] if item > 0 else None for item in full.items] == ["a", "b", "c", None, None]
    assert full.times is not None
    assert full.times.tolist() == [10, 20, 30, 40, 50]
    assert full.event_types is not None
    assert full.event_types.tolist() == [2, 1, 0, 2, 1]  # buy 1, view 2, none 0
    assert np.array_equal(full.ratings, np.float32([1, np.nan, 3, 4, 5]), equal_nan=True)
    # the training part's prices are 1 2 3 3 4: mean 2.6, deviation sqrt(1.04)
    assert full.features is not None
    assert full.features[:, 0] == pytest.approx((np.array([1, 2, 3, 100, 100]) - 2.6) / np.sqrt(1.04))


def test_queries_skip_unknown_items_in_every_column(dataset: Dataset) -> None:
    query = next(query for query in dataset.queries("test", ALL) if query.user_id == "u")
    assert query.target == UNKNOWN  # e is in no training part
    assert query.target_rating == 5
    assert query.history.times is not None
    assert query.history.times.tolist() == [10, 20, 30]  # d at 40 is unknown as well
    assert all(len(column) == 3 for column in query.history.present().values())
    valid = next(query for query in dataset.queries("valid") if query.user_id == "v")
    assert valid.history.items.tolist() == [1, 1]
    assert np.isnan(valid.target_rating)  # not read


def test_statistics_are_of_the_training_part(dataset: Dataset) -> None:
    spec = dataset.input_spec(model_config(inputs=("event_type", "rating", "features")))
    assert spec.event_types == ("buy", "view")
    assert [feature.name for feature in spec.features] == ["price"]
    ratings = np.array([1, 3, 5, 5])  # of u: 1, none, 3; of v: 5, 5
    assert (spec.rating_mean, spec.rating_std) == pytest.approx((ratings.mean(), ratings.std()))
    assert dataset.input_spec(model_config()) == InputSpec()


def test_a_type_that_never_trains_is_none_at_training_and_prediction_alike(tmp_path: Path) -> None:
    """Each user's last two events are behind the training part: it has two views and one buy."""
    log = pl.DataFrame(
        {
            "user_id": ["u"] * 4 + ["v"] * 4,
            "item_id": [*"abab"] * 2,
            "timestamp": [1.0, 2, 3, 4] * 2,
            "event_type": ["view", "buy", "apply", "buy", "view", None, "view", "apply"],
        }
    )
    dataset = write_dataset(tmp_path / "v", log, 1)
    config = model_config(inputs=("event_type",))
    spec = dataset.input_spec(config)
    assert spec.event_types == ("view", "buy")
    assert [kind.events for kind in dataset.manifest.event_types] == [3, 2]
    encoder = HistoryEncoder(dataset.item_ids, config, spec)
    histories = dataset.read(0, ("event_types",))
    for row, wanted in {"u": [1, 2, 0, 2], "v": [1, 0, 1, 0]}.items():
        columns = histories.row(histories.user_ids.index(row))
        assert columns.event_types.tolist() == wanted
        own = log.filter(user_id=row)
        asked, _ = encoder.encode([own["item_id"].to_list()], {"event_types": [own["event_type"].to_list()]}, 0)
        assert asked.event_types.tolist() == wanted


def test_cold_items_of_the_training_part_are_skipped(tmp_path: Path) -> None:
    """Two training events asked for, only a has a number: of u's a b c the model reads a, of v's a a both."""
    dataset = write_dataset(tmp_path / "v", LOG, 1, min_item_count=2)
    assert dataset.item_ids == ["a"]
    training = dataset.read_training(0, ("times",))
    assert training.columns.items.tolist() == [1, 1, 1]
    assert training.columns.times.tolist() == [10, 1, 2]
    assert dataset.train_lengths()[0].tolist() == np.diff(training.offsets).tolist() == [1, 2]
    # Of u's d and v's b, which validate, neither has a number: nothing comes to them.
    assert [lengths.tolist() for lengths in dataset.train_lengths(include_valid=True)] == [[1, 2]]
    (step,) = feed(dataset.read_training, plan_epoch(dataset.train_lengths(), 0, 0, 100, 100), 0, 0, 0, 1)
    assert step.batch.inputs.items[:, -1].tolist() == step.batch.targets[:, -1].tolist() == [1]


def test_a_random_split_trains_on_its_training_events_only(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user_id": [f"u{i % 7}" for i in range(400)],
            "item_id": [f"i{i}" for i in random.integers(0, 20, 400)],
            "timestamp": np.arange(400.0),
            "rating": random.integers(1, 6, 400).astype(float),
        }
    )
    dataset = write_dataset(tmp_path / "v", log, split="random")
    assert sum(int(lengths.sum()) for lengths in dataset.train_lengths()) == dataset.manifest.train_events
    for shard in range(dataset.num_shards):
        histories, training = dataset.read(shard, ("times",)), dataset.read_training(shard, ("times",))
        assert histories.parts is not None
        assert np.array_equal(training.columns.times, histories.columns.times[histories.parts == TRAIN])
        more = dataset.read_training(shard, ("times",), include_valid=True)
        assert np.array_equal(more.columns.times, histories.columns.times[histories.parts <= VALID])
    train_times = np.concatenate([h.columns.times for h in dataset.train_events(("times",))])
    queries = list(dataset.queries("test", ("times", "ratings")))
    assert len(queries) == dataset.manifest.test_events
    assert all(np.isin(query.history.times, train_times).all() for query in queries)
    assert all(1 <= query.target_rating <= 5 for query in queries)


def test_columns_are_taken_and_joined_together() -> None:
    columns = Columns(np.array([1, 2, 3], np.int32), times=np.array([1.0, 2.0, 3.0]))
    assert columns.take(np.array([True, False, True])).times.tolist() == [1, 3]
    assert list(columns.only(()).present()) == ["items"]
    joined = concatenate([columns, columns.take(slice(1))])
    assert (joined.items.tolist(), joined.times.tolist()) == ([1, 2, 3, 1], [1, 2, 3, 1])
    assert len(concatenate([])) == 0


@pytest.mark.parametrize("split", ["leave_one_out", "temporal"])
def test_training_may_go_up_to_the_test_part(tmp_path: Path, split: SplitKind) -> None:
    """An item that is in the validation part alone has no number, and its event is left out."""
    dataset = write_dataset(tmp_path / "v", log_with_a_valid_item(split), split=split)
    assert dataset.manifest.cold_items == 0
    before_test = [
        histories.row(row).items[: histories.valid_end[row]]
        for histories in map(dataset.read, range(dataset.num_shards))
        for row in range(len(histories.user_ids))
    ]
    known = [items[items != UNKNOWN] for items in before_test]
    assert sum(map(len, before_test)) - sum(map(len, known)) == 1
    lengths = dataset.train_lengths(include_valid=True)
    assert sum(int(one.sum()) for one in lengths) == sum(map(len, known))
    assert sum(int(one.sum()) for one in dataset.train_lengths()) == dataset.manifest.train_events
    read = partial(dataset.read_training, include_valid=True)
    steps = list(feed(read, plan_epoch(lengths, 0, 0, 100, 100), 0, 0, 0, 1))
    targets = np.concatenate([step.batch.targets[step.batch.targets != PAD].numpy() for step in steps])
    assert sorted(targets.tolist()) == sorted(np.concatenate([items[1:] for items in known]).tolist())


def log_with_a_valid_item(split: SplitKind) -> pl.DataFrame:
    log = make_log(20, 10).sort("user_id", "timestamp")
    if split == "leave_one_out":
        at = log["user_id"].to_list().index(log["user_id"][-1]) - 2  # the last but one of the last user but one
    else:
        late = log["timestamp"].to_numpy() >= np.quantile(log["timestamp"], 0.85)
        at = int(np.flatnonzero(late)[np.argmin(log["timestamp"].to_numpy()[late])])
    items = log["item_id"].to_list()
    items[at] = "only-valid"
    return log.with_columns(pl.Series("item_id", items))


def log_of_two_times() -> pl.DataFrame:
    """20 users take `old`, then 20 others `new`, 100 days later; and one has a clock of the far future."""
    rows = [
        (f"{user}{i}", item, (first + day) * DAY_S)
        for user, first, items in (("u", 0.0, ("old", "old", "old", "b")), ("v", 100.0, ("new", "b", "x", "y")))
        for i in range(20)
        for day, item in enumerate(items)
    ]
    rows += [("w", item, (9000.0 + day) * DAY_S) for day, item in enumerate(("stray", "b", "b", "b"))]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def by_item(dataset: Dataset, counts: np.ndarray) -> dict[str, float]:
    assert counts[0] == 0
    return dict(zip(dataset.item_ids, counts[1:].tolist(), strict=True))


def test_the_newest_events_are_a_share_of_all(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "v", log_of_two_times())  # each user's first two events train, 82 in all
    assert by_item(dataset, dataset.item_counts) == {"old": 40, "new": 20, "b": 21, "stray": 1}
    assert by_item(dataset, dataset.newest_counts(1 / 2)) == {"old": 0, "new": 20, "b": 21, "stray": 1}
    # A quarter begins within the day on which all v take `b`, so that day is there whole.
    assert by_item(dataset, dataset.newest_counts(1 / 4)) == {"old": 0, "new": 0, "b": 21, "stray": 1}
    # With the validation part 103 events on known items train, 60 of them on `old`.
    counts = by_item(dataset, dataset.newest_counts(0.4, include_valid=True))
    assert counts == {"old": 0, "new": 20, "b": 22, "stray": 1}


def test_the_newest_events_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_dataset(tmp_path / "v", log_of_two_times())
    monkeypatch.setattr("mgray.data.newest.MAX_TIMES", 20)
    quantile, sizes = np.quantile, []
    monkeypatch.setattr(
        np, "quantile", lambda times, *more, **how: [sizes.append(len(times)), quantile(times, *more, **how)][1]
    )
    assert 22 <= dataset.newest_counts(1 / 2).sum() <= 62  # a day less, or more, than of all
    assert 82 / 5 <= sizes[0] <= 20


def test_versions_of_older_mgrays_are_read_or_refused(tmp_path: Path) -> None:
    """One from before items outside the vocabulary were named reads as it did; an older one is one clear line."""
    log = pl.DataFrame({"user_id": ["u"] * 4, "item_id": [*"abac"], "timestamp": [0.0, 1, 2, 3]})
    dataset = write_dataset(tmp_path / "v", log, 1)
    path = dataset.folder / "manifest.json"
    older = json.loads(path.read_text())
    for name in ("outside_items_file", "outside_event_types", "short_users", "short_shards"):
        del older[name]
    path.write_text(json.dumps(older | {"schema_version": 2}))
    read = Dataset(dataset.folder)
    assert read.all_item_ids == read.item_ids == ["a", "b"]
    assert read.read(0, whole=True).columns.items.tolist() == [1, 2, 1, UNKNOWN]
    path.write_text(json.dumps(older | {"schema_version": 1}))
    with pytest.raises(InputError, match="schema version 1, this mgray reads 2 and 3; ingest again"):
        Dataset(dataset.folder)

"""A model on another log reads all that it knows of it: lists and figures are those of the whole raw histories."""

import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from mgray.config import EvaluateConfig, ResolvedModelConfig
from mgray.data.dataset import Dataset
from mgray.data.inputs import InputSpec
from mgray.data.manifest import Feature, PredictionPart
from mgray.errors import InputError
from mgray.model.mgdsc import MGDSC
from mgray.schema import UNKNOWN, USER_ID
from mgray.serve.model_folder import ModelInfo, Vocabulary, save_model
from mgray.serve.recommender import Recommendations, Recommender
from mgray.serve.translation import check_items_known
from pipelines.evaluate.job import evaluate_foreign
from pipelines.predict.tasks import PartScorer, PredictJob, plan_parts
from tests.datasets import write_dataset
from tests.models import MAX_LENGTH, MODEL, model_config
from tests.perturbed import perturbed

NUM_LOGS = 200
MODEL_ITEMS = [f"i{number}" for number in range(12)]
COUNTS = list(range(24, 12, -1))
SPLITS = ("leave_one_out", "temporal", "random")
SPEC = InputSpec(
    event_types=("view", "buy"),
    features=(Feature(name="price", mean=10, std=5), Feature(name="flat", mean=3, std=0)),
    rating_mean=3,
    rating_std=1,
)


class Event(NamedTuple):
    user_id: str
    item_id: str
    timestamp: float
    rating: float | None
    event_type: str | None
    price: float | None
    flat: float | None


def draw_log(seed: int) -> list[Event]:
    """Users of 1, 2, 3 and many events; items that the model knows, does not know, or has again; blanks in the rest."""
    draw = random.Random(seed)
    items = draw.sample([*MODEL_ITEMS, *(f"new{number}" for number in range(8))], draw.randint(2, 20))
    flat = draw.choice((3.0, 7.5, None))
    events = []
    for user in range(draw.randint(1, 12)):
        time = float(draw.randrange(1000))
        for _ in range(draw.choice((1, 1, 2, 2, 3, 4, 9, 60))):
            time += draw.choice((0.0, 1.0, 3600.0))
            events.append(
                Event(
                    f"u{user}",
                    draw.choice(items),
                    time,
                    draw.choice((1.0, 4.5, None)),
                    draw.choice(("view", "buy", "scroll", None)),
                    draw.choice((None, 0.0, 12.25, draw.gauss(10, 40))),
                    flat if draw.random() < 0.9 else draw.gauss(0, 9),
                )
            )
    draw.shuffle(events)
    return events


def frame(events: list[Event]) -> pl.DataFrame:
    schema = dict.fromkeys(Event._fields, pl.Float64) | dict.fromkeys(("user_id", "item_id", "event_type"), pl.String)
    return pl.DataFrame(events, schema=schema, orient="row").rename({"price": "feature:price", "flat": "feature:flat"})


def requests(events: list[Event]) -> dict[str, dict[str, list[Any]]]:
    """What a service sends of each user: the whole history in order of time, equal times in the order of the log."""
    found: dict[str, dict[str, list[Any]]] = {}
    for event in sorted(events, key=lambda event: event.timestamp):
        own = found.setdefault(event.user_id, {})
        own.setdefault("history", []).append(event.item_id)
        own.setdefault("timestamps", []).append(event.timestamp)
        own.setdefault("event_types", []).append(event.event_type)
        own.setdefault("ratings", []).append(event.rating)
        own.setdefault("features", []).append([event.price, event.flat])
    return found


def asked(recommender: Recommender, events: list[Event], **options: Any) -> tuple[list[str], Recommendations]:
    """Users, and the lists that the model as it is served gives for their whole histories."""
    wanted = requests(events)
    beside = {name: [one[name] for one in wanted.values()] for name in ("history", *recommender.encoder.names)}
    return list(wanted), recommender.recommend(beside.pop("history"), beside=beside, **options)


def save(folder: Path, items: list[str], counts: list[int], config: ResolvedModelConfig = MODEL) -> Path:
    """The folder of a model whose every weight is away from its start, so that every input shows."""
    torch.manual_seed(0)
    spec = SPEC if config.inputs else InputSpec()
    model = perturbed(MGDSC(config, len(items), spec))
    info = ModelInfo(
        config=config, num_items=len(items), max_length=MAX_LENGTH, dataset_fingerprint="test", inputs=spec
    )
    save_model(folder, model.state_dict(), info, Vocabulary(items, items, counts))
    return folder


def scored(
    folder: Path, dataset: Dataset, model: Path, k: int, remove_seen: bool, blocked: list[int]
) -> tuple[dict[str, list[tuple[str, float]]], list[PredictionPart]]:
    """User -> items and scores of what a scoring worker writes, and its records of the parts."""
    folder.mkdir()
    barred = np.asarray(blocked, np.int64) if blocked else None
    parts = plan_parts(dataset.manifest, 5)
    worker = PartScorer(PredictJob(dataset.folder, model, folder, parts, k, remove_seen, barred, 99, 1, False))
    assert worker.error is None
    records = [worker.score(index) for index in range(len(parts))]
    lists: dict[str, list[tuple[str, float]]] = {}
    for record in records:
        for row in pq.read_table(folder / record.file).to_pylist():
            lists.setdefault(row[USER_ID], []).append((row["item_id"], row["score"]))
    return lists, records


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One that reads items alone, and one that reads all that a log has."""
    folder = tmp_path_factory.mktemp("models")
    inputs = ("event_type", "features", "rating", "time_gap")
    everything = model_config(width=8, granularities=(1, "session:30m", "decay:1..9"), heads=2, inputs=inputs)
    return [
        save(folder / "plain", MODEL_ITEMS, COUNTS),
        save(folder / "all", MODEL_ITEMS, COUNTS, everything),
    ]


@pytest.mark.parametrize("batch", range(8))
def test_every_list_is_that_of_the_users_whole_history(batch: int, models: list[Path], tmp_path: Path) -> None:
    """On any log, any split: a property of 200 random logs."""
    for seed in range(batch, NUM_LOGS, 8):
        draw = random.Random(-seed - 1)
        events, model = draw_log(seed), models[seed % 2]
        recommender = Recommender(model)
        dataset = write_dataset(
            tmp_path / f"log-{seed}",
            frame(events),
            num_shards=draw.randint(1, 3),
            split=draw.choice(SPLITS),
            min_item_count=draw.choice((1, 1, 3)),
            min_user_events=draw.choice((1, 3, 5)),
        )
        blocked = draw.choice(([], ["i1", "i5"]))
        remove_seen = draw.random() < 0.5
        users, wanted = asked(recommender, events, k=5, remove_seen=remove_seen, blocked=blocked)
        numbers = [MODEL_ITEMS.index(item) + 1 for item in blocked]
        lists, records = scored(tmp_path / f"lists-{seed}", dataset, model, 5, remove_seen, numbers)
        for user, items, scores in zip(users, wanted.items, wanted.scores, strict=True):
            given = lists.pop(user, [])
            assert [item for item, _ in given] == items, (seed, user)
            assert [score for _, score in given] == pytest.approx(scores, abs=2e-4), (seed, user)
        assert not lists, seed
        unknown = [not set(one["history"]) & set(MODEL_ITEMS) for one in requests(events).values()]
        assert sum(record.users_fallback for record in records) == sum(unknown)
        assert sum(record.users for record in records) == len(users)


@pytest.mark.parametrize("split", ["leave_one_out", "temporal"])
def test_figures_are_those_of_the_lists_that_a_user_would_get(split: str, models: list[Path], tmp_path: Path) -> None:
    """Each test event is asked for by its whole history, over all items of the model; an unknown one is a miss."""
    drawn = [event._replace(user_id=f"{seed}-{event.user_id}") for seed in range(6) for event in draw_log(seed)]
    events = [event._replace(timestamp=event.timestamp + place / 1e3) for place, event in enumerate(drawn)]
    recommender, k = Recommender(models[1]), 3
    dataset = write_dataset(tmp_path / "log", frame(events), split=split, min_item_count=2)
    metrics, counts = evaluate_foreign(recommender, dataset, "test", EvaluateConfig(k=k, remove_seen=False))
    test_from = dataset.manifest.split.test_from
    hits, gains, unknown, history_events, unknown_events = [], [], 0, 0, 0
    for own in requests(events).values():
        size = len(own["history"])
        places = range(size) if split == "temporal" else [size - 1] if size > 1 else []
        for place in places:
            if split == "temporal" and own["timestamps"][place] < test_from:
                continue
            before = {name: [values[:place]] for name, values in own.items()}
            got = recommender.recommend(before["history"], k, remove_seen=False, beside=before).items[0]
            target = own["history"][place]
            hits.append(target in got)
            gains.append(1 / np.log2(got.index(target) + 2) if target in got else 0.0)
            unknown += target not in MODEL_ITEMS
            history_events += place
            unknown_events += sum(item not in MODEL_ITEMS for item in before["history"][0])
    assert metrics.num_targets == len(hits) > 5
    assert metrics.compute()[f"hr@{k}"] == pytest.approx(np.mean(hits))
    assert metrics.compute()[f"ndcg@{k}"] == pytest.approx(np.mean(gains))
    assert counts == (unknown, history_events, unknown_events)
    assert unknown
    assert unknown_events
    assert any("count as misses" in note for note in counts.notes(len(hits)))


def test_a_small_new_log_is_not_a_small_catalogue(tmp_path: Path) -> None:
    """A log of 3 items, of a model of 300: a random model's hit rate is that of 300."""
    items = [f"i{number}" for number in range(300)]
    model = save(tmp_path / "model", items, [1] * 300)
    draw = random.Random(0)
    rows = [(f"u{user}", f"i{draw.randrange(3)}", float(time)) for user in range(200) for time in range(4)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    dataset = write_dataset(tmp_path / "log", log)
    metrics, _ = evaluate_foreign(Recommender(model), dataset, "test", EvaluateConfig(remove_seen=False))
    assert metrics.compute()["hr@10"] < 0.5, "of 3 items every list of 10 would hold the target"
    assert metrics.compute()["coverage@10"] > 3 / 300


def test_items_outside_the_vocabulary_make_a_log_known(tmp_path: Path) -> None:
    """A model that knows nothing but what tests in the new log is not refused."""
    rows = [("u", item, float(time)) for time, item in enumerate(("a", "b", "c"))]
    dataset = write_dataset(
        tmp_path / "log", pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    )
    assert (dataset.item_ids, dataset.all_item_ids) == (["a"], ["a", "b", "c"])
    check_items_known(dataset, ["c"], "--model m")
    with pytest.raises(InputError, match="knows none of the dataset's 3 item ids"):
        check_items_known(dataset, ["d"], "--model m")


def test_a_whole_read_has_what_the_log_says(tmp_path: Path) -> None:
    """And a read for training has it not: unknown items, types that never train, blanks, constants."""
    rows = [
        ("u", "a", 0.0, "view", 1.0, 5.0),
        ("u", "b", 1.0, "view", None, 5.0),
        ("u", "a", 2.0, "view", 3.0, 5.0),
        ("u", "c", 3.0, "buy", 5.0, 6.0),
        ("u", "b", 4.0, None, None, 7.0),
    ]
    log = pl.DataFrame(
        rows, schema=["user_id", "item_id", "timestamp", "event_type", "feature:price", "feature:flat"], orient="row"
    )
    dataset = write_dataset(tmp_path / "log", log, 1)
    assert (dataset.item_ids, dataset.all_item_ids, dataset.all_event_types) == (["a", "b"], [*"abc"], ["view", "buy"])
    trained, whole = (dataset.read(0, ("event_types", "features"), whole=flag).columns for flag in (False, True))
    assert trained.items.tolist() == [1, 2, 1, UNKNOWN, 2]
    assert whole.items.tolist() == [1, 2, 1, 3, 2]
    assert trained.event_types.tolist() == [1, 1, 1, 0, 0]
    assert whole.event_types.tolist() == [1, 1, 1, 2, 0]
    assert trained.features.tolist() == [[-1, 0], [0, 0], [1, 0], [3, 0], [0, 0]]  # price: mean 2, deviation 1
    nan = float("nan")
    assert np.array_equal(whole.features, [[-1, 0], [nan, 0], [1, 0], [3, 1], [nan, 2]], equal_nan=True)

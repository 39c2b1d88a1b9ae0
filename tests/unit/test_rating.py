"""Rating prediction: the queries of each split, the baselines on cases by hand, and training end to end."""

import copy
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from mgray.config import EvaluateConfig, ResolvedTrainConfig
from mgray.data.columns import Columns
from mgray.data.dataset import Dataset
from mgray.data.inputs import resolve_inputs
from mgray.errors import InputError
from mgray.eval.part_metrics import PartEvaluation
from mgray.eval.rating import evaluate_ratings, rating_batches, rating_queries
from mgray.eval.rating_baselines import (
    BIAS_SHRINKAGE,
    BiasRater,
    FactorRater,
    MeanRater,
    Ratings,
    make_rating_baselines,
    training_ratings,
)
from mgray.model.mgdsc import MGDSC
from mgray.schema import UNKNOWN
from mgray.serve.model_folder import ModelInfo, Vocabulary, save_model
from mgray.serve.rater import ModelRater, RatingQuery
from mgray.serve.recommender import Recommender
from mgray.train.objective import Objective
from mgray.train.trainer import Trainer, Validated
from pipelines.evaluate.job import evaluate_foreign
from tests.datasets import write_dataset
from tests.models import model_config

CPU = torch.device("cpu")
EVALUATION = EvaluateConfig()
SCALE = (1.0, 2.0, 3.0, 4.0, 5.0)


def taste_log(num_users: int = 120, num_items: int = 40, events: int = 30, seed: int = 0) -> pl.DataFrame:
    """Users of even number love items of even number and hate the others; users of odd number the other way round."""
    random = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users), events)
    items = np.concatenate([random.permutation(num_items)[:events] for _ in range(num_users)])
    loved = users % 2 == items % 2
    rating = np.where(loved, 5.0, 2.0) - (random.random(len(users)) < 0.2)
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": [f"i{item}" for item in items],
            "timestamp": np.tile(np.arange(float(events)), num_users),
            "rating": rating,
        }
    )


@pytest.fixture(scope="module", params=["leave_one_out", "random"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "version", taste_log(), split=request.param)


def train(dataset: Dataset, outputs: str, epochs: int = 12) -> tuple[MGDSC, list[Validated]]:
    config = resolve_inputs(
        model_config(width=16, granularities=(1, 4), heads=2, dropout=0.1, outputs=outputs), dataset.manifest
    )
    options = ResolvedTrainConfig(
        epochs=epochs, learning_rate=1e-2, global_batch_events=300, num_negatives=10, max_time_s=None, rating_l2=0.05
    )
    torch.manual_seed(0)
    model = MGDSC(config, dataset.num_items, dataset.input_spec(config))
    trainer = Trainer(Objective(model, options, CPU, exclude_seen=True), model, dataset, options, CPU)
    valid = PartEvaluation(model, dataset, "valid", options.max_length, CPU, EvaluateConfig(), dataset.item_counts)
    events = trainer.run(lambda: valid.run().compute(), valid.chief_metric, 10**6)
    return model, [event for event in events if isinstance(event, Validated)]


@pytest.fixture(scope="module")
def rated(dataset: Dataset) -> tuple[MGDSC, list[Validated]]:
    """A model trained to rate alone, with its validations."""
    return train(dataset, "rating")


def measured(rater: object, dataset: Dataset, config: EvaluateConfig = EVALUATION) -> dict[str, float]:
    batches = rating_batches(dataset, "test", (), config)
    return evaluate_ratings(rater, batches, dataset.rating_scale()).compute()  # type: ignore[arg-type]


def test_rates_by_taste_where_biases_cannot(dataset: Dataset, rated: tuple[MGDSC, list[Validated]]) -> None:
    """Within a user and within an item, ratings go both ways: only the two together tell."""
    model, validated = rated
    assert set(validated[-1].metrics) == {"rmse", "mae", "accuracy"}
    figures = measured(ModelRater(model, 100, CPU), dataset)
    baselines = {name: measured(rater, dataset) for name, rater in make_rating_baselines(dataset).items()}
    # The ratings' own noise is 0.4; a user's or an item's mean says nothing about the 3 stars between.
    assert figures["rmse"] < 0.7
    assert baselines["user_item_bias"]["rmse"] > 1.3
    assert baselines["matrix_factorization"]["rmse"] < 0.7
    assert baselines["global_mean"]["rmse"] > 1.3


def test_ratings_stay_within_the_scale(dataset: Dataset, rated: tuple[MGDSC, list[Validated]]) -> None:
    """As the figures have it, which clip them too."""
    model = copy.deepcopy(rated[0])
    queries = list(rating_queries(dataset, "test"))[:3]
    model.rating_head.mean += 100
    assert set(ModelRater(model, 100, CPU)(queries).tolist()) == {dataset.rating_scale()[-1]}


def test_both_heads_train_in_one_run(dataset: Dataset) -> None:
    _, validated = train(dataset, "both")
    assert {"rmse", "mae", "accuracy", "hr@10", "ndcg@10"} <= set(validated[-1].metrics)
    assert validated[-1].metrics["rmse"] < 1.0


def test_the_best_rating_model_is_the_lowest_rmse(rated: tuple[MGDSC, list[Validated]]) -> None:
    _, validated = rated
    best = min(event.metrics["rmse"] for event in validated)
    assert [event.metrics["rmse"] for event in validated if event.is_best][-1] == best


def test_every_rated_event_is_asked_for_once(dataset: Dataset) -> None:
    queries = list(rating_queries(dataset, "test"))
    assert sum(len(query.targets) for query in queries) == dataset.manifest.test_events
    for query in queries:
        assert query.history.ratings is not None
        # No item is rated twice in this log: a target among the history would be a leak.
        assert not set(query.targets.tolist()) & set(query.history.items.tolist())
        if dataset.manifest.split.kind == "leave_one_out":
            assert len(query.history) == 29
    if dataset.manifest.split.kind == "random":
        assert sum(len(query.history) for query in queries) <= dataset.manifest.train_events


def test_training_ratings_are_those_of_the_training_part(dataset: Dataset) -> None:
    ratings = training_ratings(dataset)
    assert len(ratings.ratings) == dataset.manifest.train_events
    assert ratings.num_users == 120
    assert dataset.rating_scale() == (1.0, 2.0, 4.0, 5.0)


def query(items: list[int], ratings: list[float], targets: list[int]) -> RatingQuery:
    history = Columns(np.asarray(items, np.int32), ratings=np.asarray(ratings, np.float32))
    return RatingQuery(history, np.asarray(targets), np.ones(len(targets), np.float32))


def test_biases_by_hand() -> None:
    """One user, two items rated 4 and 2: the mean is 3, the user's bias 0, the items' +1 and -1 over 1 + shrinkage."""
    rater = BiasRater(Ratings(np.asarray([0, 0]), np.asarray([1, 2]), np.asarray([4.0, 2.0]), 3))
    assert rater.item_bias.tolist() == pytest.approx([0, 1 / (1 + BIAS_SHRINKAGE), -1 / (1 + BIAS_SHRINKAGE), 0])
    # A new user who gave item 1 a 5 is 2 - 1/6 above what the item says, shrunk.
    asked = query([1], [5.0], [2, 3, UNKNOWN])
    user = (2 - 1 / 6) / (1 + BIAS_SHRINKAGE)
    assert rater([asked]).tolist() == pytest.approx([3 - 1 / 6 + user, 3 + user, 3 + user])
    assert (
        MeanRater(training := Ratings(np.asarray([0]), np.asarray([1]), np.asarray([4.0]), 1))([asked]).tolist()
        == [training.mean] * 3
    )


def test_factors_find_a_table_of_rank_one() -> None:
    """Ratings 3 + a_u b_i: alternating least squares fits all but what its penalty keeps back."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=40), np.concatenate([[0], random.normal(size=30)])
    users, items = (grid.reshape(-1) for grid in np.meshgrid(np.arange(40), np.arange(1, 31), indexing="ij"))
    seen = random.random(len(users)) < 0.7
    truth = 3 + a[users] * b[items]
    rater = FactorRater(Ratings(users[seen], items[seen], truth[seen], 30))
    queries = []
    for user in range(40):
        mine = users == user
        queries.append(query(items[mine & seen].tolist(), truth[mine & seen].tolist(), items[mine & ~seen].tolist()))
    predicted = rater(queries).numpy()
    hidden = np.concatenate([truth[(users == user) & ~seen] for user in range(40)])
    assert np.sqrt(np.mean((predicted - hidden) ** 2)) < 0.5 * np.std(hidden)


def test_an_empty_history_is_rated_by_the_item_alone(dataset: Dataset, rated: tuple[MGDSC, list[Validated]]) -> None:
    model, _ = rated
    predicted = ModelRater(model, 100, CPU)([query([], [], [1, 2, UNKNOWN])])
    assert model.rating_head is not None
    bias = model.rating_head.table.weight[[1, 2, 0], 0].detach() * model.spec.rating_std + model.spec.rating_mean
    torch.testing.assert_close(predicted, bias)
    for rater in make_rating_baselines(dataset).values():
        assert not any(math.isnan(value) for value in rater([query([], [], [1, UNKNOWN])]).tolist())


def test_batching_changes_nothing(dataset: Dataset, rated: tuple[MGDSC, list[Validated]]) -> None:
    rater = ModelRater(rated[0], 100, CPU)
    one_by_one = EvaluateConfig(batch_events=1)
    assert measured(rater, dataset, one_by_one) == pytest.approx(measured(rater, dataset))


def test_a_model_is_judged_on_a_dataset_of_other_numbers(tmp_path: Path) -> None:
    """As jobs/eval.py does: the same figures as for the same users in the dataset that the model was trained on."""
    log = taste_log()
    own = write_dataset(tmp_path / "own", log)
    some = log.filter(pl.col("user_id").is_in([f"u{user}" for user in range(0, 120, 3)]))
    other = write_dataset(tmp_path / "other", some)
    assert own.item_ids != other.item_ids
    model, _ = train(own, "both", epochs=3)
    info = ModelInfo(
        config=model.config,
        num_items=own.num_items,
        max_length=100,
        dataset_fingerprint=own.manifest.fingerprint,
        inputs=model.spec,
    )
    save_model(tmp_path / "model", model.state_dict(), info, Vocabulary.of(own))
    metrics, asked_of = evaluate_foreign(Recommender(tmp_path / "model"), other, "test", EvaluateConfig())
    users = {query.user_id for query in other.queries("test")}
    places = [i for i, query in enumerate(own.queries("test")) if query.user_id in users]
    asked = list(rating_queries(own, "test"))
    ratings = [asked[place] for place in places]
    expected = evaluate_ratings(ModelRater(model, 100, CPU), [ratings], own.rating_scale()).compute()
    assert {name: metrics.compute()[name] for name in expected} == pytest.approx(expected)
    assert metrics.num_targets == len(users)
    unknown = [query.target == UNKNOWN for place, query in enumerate(own.queries("test")) if place in set(places)]
    assert asked_of.unknown_targets == sum(unknown)


def test_a_log_without_ratings_is_named(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "v", taste_log(10).drop("rating"))
    with pytest.raises(InputError, match="the dataset has no ratings"):
        resolve_inputs(model_config(outputs="rating"), dataset.manifest)

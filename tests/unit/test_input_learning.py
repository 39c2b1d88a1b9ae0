"""Where an input decides what comes next, a model that reads it learns that, and one that does not cannot."""

import numpy as np
import polars as pl
import pytest
import torch

from mgray.config import EvaluateConfig, ResolvedTrainConfig
from mgray.data.dataset import Dataset
from mgray.data.inputs import resolve_inputs
from mgray.eval.ranking import evaluate, part_queries
from mgray.model.mgdsc import MGDSC
from mgray.serve.scorer import ModelScorer
from mgray.train.objective import Objective
from mgray.train.trainer import Trainer
from tests.datasets import write_dataset
from tests.models import model_config

CPU = torch.device("cpu")
NUM_USERS, NUM_EVENTS, NUM_ITEMS = 200, 16, 30
STEPS = np.array([1, 5, 11, 19])  # on a ring of items, by the signal of the event before


def make_log(seed: int = 0) -> pl.DataFrame:
    """Each event's signal, one of four, is in its type, its rating, its price and the time since the event before."""
    random = np.random.default_rng(seed)
    signal = random.integers(0, 4, (NUM_USERS, NUM_EVENTS))
    start = random.integers(0, NUM_ITEMS, (NUM_USERS, 1))
    items = (start + np.concatenate([np.zeros((NUM_USERS, 1)), STEPS[signal][:, :-1].cumsum(1)], axis=1)) % NUM_ITEMS
    gaps = np.array([10.0, 100.0, 1000.0, 10_000.0])[signal]
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in range(NUM_USERS) for _ in range(NUM_EVENTS)],
            "item_id": [f"i{item:.0f}" for item in items.ravel()],
            "timestamp": (1.6e9 + gaps.cumsum(1)).ravel(),
            "event_type": np.array([*"abcd"])[signal].ravel(),
            "rating": (signal + 1.0).ravel(),
            "feature:price": np.array([5.0, 20.0, 70.0, 90.0])[signal].ravel(),
        }
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "version", make_log())


def first_hits(dataset: Dataset, inputs: tuple) -> float:
    """hr@1 on the test part after a short training."""
    config = model_config(width=32, granularities=(1,), heads=2, dropout=0.0, inputs=inputs)
    train = ResolvedTrainConfig(
        epochs=25,
        learning_rate=1e-2,
        global_batch_events=500,
        loss="softmax",
        max_time_s=None,
        validate_every_epochs=99,
    )
    config = resolve_inputs(config, dataset.manifest)
    torch.manual_seed(0)
    model = MGDSC(config, dataset.num_items, dataset.input_spec(config))
    trainer = Trainer(Objective(model, train, CPU, exclude_seen=False), model, dataset, train, CPU)
    list(trainer.run(lambda: {"ndcg@10": 0.0}, "ndcg@10", 1000))
    scorer = ModelScorer(model, dataset.item_counts, train.max_length, CPU)
    queries = part_queries(dataset, "test", scorer.columns)
    options = EvaluateConfig(k=1, remove_seen=False)
    return evaluate(scorer, queries, dataset.item_counts, options).compute()["hr@1"]


def test_without_inputs_one_in_four_is_the_most(dataset: Dataset) -> None:
    # 200 targets: a share of 1/4 scatters by 0.03
    assert first_hits(dataset, ()) < 0.35


@pytest.mark.parametrize("name", ["event_type", "rating", "features", "time_gap"])
def test_the_input_that_decides_is_learned(dataset: Dataset, name: str) -> None:
    assert first_hits(dataset, (name,)) > 0.8

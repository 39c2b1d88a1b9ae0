"""The card says what the model reads and what it was trained on."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mgray.config import EvaluateConfig, ModelConfig, TrainConfig, TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.ingest.clean import SplitKind
from mgray.report.model_card import model_card
from mgray.testing.synthetic import make_log
from mgray.train.resolve import model_info, resolve_job
from mgray.train.run_result import RankResult
from pipelines.train.job import run_name
from tests.datasets import write_dataset

TRAINED = RankResult(
    metrics={"ndcg@10": 0.5},
    num_targets=20,
    slices={},
    attention=None,
    curve=[],
    best_valid={},
    best_epoch=1.0,
    epochs=1.0,
    steps=1,
    positions=1,
    train_s=1.0,
    device="cpu",
    parameters=1000,
)


def card(asked: TrainJobConfig, dataset: Dataset) -> str:
    config = resolve_job(asked, dataset.manifest)
    return model_card(config, model_info(dataset, config), dataset.manifest, TRAINED, {})


@pytest.mark.parametrize(
    ("inputs", "read"),
    [
        ((), "at most the last 1,024 events, and of each item, nothing else."),
        ("auto", "at most the last 1,024 events, and of each item, rating, time since the event before, nothing else."),
    ],
)
def test_it_names_the_inputs(tmp_path: Path, inputs: tuple | str, read: str) -> None:
    dataset = write_dataset(tmp_path / "v", make_log(20, 10))
    config = TrainJobConfig(model=ModelConfig(inputs=inputs))
    assert read in card(config, dataset)


@pytest.mark.parametrize(
    ("split", "include_valid", "told"),
    [
        ("leave_one_out", False, "train, all but each user's last two;"),
        ("leave_one_out", True, "train, all but each user's last;"),
        ("temporal", False, "train, up to {valid};"),
        ("temporal", True, "train, up to {test};"),
        ("random", False, "train, drawn at random;"),
        ("random", True, "train, drawn at random (validation part included);"),
    ],
)
def test_it_says_what_was_trained_on(tmp_path: Path, split: SplitKind, include_valid: bool, told: str) -> None:
    dataset = write_dataset(tmp_path / "v", make_log(20, 10), split=split)
    config = TrainJobConfig(train=TrainConfig(include_valid=include_valid))
    days = {
        name: datetime.fromtimestamp(cut, UTC).strftime("%Y-%m-%d %H:%M")
        for name, cut in {"valid": dataset.manifest.split.valid_from, "test": dataset.manifest.split.test_from}.items()
        if cut is not None
    }
    events = f"{dataset.manifest.train_events:,}"
    if include_valid:  # less those on items that are in no training event
        events = f"up to {dataset.manifest.train_events + dataset.manifest.valid_events:,}"
    assert f"of these {events} {told.format(**days)}" in card(config, dataset)


def test_it_says_how_many_models_it_is(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "v", make_log(20, 10))
    config = TrainJobConfig(model=ModelConfig(members=3))
    assert "width 64 (3 models, whose scores are averaged), 1,000" in card(config, dataset)
    assert run_name(config) == "g1-d1..400-w64x3-s0"
    assert "width 64, 1,000" in card(TrainJobConfig(), dataset)


def test_it_says_that_seen_items_were_no_negatives(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "v", make_log(20, 10))
    told = "never learned to rank low what the user has"
    assert told in card(TrainJobConfig(), dataset)
    config = TrainJobConfig(evaluate=EvaluateConfig(remove_seen=False))
    assert told not in card(config, dataset)

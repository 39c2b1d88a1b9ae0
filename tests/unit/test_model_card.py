"""The card says what the model reads."""

from pathlib import Path

import pytest

from mgray.config import ModelConfig, TrainJobConfig
from mgray.model_card import model_card
from mgray.synthetic import make_log
from tests.datasets import write_dataset


@pytest.mark.parametrize(
    ("inputs", "read"),
    [
        ((), "at most the last 1,024 events, and of each item, nothing else."),
        ("auto", "at most the last 1,024 events, and of each item, rating, time since the event before, nothing else."),
    ],
)
def test_it_names_the_inputs(tmp_path: Path, inputs: tuple | str, read: str) -> None:
    manifest = write_dataset(tmp_path / "v", make_log(20, 10)).manifest
    config = TrainJobConfig(model=ModelConfig(inputs=inputs))
    trained = {"metrics": {"ndcg@10": 0.5}, "num_targets": 20, "slices": {}, "parameters": 1000}
    assert read in model_card(config, manifest, trained, {})

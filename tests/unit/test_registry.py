"""What makes two trainings the same to retraining."""

import pytest

from mgray.config import TrainJobConfig, validate
from pipelines.registry import training_key


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"train": {"seed": 1}}, False),
        ({"evaluate": {"k": 20}}, False),  # the best epoch is another
        ({"evaluate": {"remove_seen": False}}, False),  # train.exclude_seen: auto follows it
        ({"evaluate": {"max_valid_users": 10}}, False),
        ({"evaluate": {"batch_events": 64}}, True),
        ({"tracking": {"experiment": "other"}}, True),
    ],
)
def test_the_key_is_of_what_the_model_comes_from(changed: dict, same: bool) -> None:
    assert (training_key(validate(TrainJobConfig, changed), "d") == training_key(TrainJobConfig(), "d")) == same

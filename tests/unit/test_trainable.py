"""pipelines.train.job: a log with nothing to learn from is told apart before a run is made."""

from pathlib import Path

import polars as pl
import pytest

from mgray.errors import InputError
from mgray.testing.synthetic import make_log
from pipelines.train.job import check_trainable
from tests.datasets import write_dataset


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    """Three events: one is for validation and one for the test: no next item is left to train on."""
    log = make_log(20, 10)
    check_trainable(write_dataset(tmp_path / "enough", log))
    short = log.filter(pl.int_range(pl.len()).over("user_id") < 3)
    with pytest.raises(InputError, match="no user has two events on known items to train on"):
        check_trainable(write_dataset(tmp_path / "short", short))

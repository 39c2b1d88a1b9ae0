"""The figures beside a model's, and what they tell of the log itself."""

import polars as pl
import pytest

from mgray.config import EvaluateConfig
from mgray.data.dataset import Dataset
from mgray.serve.model_folder import Vocabulary
from pipelines.evaluate.job import evaluate_baselines, repeat_notes
from tests.datasets import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """40 users: half end on what they began with. All took `old` once, `new` is of the last days."""
    rows = []
    for user in range(40):
        items = ["old", f"own{user % 5}", "new" if user < 20 else "other", "mid", "old" if user % 2 else "last"]
        rows += [(f"u{user}", item, 1e9 + day * 86_400.0) for day, item in enumerate(items)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return write_dataset(tmp_path_factory.mktemp("data") / "version", log)


def test_targets_that_the_user_has_are_told(dataset: Dataset) -> None:
    (note,) = repeat_notes(evaluate_baselines(dataset, "test", EvaluateConfig()))
    assert note.startswith("50.0% of the 40 targets are items that the user has by then")
    assert "--evaluate.remove_seen false" in note
    assert repeat_notes(evaluate_baselines(dataset, "test", EvaluateConfig(remove_seen=False))) == []
    assert repeat_notes(evaluate_baselines(dataset, "valid", EvaluateConfig())) == []
    assert repeat_notes({}) == []


def test_recent_popularity_is_what_a_model_falls_back_on(dataset: Dataset) -> None:
    recent = Vocabulary.of(dataset).popularity
    best = {dataset.item_ids[number - 1] for number in recent.argsort()[-2:]}
    assert best == {"new", "other"}, "those of the newest training day"
    found = evaluate_baselines(dataset, "valid", EvaluateConfig(k=2))
    assert set(found) == {"popularity", "popularity_recent", "cooccurrence"}

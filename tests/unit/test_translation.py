"""A dataset's columns as a model that was trained on another reads them, and as a service would send them."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from mgray.config import ResolvedModelConfig
from mgray.data.columns import Columns
from mgray.data.dataset import Dataset
from mgray.data.inputs import InputSpec
from mgray.data.manifest import Feature
from mgray.errors import InputError
from mgray.model.mgdsc import MGDSC
from mgray.schema import UNKNOWN
from mgray.serve.model_folder import ModelInfo, Vocabulary, load_model, save_model
from mgray.serve.recommender import Recommender
from mgray.serve.request import raw_lists
from mgray.serve.top_k import rank_lists, translate
from mgray.serve.translation import Translation
from tests.datasets import write_dataset
from tests.models import model_config
from tests.perturbed import perturbed

INPUTS = ("event_type", "features", "rating", "time_gap")
MODEL = model_config(width=8, granularities=(1, 4), heads=2, inputs=INPUTS)
MODEL_ITEMS = ["c", "x", "a"]
SPEC = InputSpec(
    event_types=("view", "buy"), features=(Feature(name="price", mean=10, std=5),), rating_mean=3, rating_std=1
)
CPU = torch.device("cpu")


def make_log() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": ["u"] * 6 + ["v"] * 4,
            "item_id": [*"abcabc", *"caab"],
            "timestamp": [float(i) for i in range(10)],
            "rating": [1.0, 2, None, 4, 5, 1, 2, 3, 4, 5],
            "event_type": ["buy", "scroll", "view", None, "buy", "view", "view", "buy", "view", "buy"],
            "feature:size": [float(i) for i in range(10)],
            "feature:price": [10.0, 20, 30, 40, 50, 60, 15, 25, 35, 45],
        }
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "version", make_log(), 1)


def info(config: ResolvedModelConfig = MODEL) -> ModelInfo:
    return ModelInfo(config=config, num_items=len(MODEL_ITEMS), max_length=50, dataset_fingerprint="test", inputs=SPEC)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = perturbed(MGDSC(MODEL, len(MODEL_ITEMS), SPEC))
    save_model(folder, model.state_dict(), info(), Vocabulary(MODEL_ITEMS, MODEL_ITEMS, [3, 2, 1]))
    return folder


def test_columns_by_hand(dataset: Dataset) -> None:
    """Of the dataset's a b c a b c the model knows a (3) and c (1), of its types buy (2) and view (1)."""
    translation = Translation(dataset, MODEL_ITEMS, info())
    columns, known = translation(dataset.read(0, translation.columns).row(0))
    assert known.tolist() == [True, False, True] * 2
    assert columns.items.tolist() == [3, 1, 3, 1]
    assert columns.times.tolist() == [0, 2, 3, 5]
    assert columns.event_types.tolist() == [2, 1, 0, 1]
    assert np.array_equal(columns.ratings, np.float32([1, np.nan, 4, 1]), equal_nan=True)
    assert columns.features == pytest.approx(np.array([[0.0], [4.0], [6.0], [10.0]]), abs=1e-6)  # (price - 10) / 5


def test_unknown_items_leave_offsets_in_step(dataset: Dataset) -> None:
    translation = Translation(dataset, MODEL_ITEMS, info(model_config(width=8, heads=2)))
    number = {item: i for i, item in enumerate(dataset.item_ids, start=1)}
    items = np.array([number["a"], number["b"], number["c"], UNKNOWN, number["b"]], np.int32)
    columns, offsets = translate(Columns(items), np.array([0, 3, 4, 4, 5]), translation)
    assert (columns.items.tolist(), offsets.tolist()) == ([3, 1], [0, 2, 2, 2, 2])


def test_a_dataset_without_the_columns_is_an_input_error(tmp_path: Path) -> None:
    log = make_log()
    bare = write_dataset(tmp_path / "bare", log.drop("event_type"), 1)
    with pytest.raises(InputError, match="the model reads event_type, which this dataset does not have"):
        Translation(bare, MODEL_ITEMS, info())
    other = write_dataset(tmp_path / "other", log.drop("feature:price"), 1)
    with pytest.raises(InputError, match="the model reads the feature price"):
        Translation(other, MODEL_ITEMS, info())
    unrated = write_dataset(tmp_path / "unrated", log.drop("rating"), 1)
    with pytest.raises(InputError, match="the model reads rating"):
        Translation(unrated, MODEL_ITEMS, info(model_config(width=8, heads=2, outputs="both")))
    assert Translation(bare, MODEL_ITEMS, info(model_config(width=8, heads=2))).columns == frozenset()


def test_a_service_and_a_batch_job_give_the_same_lists(dataset: Dataset, model_folder: Path) -> None:
    """Raw lists through the recommender, and the shard's columns through the translation."""
    recommender = Recommender(model_folder)
    translation = Translation(dataset, recommender.vocabulary.item_ids, recommender.info)
    histories = dataset.read(0, translation.columns)
    columns, offsets = translate(histories.columns, histories.offsets, translation)
    lists = rank_lists(recommender.scorer, columns, offsets, 3, remove_seen=False)
    raw = raw_lists([histories.row(row) for row in range(2)], dataset, SPEC)
    assert raw["history"] == [[*"abcabc"], [*"caab"]]
    assert raw["event_types"][0] == ["buy", "scroll", "view", None, "buy", "view"]
    assert raw["ratings"][0] == [1, 2, None, 4, 5, 1]
    assert np.array(raw["features"][1]) == pytest.approx(np.array([[15.0], [25], [35], [45]]))
    served = recommender.recommend(raw["history"], 3, remove_seen=False, beside=raw)
    assert served.num_unknown == [2, 1]
    for row in range(2):
        assert served.items[row] == [MODEL_ITEMS[item - 1] for item in lists.items[row]]
        assert served.scores[row] == pytest.approx(lists.scores[row].tolist(), abs=1e-5)


def test_every_column_reaches_the_scores(dataset: Dataset, model_folder: Path) -> None:
    recommender = Recommender(model_folder)
    raw = raw_lists([dataset.read(0, recommender.scorer.columns).row(0)], dataset, SPEC)
    scores = recommender.recommend(raw["history"], remove_seen=False, beside=raw).scores[0]
    changes = {
        "timestamps": [[0, 0, 900, 900, 900, 10_000]],
        "event_types": [["buy"] * 6],
        "ratings": [[None] * 6],
        "features": [[[0.0]] * 6],
    }
    for name, value in changes.items():
        changed = recommender.recommend(raw["history"], remove_seen=False, beside=raw | {name: value}).scores[0]
        assert changed != pytest.approx(scores, abs=1e-4), name


def test_old_models_still_load(model_folder: Path, tmp_path: Path) -> None:
    """A model.json from before there were inputs has neither `inputs` key."""
    torch.manual_seed(0)
    plain = model_config(width=8, granularities=(1, 4), heads=2)
    old = info(plain).model_dump(mode="json")
    del old["inputs"], old["config"]["inputs"]
    model = MGDSC(plain, len(MODEL_ITEMS))
    save_model(tmp_path, model.state_dict(), info(plain), Vocabulary(MODEL_ITEMS, MODEL_ITEMS, [3, 2, 1]))
    (tmp_path / "model.json").write_text(json.dumps(old))
    loaded, read, _ = load_model(tmp_path, CPU)
    assert read.inputs == InputSpec()
    assert loaded.input_encoder is None

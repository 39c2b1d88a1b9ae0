"""The pyfunc as MLflow loads it: raw ids and the columns beside them in, raw ids and scores out."""

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
import torch

from mgray.checkpoint import ModelInfo, Vocabulary, save_model
from mgray.errors import InputError
from mgray.inputs import InputSpec
from mgray.manifest import Feature
from mgray.model import MGDSC
from mgray.recommend import Recommender
from pipelines import tracking
from tests.models import model_config

ITEMS = ["a", "b", "c", "d"]
SPEC = InputSpec(event_types=("buy", "view"), features=(Feature(name="price", mean=10, std=5),))
REQUEST: dict[str, list] = {
    "history": [["a", "no such item", "b"], ["c"]],
    "timestamps": [[1.6e9, 1.6e9 + 5, 1.6e9 + 60], [1.7e9]],
    "event_types": [["buy", "view", "view"], [None]],
    "ratings": [[5.0, 1.0, 3.0], [4.0]],
    "features": [[[10.0], [20.0], [5.0]], [[7.0]]],
}


def write_model(folder: Path, inputs: tuple) -> Path:
    config = model_config(width=8, granularities=(1,), heads=2, inputs=inputs)
    torch.manual_seed(0)
    info = ModelInfo(config=config, num_items=4, max_length=50, dataset_fingerprint="test", inputs=SPEC)
    model = MGDSC(config, 4, SPEC)
    if model.input_encoder is not None:  # which adds nothing before it is trained
        for parameter in model.input_encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(folder, model.state_dict(), info, Vocabulary(ITEMS, ITEMS, [4, 3, 2, 1]))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), ("event_type", "features", "rating", "time_gap"))


@pytest.fixture(scope="module")
def loaded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("pyfunc") / "saved"
    mlflow.pyfunc.save_model(
        str(path),
        python_model=str(Path(tracking.__file__).with_name("served_model.py")),
        artifacts={"model": str(folder)},
        signature=tracking.signature(REQUEST),
        pip_requirements=[],
    )
    return mlflow.pyfunc.load_model(str(path))


def test_it_answers_as_the_recommender(folder: Path, loaded: Any) -> None:
    frame = loaded.predict(pd.DataFrame(REQUEST), params={"k": 2})
    expected = Recommender(folder).recommend(REQUEST["history"], 2, beside=REQUEST)
    assert frame["items"].tolist() == expected.items
    assert frame["scores"].tolist() == expected.scores
    assert expected.items != Recommender(folder).recommend([["b"], ["c"]], 2, beside=beside(["b"], ["c"])).items


def beside(*histories: list[str]) -> dict[str, list]:
    """Columns that say nothing."""
    return {
        "timestamps": [[0.0] * len(history) for history in histories],
        "event_types": [[None] * len(history) for history in histories],
        "ratings": [[None] * len(history) for history in histories],
        "features": [[None] * len(history) for history in histories],
    }


@pytest.mark.parametrize("missing", ["timestamps", "event_types", "ratings", "features"])
def test_a_missing_column_is_named(loaded: Any, missing: str) -> None:
    with pytest.raises(InputError, match=f"the model reads {missing}, which are not given"):
        loaded.predict(pd.DataFrame(REQUEST).drop(columns=missing))


def test_a_user_without_a_known_item_gets_the_popular_ones(loaded: Any) -> None:
    request = pd.DataFrame({"history": [["no such item"], []], **beside(["no such item"], [])})
    assert loaded.predict(request, params={"k": 3})["items"].tolist() == [["a", "b", "c"]] * 2


def test_it_explains_the_first_item_of_each_list(folder: Path, loaded: Any) -> None:
    request = {name: [lists[0], lists[0][1:2]] for name, lists in REQUEST.items()}  # the latter: no known item
    frame = loaded.predict(pd.DataFrame(request, index=[7, 7]), params={"k": 2, "explain": True})
    why = frame.iloc[0]
    assert (why["granularities"], why["events"]) == (["1"], ["a", "b"])
    without_a = {name: [lists[0][1:]] for name, lists in REQUEST.items()}
    left = Recommender(folder).recommend(without_a["history"], 4, remove_seen=False, beside=without_a)
    score = dict(zip(left.items[0], left.scores[0], strict=True))[why["items"][0]]
    assert why["event_scores"][0] == pytest.approx(why["scores"][0] - score, abs=1e-5)
    # One level, and an output normalization whose bias starts at zero: all of the score is that level's.
    assert why["granularity_scores"] == pytest.approx(why["scores"][:1], abs=1e-5)
    columns = ["granularities", "granularity_scores", "events", "event_scores"]
    assert frame.iloc[1][columns].tolist() == [[], [], [], []]


def test_nothing_is_explained_unasked(loaded: Any) -> None:
    assert loaded.predict(pd.DataFrame(REQUEST)).columns.tolist() == ["items", "scores"]

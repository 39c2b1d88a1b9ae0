"""The pyfunc as MLflow loads it: raw ids and the columns beside them in, raw ids and scores out."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException

from mgray.data.columns import Columns
from mgray.data.inputs import InputSpec
from mgray.data.manifest import Feature
from mgray.errors import InputError
from mgray.model.ensemble import make_model
from mgray.model.mgdsc import MGDSC
from mgray.schema import UNKNOWN
from mgray.serve.model_folder import ModelInfo, Vocabulary, load_info, save_model
from mgray.serve.rater import ModelRater, RatingQuery
from mgray.serve.recommender import Recommender
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


def write_model(
    folder: Path,
    inputs: tuple,
    outputs: str = "next_item",
    remove_seen: bool = True,
    item_ids: list[str] = ITEMS,
) -> Path:
    config = model_config(width=8, granularities=(1,), heads=2, inputs=inputs, outputs=outputs)
    torch.manual_seed(0)
    info = ModelInfo(
        config=config,
        num_items=4,
        max_length=50,
        dataset_fingerprint="test",
        inputs=SPEC,
        remove_seen=remove_seen,
    )
    model = MGDSC(config, 4, SPEC)
    if model.input_encoder is not None:  # which adds nothing before it is trained
        for parameter in model.input_encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(folder, model.state_dict(), info, Vocabulary(item_ids, item_ids, [4, 3, 2, 1]))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), ("event_type", "features", "rating", "time_gap"))


def load(folder: Path, path: Path, columns: Iterable[str] = REQUEST) -> Any:
    mlflow.pyfunc.save_model(
        str(path),
        python_model=str(Path(tracking.__file__).with_name("served_model.py")),
        artifacts={"model": str(folder)},
        signature=tracking.signature(columns, load_info(folder)),
        pip_requirements=[],
    )
    return mlflow.pyfunc.load_model(str(path))


@pytest.fixture(scope="module")
def loaded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(folder, tmp_path_factory.mktemp("pyfunc") / "saved")


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


def test_seen_items_stay_where_the_model_was_measured_so_or_is_told_so(tmp_path: Path, loaded: Any) -> None:
    folder = write_model(tmp_path / "model", (), remove_seen=False)
    repeating = load(folder, tmp_path / "saved", ["history"])
    request = pd.DataFrame({"history": [["a", "b"]]})
    assert sorted(repeating.predict(request)["items"][0]) == ITEMS
    assert sorted(repeating.predict(request, params={"remove_seen": True})["items"][0]) == ["c", "d"]
    assert sorted(loaded.predict(pd.DataFrame(REQUEST))["items"][0]) == ["c", "d"]
    assert sorted(loaded.predict(pd.DataFrame(REQUEST), params={"remove_seen": False})["items"][0]) == ITEMS


def test_a_rating_head_is_served(tmp_path: Path, loaded: Any) -> None:
    folder = write_model(tmp_path / "model", (), outputs="both")
    rating = load(folder, tmp_path / "saved", ["history", "ratings"])
    targets = [["c", "no such item"], []]
    request = {"history": [["a", "b"], ["c"]], "ratings": [[5.0, 1.0], [4.0]], "targets": targets}
    frame = rating.predict(pd.DataFrame(request))
    recommender = Recommender(folder)
    history = Columns(np.asarray([1, 2], np.int32), ratings=np.asarray([5.0, 1.0], np.float32))
    query = RatingQuery(history, np.asarray([3, UNKNOWN]), np.zeros(2, np.float32))
    expected = ModelRater(recommender.model, 50, torch.device("cpu"))([query]).tolist()
    assert frame["ratings"].tolist() == [pytest.approx(expected), []]
    assert "ratings" not in rating.predict(pd.DataFrame(request).drop(columns="targets"))
    with pytest.raises(InputError, match="this model does not rate"):
        Recommender(write_model(tmp_path / "plain", ())).rate([["a"]], [["b"]])


def test_nothing_is_explained_unasked(loaded: Any) -> None:
    assert loaded.predict(pd.DataFrame(REQUEST)).columns.tolist() == ["items", "scores"]


def test_an_explanation_wants_what_the_model_reads(loaded: Any) -> None:
    recommender = loaded.unwrap_python_model().recommender
    recommended = recommender.recommend(REQUEST["history"], 3, beside=REQUEST)
    with pytest.raises(InputError, match="the model reads "):
        recommender.explain(REQUEST["history"], recommended)


def test_a_user_goes_on_from_a_state(loaded: Any) -> None:
    recommender = loaded.unwrap_python_model().recommender
    users = []
    for row, history in enumerate(REQUEST["history"]):
        user = recommender.begin()
        for place, item in enumerate(history):
            values = {name: [lists[row][place]] for name, lists in REQUEST.items() if name != "history"}
            user = recommender.extend(user, [item], values)
        users.append(user)
    expected = recommender.recommend(REQUEST["history"], 3, beside=REQUEST)
    found = recommender.recommend_next(users, 3, seen=REQUEST["history"])
    assert found.items == expected.items
    assert [len(items) for items in found.items] == [2, 3]
    for own, whole in zip(found.scores, expected.scores, strict=True):
        assert own == pytest.approx(whole, abs=1e-5)
    assert found.num_unknown == expected.num_unknown == [1, 0]
    assert sorted(recommender.recommend_next(users[:1], 9).items[0]) == ITEMS
    (left,) = recommender.recommend_next(users[:1], 9, candidates=["a", "d"], blocked=["a"]).items
    assert left == ["d"]
    values = {name: lists[0][:1] for name, lists in REQUEST.items()}  # of a time before the user's last
    with pytest.raises(InputError, match="is before the user's last event"):
        recommender.extend(users[0], ["a"], values)


def test_a_state_without_a_known_event_gets_the_popular_items(loaded: Any) -> None:
    recommender = loaded.unwrap_python_model().recommender
    values = {name: lists[0] for name, lists in beside(["no such item"]).items()}
    user = recommender.extend(recommender.begin(), ["no such item"], values)
    found = recommender.recommend_next([recommender.begin(), user], 2)
    assert found.items == [["a", "b"]] * 2
    assert found.num_unknown == [0, 1]
    with pytest.raises(InputError, match="the model reads event_types"):
        recommender.extend(user, ["a"])
    for wrong, message in (({"k": 0}, "k: 0"), ({"seen": [["a"]] * 3}, "seen: 3 lists for 1 users")):
        with pytest.raises(InputError, match=message):
            recommender.recommend_next([user], **wrong)
    assert recommender.recommend_next([]).items == []


def test_candidates_and_blocked_items(loaded: Any) -> None:
    request = pd.DataFrame({"history": [["a"], []], **beside(["a"], [])})

    def items(**params: Any) -> list[set[str]]:
        return [set(one) for one in loaded.predict(request, params={"k": 4, **params})["items"]]

    assert items() == [{"b", "c", "d"}, {"a", "b", "c", "d"}]
    assert items(candidates=["b", "a", "no such item"]) == [{"b"}, {"a", "b"}]
    assert items(blocked=["b", "no such item"]) == [{"c", "d"}, {"a", "c", "d"}]
    assert items(candidates=["b", "c"], blocked=["b"]) == [{"c"}, {"c"}]
    assert items(candidates=["no such item"]) == [set(), set()]


def test_whole_numbers_are_ids_wherever_ids_are_taken(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", (), outputs="both", item_ids=["1", "2", "b", "4"])
    recommender, lists = Recommender(folder), {"ratings": [[5, 3]]}
    text = recommender.recommend([["1", "2"]], 2, beside=lists)
    assert recommender.recommend([[1, 2.0]], 2, beside=lists) == text
    assert recommender.recommend([[1, 2]], beside=lists, candidates=[4]).items == [["4"]]
    assert recommender.recommend([[1, 2]], beside=lists, blocked=[4]).items == [["b"]]
    assert recommender.rate([[1, 2]], [[4, "b"]], lists) == recommender.rate([["1", "2"]], [["4", "b"]], lists)
    user = recommender.extend(recommender.begin(), [1, 2], {"ratings": [5, 3]})
    assert recommender.recommend_next([user], 4, seen=[[1, 2, 4]]).items == [["b"]]
    for wrong in ({"candidates": "b"}, {"blocked": "b"}):
        with pytest.raises(InputError, match="must be a list of item ids, not 'b'"):
            recommender.recommend([["1", "2"]], beside=lists, **wrong)
    with pytest.raises(InputError, match="row 0: history must be a list of item ids, not '12'"):
        recommender.recommend(["12"], beside={"ratings": [[5, 3]]})


def test_a_wrong_request_is_an_error_of_mlflow_too(loaded: Any) -> None:
    with pytest.raises(InputError) as wrong:
        loaded.predict(pd.DataFrame(REQUEST | {"timestamps": [[3, 2, 1], [1]]}))
    assert isinstance(wrong.value, MlflowException)
    assert wrong.value.get_http_status_code() == 400
    wrong.value.message = "the whole request, and its error"  # as MLflow's server does
    assert json.loads(wrong.value.serialize_as_json())["message"] == str(wrong.value)
    assert str(wrong.value).startswith("row 0: timestamps must be")


def test_products_of_the_vectors_are_the_scores(loaded: Any) -> None:
    recommender = loaded.unwrap_python_model().recommender
    lists = {name: [*values, []] for name, values in REQUEST.items()}
    interests, items = recommender.interests(lists["history"], lists), recommender.item_vectors()
    assert (interests.shape, items.shape) == ((3, 8), (4, 8))
    assert not interests[2].any()
    kept = recommender.item_vectors()
    kept[:] = 0
    assert recommender.item_vectors().any(), "they are a copy"
    whole = recommender.recommend(REQUEST["history"], 4, remove_seen=False, beside=REQUEST)
    for own, ids, scores in zip(interests[:2] @ items.T, whole.items, whole.scores, strict=True):
        assert [own[ITEMS.index(item)] for item in ids] == pytest.approx(scores, abs=1e-5)


def streaming(folder: Path, **settings: Any) -> Recommender:
    """A model of every kind of level, untrained."""
    config = model_config(width=8, granularities=(1, 4, "session:30m", "decay:1..9"), heads=2, **settings)
    torch.manual_seed(0)
    info = ModelInfo(config=config, num_items=4, max_length=50, dataset_fingerprint="test")
    save_model(folder, make_model(config, 4).state_dict(), info, Vocabulary(ITEMS, ITEMS, [4, 3, 2, 1]))
    return Recommender(folder)


def events(count: int) -> tuple[list[str], dict[str, list[float]]]:
    values = {"timestamps": [1.6e9 + 400.0 * i for i in range(count)], "ratings": [1.0 + i % 5 for i in range(count)]}
    return (ITEMS * count)[:count], values


@pytest.mark.parametrize("settings", [{"outputs": "both"}, {"members": 2}], ids=["both", "members"])
@pytest.mark.parametrize("counts", [(3, 9, 17, 1), (30,), (8, 22)], ids=str)
def test_events_of_any_number_go_on_from_a_state(settings: dict, counts: tuple[int, ...], tmp_path: Path) -> None:
    recommender = streaming(tmp_path, **settings)
    history, given = events(sum(counts))
    lists = {name: given[name] for name in recommender.encoder.names}
    user, begin = recommender.begin(), 0
    for count in counts:
        some = slice(begin, begin + count)
        user = recommender.extend(user, history[some], {name: values[some] for name, values in lists.items()})
        begin += count
    whole = recommender.interests([history], {name: [values] for name, values in lists.items()})
    assert user.interest is not None
    assert user.interest.numpy() == pytest.approx(whole, abs=1e-5)


def test_a_state_is_of_one_size(tmp_path: Path) -> None:
    recommender = streaming(tmp_path, outputs="both")

    def memory(part: Any) -> int:
        """Bytes that it keeps alive: a slice keeps what it was cut from."""
        if isinstance(part, torch.Tensor):
            return part.untyped_storage().nbytes()
        return sum(memory(one) for one in part) if isinstance(part, tuple) else 0

    def after(count: int) -> int:
        return memory(recommender.extend(recommender.begin(), *events(count)))

    assert after(4) == after(400) > 0

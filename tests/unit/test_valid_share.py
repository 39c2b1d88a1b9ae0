"""How many users validation is by: costs that a reader can work out, and the laws of the share."""

from pathlib import Path

import polars as pl
import pytest
import torch

from mgray.config import EvaluateConfig, TrainConfig
from mgray.data.dataset import Dataset, Part
from mgray.eval.part_metrics import PartEvaluation
from mgray.eval.valid_share import (
    MAX_COST,
    MULTIPLY_ADDS_S,
    ValidShare,
    body_weights,
    history_events,
    training_cost,
    valid_cost,
    valid_share,
)
from mgray.model.ensemble import Model, make_model
from mgray.train.run_result import RankResult
from pipelines.train.publish import valid_notes
from tests.datasets import write_dataset
from tests.models import model_config

USERS, EVENTS = 3000, 4  # of each: two train, one validates, one tests
TRAIN = TrainConfig(max_time_s=None, epochs=30, validate_every_epochs=3, num_negatives=100)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = [(f"u{user}", f"i{(user + time) % 7}", float(time)) for user in range(USERS) for time in range(EVENTS)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return write_dataset(tmp_path_factory.mktemp("log") / "version", log)


def model_of(num_items: int, members: int = 1) -> Model:
    return make_model(model_config(width=8, granularities=(1,), heads=2, members=members), num_items)


def test_costs_by_hand(dataset: Dataset) -> None:
    """Each query reads two events, then is one product with V + 1 vectors of 8; each position has 100 negatives."""
    model = model_of(300)
    weights = sum(p.numel() for name, p in model.named_parameters() if name != "embedding.weight")
    assert body_weights(model) == weights > 0
    assert history_events(dataset, 100) == USERS * 2
    assert history_events(dataset, 1) == USERS
    assert valid_cost(TRAIN, model, dataset) == USERS * (2 * weights + 301 * 8)
    assert training_cost(TRAIN, model, dataset) == 2 * USERS * 3 * 3 * (weights + 100 * 8)
    by_softmax = TRAIN.model_copy(update={"loss": "softmax"})
    assert training_cost(by_softmax, model, dataset) == 2 * USERS * 3 * 3 * (weights + 300 * 8)
    short = TRAIN.model_copy(update={"max_time_s": 1e-4})
    assert training_cost(short, model, dataset) == pytest.approx(1e-4 * MULTIPLY_ADDS_S)
    assert valid_cost(TRAIN, model_of(300, members=3), dataset) == pytest.approx(3 * USERS * (2 * weights + 301 * 8))


def test_a_cheap_validation_is_by_all(dataset: Dataset) -> None:
    share = valid_share(EvaluateConfig(), TRAIN.model_copy(update={"num_negatives": 300}), model_of(300), dataset)
    assert share.users == 1
    assert not share.is_cut


def test_many_items_cost_users_down_to_a_bound(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EvaluateConfig()
    shares = [valid_share(config, TRAIN, model_of(items), dataset) for items in (300, 3_000, 30_000, 300_000)]
    users = [share.users for share in shares]
    assert users == sorted(users, reverse=True)
    assert users[-1] == 1 / 2, "a quarter would be fewer than MIN_QUERIES"
    monkeypatch.setattr("mgray.eval.valid_share.MIN_QUERIES", 1)
    free = valid_share(config, TRAIN, model_of(30_000), dataset)
    assert free.is_cut
    assert MAX_COST / 2 < free.users * free.cost <= MAX_COST
    rare = valid_share(config, TRAIN.model_copy(update={"validate_every_epochs": 6}), model_of(30_000), dataset)
    assert rare.users == 2 * free.users


def test_by_all_at_any_cost_where_that_is_asked_for(dataset: Dataset) -> None:
    share = valid_share(EvaluateConfig(max_valid_users=None), TRAIN, model_of(300_000), dataset)
    assert (share.users, share.is_cut) == (1, False)
    few = valid_share(EvaluateConfig(max_valid_users=250), TRAIN, model_of(300), dataset)
    assert few.users == pytest.approx(250 / USERS)


def test_a_long_history_reads_its_last_events(tmp_path: Path) -> None:
    """Validation's last but one event has 8 before it."""
    rows = [("u", f"i{time % 3}", float(time)) for time in range(10)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    dataset = write_dataset(tmp_path / "log", log)
    assert [history_events(dataset, length) for length in (3, 8, 50)] == [3, 8, 8]


def test_validation_is_by_ranks_of_the_drawn_users(dataset: Dataset) -> None:
    model, counts = model_of(dataset.num_items), dataset.item_counts

    def run(part: Part, users: float | None) -> tuple[int, set[str]]:
        evaluation = PartEvaluation(
            model, dataset, part, 50, torch.device("cpu"), EvaluateConfig(remove_seen=False), counts, users
        )
        found = evaluation.run()
        return found.num_targets, set(found.compute())

    ranks = {"hr@10", "ndcg@10", "mrr@10"}
    drawn, names = run("valid", 1 / 4)
    assert drawn == pytest.approx(USERS / 4, rel=0.1)
    assert names == ranks
    assert run("valid", None) == (USERS, ranks)
    assert run("test", 1 / 4) == (USERS, ranks | {"coverage@10"}), "the test part is by all, with lists"


def test_a_cut_validation_is_told() -> None:
    whole = RankResult({}, 1, {}, None, [], {}, 0.0, 1.0, 1, 1, train_s=100.0, device="cpu", parameters=1)
    assert valid_notes(whole) == []
    cut = whole._replace(valid_share=ValidShare(0.125, 0.5, 0.372), valid_s=8.0)
    (note,) = valid_notes(cut)
    assert "by about 12.50% of the users" in note
    assert "by 50% it would cost about 37% of the training" in note
    assert "it took 8.0%" in note
    assert valid_notes(cut._replace(valid_s=0.0)) == [], "nothing was validated"

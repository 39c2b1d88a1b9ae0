"""Training learns, ends where it should, and resumes with the same numbers."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from mgray.config import EvaluateConfig, ResolvedModelConfig, ResolvedTrainConfig, TrainConfig, TrainJobConfig
from mgray.data.columns import Columns
from mgray.data.dataset import Dataset, Part, Query, Turn
from mgray.errors import InputError
from mgray.eval.baselines import make_baselines
from mgray.eval.part_metrics import PartEvaluation
from mgray.eval.ranking import evaluate, part_queries
from mgray.model.ensemble import make_model
from mgray.serve.model_folder import Vocabulary, load_model, save_model
from mgray.serve.recommender import Recommender
from mgray.serve.score_blocks import whole
from mgray.serve.scorer import ModelScorer
from mgray.testing.synthetic import make_log
from mgray.train.checkpoint import restore_state, save_state
from mgray.train.objective import Objective
from mgray.train.optim import WeightAverage, learning_rate
from mgray.train.resolve import model_info, resolve_job
from mgray.train.run_result import CurvePoint
from mgray.train.trainer import Logged, Trainer, Validated
from tests.datasets import write_dataset
from tests.models import model_config

CPU = torch.device("cpu")
MODEL = model_config(width=16, granularities=(1, 4), heads=2, dropout=0.1)
TRAIN = ResolvedTrainConfig(epochs=6, learning_rate=1e-2, global_batch_events=300, num_negatives=20, max_time_s=None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "version", make_log(150, 60))


def make_trainer(dataset: Dataset, train: ResolvedTrainConfig = TRAIN, model: ResolvedModelConfig = MODEL) -> Trainer:
    torch.manual_seed(train.seed)
    network = make_model(model, dataset.num_items, dataset.input_spec(model))
    return Trainer(Objective(network, train, CPU, exclude_seen=False), network, dataset, train, CPU)


def validator(trainer: Trainer) -> ModelScorer:
    return ModelScorer(trainer.model, trainer.dataset.item_counts, trainer.config.max_length, CPU)


def run(trainer: Trainer, log_every: int = 5) -> list[Logged | Validated]:
    scorer = validator(trainer)
    queries = part_queries(trainer.dataset, "valid", scorer.columns)
    return list(
        trainer.run(
            lambda: evaluate(scorer, queries, trainer.dataset.item_counts, EvaluateConfig()).compute(),
            "ndcg@10",
            log_every,
        )
    )


def test_learns_what_counting_cannot(dataset: Dataset) -> None:
    """On the ring the next item follows the last four times in five, and every item is about equally popular."""
    trainer = make_trainer(dataset, TRAIN.model_copy(update={"epochs": 30}))
    run(trainer)
    queries = part_queries(dataset, "test")
    options = EvaluateConfig(remove_seen=False)
    model = evaluate(validator(trainer), queries, dataset.item_counts, options).compute()
    popularity = evaluate(make_baselines(dataset)["popularity"], queries, dataset.item_counts, options).compute()
    assert model["hr@10"] > 0.7
    assert popularity["hr@10"] < 0.4


def test_runs_whole_epochs_and_validates_at_the_end(dataset: Dataset) -> None:
    trainer = make_trainer(dataset, TRAIN.model_copy(update={"epochs": 4, "validate_every_epochs": 3}))
    validated = [event for event in run(trainer) if isinstance(event, Validated)]
    assert [event.epoch for event in validated] == [3, 4]
    assert [event.is_last for event in validated] == [False, True]
    expected = 4 * (dataset.manifest.train_events - dataset.manifest.users)
    assert trainer.progress.events == expected


def test_the_validation_part_can_be_trained_on(dataset: Dataset) -> None:
    """Nothing is validated then, and the last weights are the best."""
    config = {"epochs": 4, "validate_every_epochs": 3, "include_valid": True}
    trainer = make_trainer(dataset, TRAIN.model_copy(update=config))

    def validate() -> dict[str, float]:
        raise AssertionError("the validation part is trained on")

    validated = [event for event in trainer.run(validate, "ndcg@10", 5) if isinstance(event, Validated)]
    assert [(event.epoch, event.metrics, event.is_best) for event in validated] == [(3, {}, True), (4, {}, True)]
    assert trainer.progress.best_epoch == 4
    manifest = dataset.manifest
    assert trainer.progress.events == 4 * (manifest.train_events + manifest.valid_events - manifest.users)


def test_two_runs_of_a_seed_are_the_same(dataset: Dataset) -> None:
    first, second = make_trainer(dataset), make_trainer(dataset)
    losses = [[e.loss for e in run(trainer) if isinstance(e, Logged)] for trainer in (first, second)]
    assert losses[0] == losses[1]
    other = make_trainer(dataset, TRAIN.model_copy(update={"seed": 1}))
    assert [e.loss for e in run(other) if isinstance(e, Logged)] != losses[0]


SWITCHES = {
    "default": {},
    "average": {"ema_decay": 0.9},
    "augmentation": {"augment_drop": 0.2, "augment_crop": 0.5, "augment_reorder": 0.5, "augment_mask": 0.1},
    "hard negatives": {"hard_negatives": 0.5, "num_negatives": 10},
    "mixed negatives": {"popular_negatives": 5, "in_batch_negatives": True, "label_smoothing": 0.1},
    "gbce": {"loss": "gbce"},
}


MODEL_SWITCHES = {
    "batch norm": {"norm": "batch"},
    "granularity dropout": {"level_dropout": 0.5},
    "both heads": {"outputs": "both", "inputs": ("rating",)},
    "members": {"members": 2},
}


@pytest.mark.parametrize("switch", [*SWITCHES, *MODEL_SWITCHES])
def test_resume_is_bit_for_bit(dataset: Dataset, tmp_path: Path, switch: str) -> None:
    config = TRAIN.model_copy(update={"epochs": 3, **SWITCHES.get(switch, {})})
    model = MODEL.model_copy(update=MODEL_SWITCHES.get(switch, {}))
    whole = make_trainer(dataset, config, model)
    run(whole)
    stopped = make_trainer(dataset, config, model)
    for event in stopped.run(lambda: {"ndcg@10": 0.0}, "ndcg@10", 1):
        if isinstance(event, Logged) and event.step == 13:  # in the middle of an epoch
            break
    save_state(tmp_path, stopped.model, stopped.optimizer, stopped.progress, [], stopped.average)
    resumed = make_trainer(dataset, config, model)
    with torch.no_grad():
        resumed.model.members[-1].embedding.weight.zero_()  # nothing of a fresh start may survive
    resumed.progress, _ = restore_state(tmp_path, resumed.model, resumed.optimizer, resumed.average)
    assert resumed.progress.step == 13
    run(resumed)
    assert resumed.progress.step == whole.progress.step
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, resumed.weights()[name]), name


@pytest.mark.parametrize("switch", [name for name in SWITCHES if name != "default"])
def test_each_switch_learns(dataset: Dataset, switch: str) -> None:
    """Better than half of the way from chance (10 of 60 items) to 0.7, which the plain run reaches."""
    epochs = 30 if switch == "gbce" else 12  # a binary loss first learns that most items are no target
    trainer = make_trainer(dataset, TRAIN.model_copy(update={"epochs": epochs, **SWITCHES[switch]}))
    last = run(trainer)[-1]
    assert isinstance(last, Validated)
    assert last.metrics["hr@10"] > 0.4


def test_a_diverged_training_is_named_before_it_is_validated(dataset: Dataset) -> None:
    trainer = make_trainer(dataset, TRAIN.model_copy(update={"learning_rate": 1e30}))
    with pytest.raises(InputError, match=r"train\.learning_rate: training has diverged"):
        run(trainer, log_every=10**6)
    assert trainer.progress.best_valid == {}


def test_weights_that_the_last_step_ruined_are_not_saved(dataset: Dataset) -> None:
    one_step = {"epochs": 1, "global_batch_events": 10**6, "include_valid": True}
    trainer = make_trainer(dataset, TRAIN.model_copy(update=one_step))
    events = trainer.run(dict, "ndcg@10", 1)
    assert isinstance(next(events), Logged)
    with torch.no_grad():
        trainer.model.embedding.weight[1] = torch.nan
    with pytest.raises(InputError, match="training has diverged, some weights are no numbers"):
        next(events)
    assert trainer.progress.best_epoch == 0


def test_validation_is_by_the_users_that_are_drawn(dataset: Dataset) -> None:
    config = EvaluateConfig(max_valid_users=50)
    model, every = make_trainer(dataset).model, {query.user_id: query for query in part_queries(dataset, "valid")}

    def asked(part: Part) -> dict[str, Query]:
        batches = PartEvaluation(model, dataset, part, 100, CPU, config, dataset.item_counts).ranking_batches()
        return {query.user_id: query for batch in batches for query in batch}

    drawn = asked("valid")
    assert 30 < len(drawn) < 70  # of 150; the deviation of their count is 6
    for user, query in drawn.items():
        assert (query.target, query.history.items.tolist()) == (every[user].target, every[user].history.items.tolist())
    assert asked("test").keys() == every.keys()


def test_validation_is_read_once_and_the_test_part_a_shard_at_a_time(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, read, done = make_trainer(dataset).model, list[int](), Dataset.read
    monkeypatch.setattr(
        Dataset, "read", lambda self, shard, *_, **__: read.append(shard) or done(self, shard, *_, **__)
    )
    valid, test = (
        PartEvaluation(model, dataset, part, 100, CPU, EvaluateConfig(), dataset.item_counts)
        for part in ("valid", "test")
    )
    assert read == [], "training with train.include_valid asks for no validation"
    first = valid.run().compute()
    assert read == list(range(dataset.num_shards))
    assert valid.run().compute() == first
    assert read == list(range(dataset.num_shards))
    batches = iter(test.ranking_batches())
    next(batches)
    assert read == [*range(dataset.num_shards), 0]


def test_the_ranks_turns_make_the_whole(dataset: Dataset) -> None:
    whole = [query.user_id for query in dataset.queries("test")]
    parts = [[q.user_id for q in dataset.queries("test", turn=Turn(rank, 3))] for rank in range(3)]
    assert sorted(user for part in parts for user in part) == sorted(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= dataset.num_shards


def test_average_by_hand() -> None:
    """Decay 1/2, weights 1, 2, 4: shares 1, 2/3, 4/7, so the average weighs them 1 : 2 : 4."""
    layer = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(layer, 0.5)
    for step, value in enumerate((1.0, 2.0, 4.0), start=1):
        torch.nn.init.constant_(layer.weight, value)
        average.update(layer, step)
    assert average.state["weight"].item() == pytest.approx((1 + 2 * 2 + 4 * 4) / 7)


def test_validation_sees_the_average_and_training_goes_on_without(dataset: Dataset) -> None:
    trainer = make_trainer(dataset, TRAIN.model_copy(update={"epochs": 2, "ema_decay": 0.99}))
    plain = make_trainer(dataset, TRAIN.model_copy(update={"epochs": 2}))
    seen: list[torch.Tensor] = []

    def validate() -> dict[str, float]:
        seen.append(trainer.model.embedding.weight.detach().clone())
        return {"ndcg@10": 0.0}

    list(trainer.run(validate, "ndcg@10", 5))
    run(plain)
    assert torch.equal(seen[-1], trainer.weights()["embedding.weight"])
    assert torch.equal(trainer.model.embedding.weight, plain.model.embedding.weight)
    assert not torch.equal(seen[-1], trainer.model.embedding.weight)


def test_time_limit_shortens_the_schedule(dataset: Dataset) -> None:
    """With a millisecond allowed the run stops at the first check of the clock, with the rate on its way to zero."""
    trainer = make_trainer(dataset, TRAIN.model_copy(update={"epochs": 500, "max_time_s": 1e-3}))
    events = run(trainer)
    assert trainer.progress.step <= 40
    assert trainer.progress.horizon_epochs < 10
    assert isinstance(events[-1], Validated)
    assert events[-1].is_last


def test_a_slow_start_shortens_nothing_for_good(dataset: Dataset) -> None:
    trainer = make_trainer(dataset, TRAIN.model_copy(update={"epochs": 10, "max_time_s": 100.0, "decay_share": 0.5}))
    progress = trainer.progress
    progress.elapsed_s = 40.0
    trainer._fit_horizon(1.0)  # one epoch in 40 s
    assert progress.horizon_epochs == 2.5
    progress.elapsed_s = 44.0
    trainer._fit_horizon(1.2)
    assert progress.horizon_epochs == pytest.approx(1.2 * 100 / 44)
    progress.elapsed_s = 45.0
    trainer._fit_horizon(2.0)  # the rate falls by now: no longer again
    assert progress.horizon_epochs == pytest.approx(1.2 * 100 / 44)
    progress.elapsed_s = 90.0
    trainer._fit_horizon(2.2)
    assert progress.horizon_epochs == pytest.approx(2.2 * 100 / 90)


def test_learning_rate_by_hand() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_share=0.1, decay_share=0.5)
    rates = [learning_rate(config, p) for p in (0, 0.05, 0.1, 0.5, 0.75, 1)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 0.5, 0])


def test_empty_history_is_ranked_by_popularity(dataset: Dataset) -> None:
    scores = whole(validator(make_trainer(dataset))([Columns(np.asarray([], dtype=np.int32))]))
    assert scores[0].argmax().item() == 1  # item 1 is the most popular by the vocabulary's order
    assert scores[0, 0].item() == -torch.inf


def test_evaluation_does_not_depend_on_batching(dataset: Dataset) -> None:
    scorer, queries = validator(make_trainer(dataset)), part_queries(dataset, "test")
    results = [
        evaluate(scorer, queries, dataset.item_counts, EvaluateConfig(batch_events=events)).compute()
        for events in (1, 100_000)
    ]
    assert results[0] == pytest.approx(results[1])


def test_seen_items_stay_when_told_so(dataset: Dataset) -> None:
    seen = Query("u", Columns(np.asarray([3], dtype=np.int32)), 3)
    scorer = validator(make_trainer(dataset))
    removed = evaluate(scorer, [seen], dataset.item_counts, EvaluateConfig(k=60)).compute()
    kept = evaluate(scorer, [seen], dataset.item_counts, EvaluateConfig(k=60, remove_seen=False)).compute()
    assert removed["hr@60"] == 0
    assert kept["hr@60"] == 1


def saved_model(dataset: Dataset, folder: Path) -> Path:
    trainer = make_trainer(dataset)
    config = TrainJobConfig(model=MODEL, train=TrainConfig(max_length=50, exclude_seen=False))  # as make_trainer trains
    info = model_info(dataset, resolve_job(config, dataset.manifest))
    save_model(folder, trainer.model.state_dict(), info, Vocabulary.of(dataset))
    return folder


def test_saved_model_comes_back(dataset: Dataset, tmp_path: Path) -> None:
    model, info, vocabulary = load_model(saved_model(dataset, tmp_path / "m"), CPU)
    assert info.config == MODEL
    assert vocabulary.item_ids == dataset.item_ids
    for name, tensor in make_trainer(dataset).model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert {path.suffix for path in (tmp_path / "m").iterdir()} == {".safetensors", ".json", ".arrow"}


def test_recommender_speaks_raw_ids(dataset: Dataset, tmp_path: Path) -> None:
    recommender = Recommender(saved_model(dataset, tmp_path / "m"))
    result = recommender.recommend([["i1", "no such item", "i2"], []], k=5)
    assert result.num_unknown == [1, 0]
    assert [len(items) for items in result.items] == [5, 5]
    assert not {"i1", "i2"} & set(result.items[0])
    assert result.scores[0] == sorted(result.scores[0], reverse=True)
    popularity = Vocabulary.of(dataset).popularity[1:]
    assert result.items[1] == [dataset.item_ids[i] for i in np.argsort(-popularity)[:5]]
    known_only = recommender.recommend([["i1", "i2"]], k=5)
    assert known_only.items[0] == result.items[0]


def test_recommender_gives_what_there_is(dataset: Dataset, tmp_path: Path) -> None:
    recommender = Recommender(saved_model(dataset, tmp_path / "m"))
    result = recommender.recommend([dataset.item_ids[:-3]], k=10)
    assert set(result.items[0]) == set(dataset.item_ids[-3:])
    with pytest.raises(InputError, match="k: 0"):
        recommender.recommend([[]], k=0)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no weights\.safetensors"):
        load_model(tmp_path, CPU)


def test_progress_survives_json(dataset: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(dataset, TRAIN.model_copy(update={"epochs": 1}))
    run(trainer)
    save_state(tmp_path, trainer.model, trainer.optimizer, trainer.progress, [CurvePoint(step=1, epoch=0.5)])
    progress, curve = restore_state(tmp_path, trainer.model, trainer.optimizer)
    assert asdict(progress) == asdict(trainer.progress)
    assert curve == [CurvePoint(step=1, epoch=0.5)]

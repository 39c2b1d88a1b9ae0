"""A benchmark's training goes on where it was stopped, and its test part is read once."""

from pathlib import Path

import pytest

from benchmarks._training import Run, fit, recall, run_folder
from mgray.config import ModelConfig, TrainConfig, TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.serve.scorer import ModelScorer
from mgray.testing.synthetic import make_log
from tests.datasets import write_dataset

CONFIG = TrainJobConfig(
    model=ModelConfig(width=16, granularities=(1, 4), heads=2, dropout=0.1, inputs=("time_gap",)),
    train=TrainConfig(
        epochs=4,
        learning_rate=1e-2,
        global_batch_events=200,
        num_negatives=20,
        max_time_s=None,
        validate_every_epochs=1,
        ema_decay=0.9,
    ),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "version", make_log(80, 40))


def test_a_stopped_training_ends_as_one_that_was_not(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(dataset, CONFIG, tmp_path / "whole")
    folder = tmp_path / "stopped"
    folder.mkdir()
    begun = Run(dataset, CONFIG, folder)

    def stop_after_two(figures: dict[str, float]) -> None:
        if len(begun.curve) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(begun.session, "on_report", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        begun.run()
    assert sorted(path.name for path in folder.iterdir()) == ["state"]
    resumed = fit(dataset, CONFIG, folder)
    assert [point["epoch"] for point in resumed["curve"]] == [1, 2, 3, 4]
    for key in ("test", "valid", "best_epoch", "steps", "epochs"):
        assert resumed[key] == whole[key], key


def test_two_workers_train_as_one(dataset: Dataset, tmp_path: Path) -> None:
    """Without dropout, whose masks differ by rank, and in fp32, for sums in bf16 depend on how a batch is dealt."""
    model = CONFIG.model.model_copy(update={"dropout": 0.0})
    train = CONFIG.train.model_copy(update={"precision": "fp32"})
    plain = CONFIG.model_copy(update={"model": model, "train": train})
    one = fit(dataset, plain, tmp_path / "one")
    two = fit(dataset, plain, tmp_path / "two", workers=2)
    assert two["steps"] == one["steps"]
    for part in ("test", "valid"):
        # A rank in 80 users' lists is worth 0.005; an untrained model is 0.4 away.
        assert two[part]["ndcg@10"] == pytest.approx(one[part]["ndcg@10"], abs=0.03)


def test_a_finished_training_is_not_measured_again(dataset: Dataset, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"epochs": 1})})
    calls: list[ModelScorer] = []

    def measure(scorer: ModelScorer, *_: object) -> dict[str, int]:
        calls.append(scorer)
        return {"measured": len(calls)}

    first = fit(dataset, config, tmp_path / "run", measure)
    assert fit(dataset, config, tmp_path / "run", measure) == first
    assert first["measured"] == len(calls) == 1


def test_a_folder_is_of_one_configuration(dataset: Dataset, tmp_path: Path) -> None:
    other = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"max_time_s": 60.0})})
    folders = {run_folder(tmp_path, "a", dataset, config).name for config in (CONFIG, CONFIG, other)}
    assert len(folders) == 2
    assert all(name.startswith("a-s0-") for name in folders)


def test_an_earlier_sittings_results_are_recalled_where_they_are_of_the_same_training(
    dataset: Dataset, tmp_path: Path
) -> None:
    def folder(seed: int, epochs: int = 1) -> Path:
        train = CONFIG.train.model_copy(update={"epochs": epochs, "seed": seed})
        return run_folder(tmp_path, "recalled", dataset, CONFIG.model_copy(update={"train": train}))

    config = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"epochs": 1})})
    earlier = [
        fit(dataset, config, folder(0)),
        {"seed": 1, "training": folder(1).name},
        {"seed": 2, "training": folder(2, epochs=2).name},
        {"seed": 3},  # of a version that did not name it
    ]
    assert recall(earlier, folder) == earlier[:2]
    assert recall(earlier, folder, without=[0]) == [earlier[1]]

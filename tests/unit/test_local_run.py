"""A rank's run in one process: its checkpoints hold the best weights; the vocabulary is written once, at the end."""

from pathlib import Path

import torch

from mgray.config import ModelConfig, TrainConfig, TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.serve.model_folder import Vocabulary
from mgray.serve.recommender import Recommender
from mgray.testing.synthetic import make_log
from mgray.train.resolve import resolve_job
from pipelines.train.job import fit_here
from pipelines.train.worker import LocalSession, RankInput, RankRun
from tests.datasets import write_dataset


def make_input(dataset: Dataset) -> RankInput:
    asked = TrainJobConfig(
        model=ModelConfig(width=8, granularities=(1,)),
        train=TrainConfig(epochs=2, validate_every_epochs=1, max_time_s=None),
    )
    return RankInput(resolve_job(asked, dataset.manifest).model_dump_json(), str(dataset.folder), run_id="run")


def test_the_vocabulary_is_written_when_the_run_has_ended(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "v", make_log(30, 20))
    given, saved = make_input(dataset), tmp_path / "runs" / "run" / "checkpoint" / "best"
    seen: list[set[str]] = []

    def look(_: dict[str, float]) -> None:
        seen.append({path.name for path in saved.iterdir()})

    fitted = fit_here(given, tmp_path / "runs", look)
    assert seen == [{"weights.safetensors", "model.json"}] * 2
    recommender = Recommender(fitted.model_folder)
    assert recommender.vocabulary.table().equals(Vocabulary.of(dataset).table())
    assert len(recommender.recommend([[dataset.item_ids[0]]], 3).items[0]) == 3


def test_a_resumed_run_has_the_best_weights(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "v", make_log(30, 20))
    given = make_input(dataset)
    first = RankRun(given, LocalSession(tmp_path / "state", lambda _: None))
    first.run()
    resumed = RankRun(given, LocalSession(tmp_path / "state", lambda _: None))
    assert first.best.keys() == resumed.best.keys()
    assert all(torch.equal(first.best[name], tensor) for name, tensor in resumed.best.items())

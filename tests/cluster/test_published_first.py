"""A model is registered before its baselines are measured, and their failures cost their rows."""

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mgray.config import TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.testing.synthetic import make_log
from mgray.train.resolve import resolve_job
from tests.stores import give_store
from tests.train_runs import ITEMS, USERS, settings

BASELINES = {"popularity", "popularity_recent", "cooccurrence"}


@pytest.fixture(scope="module")
def home(ray_local: None, mlflow_apart: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("published") / "home"
    give_store(home)
    make_log(USERS, ITEMS).write_csv(home.parent / "log.csv")
    return home


def test_the_model_is_there_whatever_becomes_of_the_baselines(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from mgray.eval import baselines
    from pipelines.train import baselines as stage
    from pipelines.train.job import run_training

    asked = settings(home, num_workers=1).model_dump(exclude_unset=True)
    asked["train"] |= {"epochs": 1}
    asked["tracking"] |= {"model_name": "published-first"}
    config = TrainJobConfig.model_validate(asked)
    monkeypatch.setattr(baselines, "TAUS", ())  # co-occurrence has no setting to choose from
    result = run_training(config)
    assert set(result["baselines"]) == BASELINES - {"cooccurrence"}
    client = MlflowClient(result["tracking_uri"])
    assert result["model"] == {"name": "published-first", "version": "1"}
    assert "baseline cooccurrence: no figures, for it failed" in Path(result["report"]).read_text()

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_measure", killed)
    capfd.readouterr()
    with pytest.raises(KeyboardInterrupt):
        run_training(config)
    told = capfd.readouterr().err
    assert "registered: published-first version 2; the baselines follow" in told
    version = client.get_model_version_by_alias("published-first", "challenger")
    assert (str(version.version), "test/ndcg_at_10" in version.tags) == ("2", True)
    assert "mg-dsc" in version.description
    (report,) = [file for file in client.list_artifacts(version.run_id) if file.path == "report.html"]
    assert report.file_size


def test_a_large_logs_baselines_are_measured_by_the_ranks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.ingest.job import ingest
    from pipelines.runtime import cluster
    from pipelines.train import baselines as stage
    from pipelines.train.job import _Trainer

    asked = settings(home)
    dataset = Dataset(ingest(asked.data, home, lambda *_: None).path)
    config = resolve_job(asked, dataset.manifest)
    plan = cluster.plan_workers(config.scale)
    assert plan.num_workers == 2
    given = (dataset, config, plan, _Trainer, home / "runs", "by-ranks")
    here = stage.measure_baselines(*given)
    monkeypatch.setattr(stage, "RANKS_FROM_EVENTS", 0)
    measured = stage.measure_baselines(*given)
    assert (measured.failures, measured.num_targets, measured.settings) == ({}, USERS, here.settings)
    assert (home / "runs" / f"by-ranks{stage.STAGE_SUFFIX}").exists()
    for name, figures in here.metrics.items():
        assert measured.metrics[name] == pytest.approx(figures), name

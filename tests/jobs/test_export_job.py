"""The export job: a registered model to a smaller folder, which serves by itself."""

import shutil
from pathlib import Path

import pytest

from mgray.config import DataConfig, EvalJobConfig, ExportJobConfig, TrackingConfig
from mgray.errors import InputError
from mgray.recommend import Recommender
from tests.conftest import Champion


def test_a_registered_model_is_cut(champion: Champion, mlflow_apart: None, tmp_path: Path) -> None:
    from pipelines.export import run_export

    result = run_export(ExportJobConfig(home=str(champion.home), levels=1, out=str(tmp_path / "small")))
    assert result["model"]["version"] == "1"
    assert (result["was"]["levels"], result["now"]["levels"]) == (2, 1)
    assert result["now"]["parameters"] < result["was"]["parameters"]
    history = champion.dataset.item_ids[:3]
    assert len(Recommender(result["path"]).recommend([history], k=5).items[0]) == 5


def test_a_cut_model_is_registered_and_evaluated(
    champion: Champion, ray_local: None, mlflow_apart: None, tmp_path: Path
) -> None:
    from pipelines.evaluate import run_evaluation
    from pipelines.export import run_export
    from pipelines.registry import Registry

    home = shutil.copytree(champion.home, tmp_path / "home")
    tracking = TrackingConfig(experiment="cut", system_metrics=False)  # whose artifacts are in the copy
    config = ExportJobConfig(
        home=str(home), levels=1, out=str(tmp_path / "small"), register_as="small", tracking=tracking
    )
    result = run_export(config)
    assert result["registered"] == {"name": "small", "version": "1"}
    registry = Registry(result["tracking_uri"], "small")
    version = registry.champion()  # of a name that had none
    assert version is not None
    assert version.tags["cut_from"] == "models:/mgray-interest/1"
    manifest = registry.manifest(version)
    assert manifest is not None
    assert manifest.fingerprint == champion.dataset.manifest.fingerprint
    measured = run_evaluation(
        EvalJobConfig(
            home=str(home),
            model="models:/small@champion",
            data=DataConfig(dataset=str(champion.dataset.folder)),
            tracking=tracking,
        )
    )
    assert measured["model"] == {"name": "small", "version": "1"}
    assert 0 < measured["metrics"]["ndcg@10"] < 1
    again = run_export(config)  # the folder is there, and is the same
    assert (again["path"], again["registered"]) == (result["path"], {"name": "small", "version": "2"})


def test_the_number_of_levels_is_asked_for(champion: Champion, mlflow_apart: None) -> None:
    from pipelines.export import run_export

    with pytest.raises(InputError, match="--levels"):
        run_export(ExportJobConfig(home=str(champion.home)))

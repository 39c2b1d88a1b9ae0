"""The export job: a registered model to a smaller folder, which serves by itself."""

import re
import shutil
from pathlib import Path

import pytest

from mgray.config import DataConfig, EvalJobConfig, ExportJobConfig, TrackingConfig
from mgray.errors import InputError
from mgray.serve.recommender import Recommender
from mgray.testing.synthetic import make_log
from pipelines.tracking import fetch_model
from tests.conftest import Champion
from tests.datasets import write_dataset
from tests.models import model_config, write_model
from tests.stores import give_store


def test_a_registered_model_is_cut(champion: Champion, mlflow_apart: None, tmp_path: Path) -> None:
    from pipelines.lifecycle.export import run_export

    result = run_export(ExportJobConfig(home=str(champion.home), levels=1, out=str(tmp_path / "small")))
    assert result["model"]["version"] == "1"
    assert (result["was"]["levels"], result["now"]["levels"]) == (2, 1)
    assert result["now"]["parameters"] < result["was"]["parameters"]
    history = champion.dataset.item_ids[:3]
    assert len(Recommender(result["path"]).recommend([history], k=5).items[0]) == 5


def test_a_cut_model_is_registered_and_evaluated(
    champion: Champion, ray_local: None, mlflow_apart: None, tmp_path: Path
) -> None:
    from pipelines.evaluate.job import run_evaluation
    from pipelines.lifecycle.export import run_export
    from pipelines.tracking.registry import Registry

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
    from pipelines.lifecycle.export import run_export

    with pytest.raises(InputError, match="--levels"):
        run_export(ExportJobConfig(home=str(champion.home)))


@pytest.mark.parametrize("levels", [None, 1])
def test_a_folder_is_registered(levels: int | None, mlflow_apart: None, tmp_path: Path) -> None:
    """Whose run MLflow does not have: the dataset is found by its fingerprint."""
    from pipelines.lifecycle.export import run_export
    from pipelines.tracking.registry import Registry, own_data

    give_store(tmp_path)
    dataset = write_dataset(tmp_path / "datasets" / "test", make_log(20, 12))
    folder = write_model(
        tmp_path / "given" / "it",
        dataset.item_ids,
        dataset.item_counts[1:].tolist(),
        dataset_fingerprint=dataset.manifest.fingerprint,
    )
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}", system_metrics=False)
    config = ExportJobConfig(
        home=str(tmp_path), model=str(folder), levels=levels, register_as="mine", tracking=tracking
    )
    result = run_export(config)
    assert result["registered"] == {"name": "mine", "version": "1"}
    assert result["model"] == {"path": str(folder)}
    assert (result["was"]["levels"], result["now"]["levels"]) == (2, levels or 2)
    assert result["path"] == str(folder if levels is None else tmp_path / "exports" / "it-levels-1")
    registry = Registry(result["tracking_uri"], "mine")
    version = registry.find(1)
    assert version.tags["dataset_fingerprint"] == dataset.manifest.fingerprint
    assert own_data(DataConfig(), tmp_path, registry, version).dataset == str(dataset.folder), "eval's and predict's"
    fetched, _, _ = fetch_model(version.uri, registry.uri, tmp_path / "fetched")
    history = dataset.item_ids[:3]
    expected = Recommender(result["path"]).recommend([history], k=5).items
    assert Recommender(fetched).recommend([history], k=5).items == expected


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{tmp}/nowhere", "no such folder, and no registry URI; give a model's folder, models:/NAME@ALIAS"),
        ("{tmp}", "no weights.safetensors, so not an mgray model; give the folder that training wrote"),
        ("mgray-interest", "no such folder, and no registry URI"),
        ("s3://bucket/model", "give a folder's path"),
        ("{tmp}/rates", "a model that only rates recommends nothing"),
    ],
)
def test_what_is_no_model_is_told(model: str, message: str, tmp_path: Path) -> None:
    from pipelines.lifecycle.export import run_export

    write_model(tmp_path / "rates", ["a", "b"], [1, 1], config=model_config(width=8, heads=1, outputs="rating"))
    with pytest.raises(InputError, match=re.escape(message)):
        run_export(ExportJobConfig(home=str(tmp_path / "home"), model=model.format(tmp=tmp_path), register_as="x"))
    assert not (tmp_path / "home").exists()

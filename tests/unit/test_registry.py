"""Registered versions: when retraining takes two trainings for the same, and the dataset of a version."""

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from mgray.config import DataConfig, TrainJobConfig
from mgray.config.command_line import validate
from mgray.errors import InputError
from mgray.testing.synthetic import make_log
from pipelines.tracking.registry import Registry, own_data, training_key
from tests.datasets import write_dataset
from tests.models import register_model


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"train": {"seed": 1}}, False),
        ({"evaluate": {"k": 20}}, False),  # the best epoch is another
        ({"evaluate": {"remove_seen": False}}, False),  # train.exclude_seen: auto follows it
        ({"evaluate": {"max_valid_users": 10}}, False),
        ({"evaluate": {"batch_events": 64}}, True),
        ({"tracking": {"experiment": "other"}}, True),
    ],
)
def test_the_key_is_of_what_the_model_comes_from(changed: dict, same: bool) -> None:
    assert (training_key(validate(TrainJobConfig, changed), "d") == training_key(TrainJobConfig(), "d")) == same


def test_data_that_is_named_is_taken_and_else_the_versions_own(tmp_path: Path, mlflow_apart: None) -> None:
    home = tmp_path / "home"
    dataset = write_dataset(home / "datasets" / "test", make_log(20, 12))
    assert dataset.folder.name == dataset.manifest.ingest_key
    register_model(home, dataset)
    registry = Registry(f"sqlite:///{home / 'mlflow.db'}", "mgray-interest")
    version = registry.find(1)
    for named in (DataConfig(source="movielens-100k"), DataConfig(dataset="elsewhere")):
        assert own_data(named, home, registry, version) is named
    assert own_data(DataConfig(), home, registry, version).dataset == str(dataset.folder)
    with pytest.raises(InputError, match=r"data\.split: says how a log is read, and none is named"):
        own_data(DataConfig(split="temporal"), home, registry, version)
    with pytest.raises(InputError, match=r"is not in .*elsewhere; give a log"):
        own_data(DataConfig(out=str(tmp_path / "elsewhere")), home, registry, version)


def test_a_manifest_is_missing_only_where_the_run_kept_none(
    tmp_path: Path, mlflow_apart: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "version", make_log(20, 12))
    register_model(tmp_path / "home", dataset)
    registry = Registry(f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}", "mgray-interest")
    version = registry.find(1)
    assert registry.manifest(version) == dataset.manifest
    assert registry.manifest(version._replace(run_id=None)) is None
    assert registry.manifest(version._replace(run_id="0" * 32)) is None, "the run is gone"
    (kept,) = (tmp_path / "home").rglob("manifest.json")
    kept.write_text("{}")
    assert registry.manifest(version) is None, "of another version of mgray"
    kept.unlink()
    assert registry.manifest(version) is None
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException):  # an outage is no answer: a gate without drift would pass by it
        Registry("http://127.0.0.1:1", registry.name).manifest(version)


def test_the_history_outlives_an_alias_that_was_deleted(tmp_path: Path, mlflow_apart: None) -> None:
    home = tmp_path / "home"
    dataset = write_dataset(tmp_path / "version", make_log(20, 12))
    for _ in range(2):
        register_model(home, dataset)
    registry = Registry(f"sqlite:///{home / 'mlflow.db'}", "mgray-interest")
    first, second = registry.find(1), registry.find(2)
    registry.promote(second, expected=registry.champion())
    assert registry.history() == ["1", "2"]
    registry.client.delete_registered_model_alias(registry.name, "champion")
    registry.promote(first, expected=None)
    assert registry.history() == ["1", "2", "1"]
    assert [version.version for version in registry.rollback("test")] == ["1", "2"]

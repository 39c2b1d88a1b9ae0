"""Tracking without a server: what it shows and writes."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from mgray.config import TrackingConfig, TrainJobConfig
from pipelines.runtime.redact import command_line, shown_uri
from pipelines.tracking import metric_key, open_tracking, param_text, run_params, start_run
from pipelines.tune.trial_runs import TrialRuns
from tests.stores import give_store


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://mgray:s3cret@db:5432/mlflow", "postgresql://mgray:***@db:5432/mlflow"),
        ("postgresql+psycopg2://u:p:w@h/x", "postgresql+psycopg2://u:***@h/x"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_a_password_is_never_shown(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown


@pytest.mark.parametrize(
    ("value", "text"), [((1, "decay:1..9"), '[1, "decay:1..9"]'), (None, "none"), (True, "true"), (0.004, "0.004")]
)
def test_a_param_reads_back_as_an_option(value: object, text: str) -> None:
    assert param_text(value) == text


def test_metric_names_are_mlflows() -> None:
    assert metric_key("test/hr@10") == "test/hr_at_10"


def test_no_password_in_params_or_command(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "postgresql://mgray:s3cret@db/mlflow"
    config = TrainJobConfig(tracking=TrackingConfig(uri=uri))
    assert run_params(config, uri)["tracking.uri"] == "postgresql://mgray:***@db/mlflow"
    monkeypatch.setattr(sys, "argv", ["jobs/train.py", f"--tracking.uri={uri}", "http://h:5000", "models:/m@champion"])
    words = "jobs/train.py --tracking.uri=postgresql://mgray:***@db/mlflow http://h:5000 models:/m@champion"
    assert command_line() == f"python {words}"


@pytest.mark.usefixtures("mlflow_apart")
def test_a_trial_keeps_its_run_where_mlflow_takes_half_of_it(tmp_path: Path) -> None:
    config = TrackingConfig()
    give_store(tmp_path)
    uri = open_tracking(config, tmp_path)
    client = MlflowClient(uri)
    parent = client.create_run(client.get_experiment_by_name(config.experiment).experiment_id).info.run_id
    runs = TrialRuns(config, uri, parent)
    run_id = runs.create("trial 0", {"not a name: *": 1}, {"kind": "trial"})
    assert client.get_run(run_id).data.tags["kind"] == "trial"
    runs.update(run_id, "FINISHED")
    assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.usefixtures("mlflow_apart")
def test_a_run_whose_end_mlflow_does_not_take_is_done_all_the_same(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    config = TrackingConfig(uri=f"sqlite:///{database}", system_metrics=False)
    give_store(tmp_path)
    open_tracking(config, tmp_path)
    with (
        pytest.warns(UserWarning, match="MLflow did not take the run's end"),
        start_run(config, {"a": 1}, {}, "test"),
        closing(sqlite3.connect(database)) as opened,
    ):
        opened.execute("ALTER TABLE runs RENAME TO lost")
    assert mlflow.active_run() is None

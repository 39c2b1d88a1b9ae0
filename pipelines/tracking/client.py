"""Opens the tracking store, and links to its pages."""

import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import MlflowClient

from mgray.config import TrackingConfig
from mgray.errors import InputError
from pipelines.runtime.console import console, say
from pipelines.runtime.redact import shown_uri
from pipelines.tracking.store import check_answers, opening, sqlite_uri

URI_VARIABLE = "MLFLOW_TRACKING_URI"
# What a parent process may aim MLflow at another run, experiment or registry by.
INHERITED = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_REGISTRY_URI")

VIEW_KEY = "mgray"


def resolve_uri(config: TrackingConfig, home: Path) -> str:
    given = (config.uri or "").strip() or os.environ.get(URI_VARIABLE, "").strip()
    return given or sqlite_uri(home / "mlflow.db")


def bound_waiting() -> None:
    """Seconds, not minutes, for each call to a server that is down: MLflow's own 7 retries hold up every rank."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("PGCONNECT_TIMEOUT", "10")


def open_tracking(config: TrackingConfig, home: Path, runs: bool = True, writes: bool = True) -> str:
    """The tracking URI, reachable, with its registry.

    runs: whether the job makes MLflow runs; then the experiment is made where it is missing. writes: whether it writes
    at all. Raises InputError within 15 s where the store cannot be used, where the experiment is deleted, or where a
    run is active in this process, which a run of the job's own would not be told from.
    """
    bound_waiting()
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = resolve_uri(config, home)
    _leave_inherited(config)
    active = mlflow.active_run()
    if runs and active is not None:
        raise InputError(
            f"MLflow's run {active.info.run_id} is active in this process, and a job makes runs of its own; "
            "call mlflow.end_run() before it"
        )

    def look() -> Experiment | None:
        client = MlflowClient(uri, registry_uri=uri)  # opens the store by itself
        found = client.get_experiment_by_name(config.experiment)
        client.search_registered_models(max_results=1)
        return found

    try:
        check_answers(uri, look, writes)
        with opening(uri):
            found = look()
            if found is None and runs:
                found = _create_experiment(uri, config.experiment, home)
    except Exception as error:  # MLflow raises whatever its backend does: requests', SQLAlchemy's, its own
        raise InputError(
            f"MLflow at {shown_uri(uri)} cannot be used: {_reason(error).replace(uri, shown_uri(uri))}; "
            f"start it, or set --tracking.uri or {URI_VARIABLE} right"
        ) from error
    if runs and found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
        raise InputError(
            f"MLflow at {shown_uri(uri)}: experiment {config.experiment!r} is deleted; restore it with `{URI_VARIABLE}="
            f"{shlex.quote(shown_uri(uri))} mlflow experiments restore --experiment-id {found.experiment_id}`, or give "
            "another with --tracking.experiment NAME"
        )
    aim(uri)
    return uri


def _reason(error: Exception) -> str:
    """The first line of an error's text; of a request that failed, what it failed by."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (lines[0].partition("(Caused by ")[2] or lines[0])[:300]


def aim(uri: str) -> None:
    """Make the store MLflow's own of this process, for runs and for the registry."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    del os.environ["MLFLOW_REGISTRY_URI"]  # which that leaves for child processes


def _leave_inherited(config: TrackingConfig) -> None:
    """Take out of the environment what `mlflow run` or a notebook left there: a job's runs are its own.

    With MLFLOW_RUN_ID MLflow would go on with that run, and end it as this job ends.
    """
    names = ", ".join(name for name in INHERITED if os.environ.pop(name, None))
    if names:
        say(
            console(),
            f"{names} in the environment: left out, for a job makes runs of its own, in the experiment "
            f"{config.experiment!r} (--tracking.experiment) and the registry of --tracking.uri",
        )


def _create_experiment(uri: str, name: str, home: Path) -> Experiment:
    """The new experiment; the one that is there where another job was faster."""
    client = MlflowClient(uri)
    # A local store would otherwise put artifacts below whatever the current folder is.
    is_local = not uri.startswith(("http://", "https://", "databricks"))
    location = (home / "artifacts").as_uri() if is_local else None
    try:
        experiment_id = client.create_experiment(name, artifact_location=location)
        # The runs table shows no metric by itself; a view that the link of `runs_link` opens does.
        client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{VIEW_KEY}", json.dumps(runs_view()))
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    return client.get_experiment_by_name(name)


def runs_view() -> dict[str, Any]:
    """Columns and order of the experiment's runs table: what a person chooses a model by."""
    return {
        "selectedColumns": [
            "params.`model.granularities`",
            "metrics.`test/ndcg_at_10`",
            "metrics.`test/hr_at_10`",
            "metrics.`model/parameters`",
        ],
        "orderByKey": "metrics.`test/ndcg_at_10`",
        "orderByAsc": False,
    }


def runs_link(uri: str) -> str:
    """The active run's experiment in the UI: its runs table, in the view that shows metrics."""
    server = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    active = mlflow.active_run()
    assert active is not None, "called inside a run"
    return f"{server}/#/experiments/{active.info.experiment_id}/runs?viewStateShareKey={VIEW_KEY}"


def ui_command(uri: str) -> str:
    if uri.startswith("http"):
        return f"open {uri}"
    program = str(Path(sys.executable).parent / "mlflow")
    return f"{shlex.quote(program)} ui --backend-store-uri {shlex.quote(shown_uri(uri))}"

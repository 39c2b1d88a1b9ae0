"""All of MLflow: where runs go, what is logged, how a model is registered and found.

Tracking is an edge. An outage during a run is counted, kept in a local file and replayed at the end, and never
kills the run; only registration fails loudly.
"""

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import ray
import torch
from mlflow.entities import Experiment, LifecycleStage, Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array

from mgray import __version__
from mgray.arguments import flatten
from mgray.config import JobConfig, TrackingConfig
from mgray.errors import InputError
from mgray.model_folder import MODEL_FILE, ModelInfo, load_info, parse_info
from pipelines.progress import console, say
from pipelines.shown import command_line, shown_uri
from pipelines.tracking_store import check_answers, opening, sqlite_uri

URI_VARIABLE = "MLFLOW_TRACKING_URI"
# What a parent process may aim MLflow at another run, experiment or registry by.
INHERITED = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_REGISTRY_URI")
CHALLENGER, CHAMPION = "challenger", "champion"
SECONDS_BETWEEN_FLUSHES = 5.0
SENDING_SUFFIX = ".sending"  # of a spool file while it is sent
VIEW_KEY = "mgray"


def metric_key(name: str) -> str:
    """MLflow allows no `@` in a metric's name: `hr@10` is `hr_at_10` there."""
    return name.replace("@", "_at_")


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


def run_params(config: JobConfig, uri: str) -> dict[str, Any]:
    """Dotted key -> value of a run's config, as MLflow and the report show it: the URI in use, without a password."""
    return flatten(config) | {"tracking.uri": shown_uri(uri)}


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


def param_text(value: Any) -> str:
    """A param as the command line takes it back: `[1, 4]`, `none`, `true`."""
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return json.dumps(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def ui_command(uri: str) -> str:
    if uri.startswith("http"):
        return f"open {uri}"
    program = str(Path(sys.executable).parent / "mlflow")
    return f"{shlex.quote(program)} ui --backend-store-uri {shlex.quote(shown_uri(uri))}"


def git_commit() -> str | None:
    """Commit of the code that runs, or None outside a checkout (an image names it in MGRAY_GIT_COMMIT)."""
    given = os.environ.get("MGRAY_GIT_COMMIT")
    if given:
        return given
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


class Tracker:
    """Writes to one MLflow run. Calls buffer, never raise, and what could not be sent is kept for `replay`."""

    def __init__(self, uri: str, run_id: str, spool: Path) -> None:
        bound_waiting()  # a rank on another node does not have the driver's environment
        self.run_id = run_id
        self.client = MlflowClient(uri)
        self.spool = spool
        self.num_lost = 0
        self._buffer: list[Metric] = []
        self._flushed = time.monotonic()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._buffer += [Metric(metric_key(name), float(value), now, step) for name, value in metrics.items()]
        if time.monotonic() - self._flushed > SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        batch, self._buffer = self._buffer, []
        if batch:
            self._send(batch)
        self._flushed = time.monotonic()

    def _send(self, metrics: list[Metric]) -> None:
        try:
            self.client.log_batch(self.run_id, metrics=metrics)
        except Exception as error:  # any failure of the store or of the network: see the module's first lines
            self.num_lost += len(metrics)
            self._keep(metrics)
            warnings.warn(f"MLflow did not take {len(metrics)} metrics, kept in {self.spool}: {error}", stacklevel=2)

    def _keep(self, metrics: list[Metric]) -> None:
        try:
            self.spool.parent.mkdir(parents=True, exist_ok=True)
            with self.spool.open("a") as file:
                for metric in metrics:
                    file.write(json.dumps([metric.key, metric.value, metric.timestamp, metric.step]) + "\n")
        except OSError as error:
            warnings.warn(f"{self.spool}: {len(metrics)} metrics are lost, they cannot be kept: {error}", stacklevel=3)

    def replay(self) -> int:
        """Send what was kept; gives how many metrics are still unsent, in the spool file."""
        self.flush()
        # Under another name meanwhile, so that a kill loses nothing; what is sent twice is the same point.
        sending = self.spool.with_suffix(SENDING_SUFFIX)
        try:
            if self.spool.exists():
                with sending.open("a") as file:
                    file.write(self.spool.read_text())
                self.spool.unlink()
            if not sending.exists():
                return 0
            kept = list(_whole_lines(sending.read_text()))
            self.num_lost = 0
            if kept:
                self._send(kept)
            sending.unlink()
        except OSError as error:
            warnings.warn(f"{self.spool}: what MLflow did not take cannot be read or kept: {error}", stacklevel=2)
        return self.num_lost


def _whole_lines(text: str) -> Iterator[Metric]:
    """A spool's metrics, without a line that a kill or a full disk cut short."""
    for line in text.splitlines():
        try:
            yield Metric(*json.loads(line))
        except (ValueError, TypeError):
            warnings.warn(f"a metric that was kept for MLflow is broken, and left out: {line[:80]}", stacklevel=2)


def try_to_log(what: str, log: Callable[[], None]) -> None:
    """`log` to the active run what is on disk or on the screen too. Where MLflow does not take it, that is said."""
    try:
        log()
    except Exception as error:  # see the module's first lines
        warnings.warn(f"MLflow did not take {what}: {error}", stacklevel=2)


def run_tags(granularities: tuple[int | str, ...], fingerprint: str, plan: str) -> dict[str, str]:
    tags = {
        "granularities": ",".join(str(g) for g in granularities),
        "dataset_fingerprint": fingerprint,
        "workers": plan,
        "mgray_version": __version__,
        "ray_version": ray.__version__,
        "torch_version": torch.__version__,
        "mlflow_version": mlflow.__version__,
        "command": command_line(),
    }
    commit = git_commit()
    return tags | ({"git_commit": commit} if commit else {})


@contextmanager
def start_run(
    config: TrackingConfig, params: Mapping[str, Any], tags: Mapping[str, str], name: str, run_id: str | None = None
) -> Iterator[mlflow.ActiveRun]:
    """An active run of the experiment with its params and tags; FAILED where the body raises, KILLED by a signal.

    run_id: a run to go on with, which is RUNNING again.
    """
    mlflow.set_experiment(config.experiment)
    del os.environ["MLFLOW_EXPERIMENT_ID"]  # which set_experiment leaves for child processes
    status = "FAILED"
    try:
        run = mlflow.start_run(run_id=run_id, run_name=name, log_system_metrics=config.system_metrics)
        MlflowClient().log_batch(
            run.info.run_id,
            params=[Param(key, param_text(value)[:6000]) for key, value in params.items()],
            tags=[RunTag(key, str(value)) for key, value in tags.items()],
        )
        yield run
        status = "FINISHED"
    except BaseException as error:
        if not isinstance(error, Exception):  # a signal
            status = "KILLED"
        raise
    finally:
        try_to_log("the run's end", lambda: mlflow.end_run(status))


def signature(columns: Iterable[str], info: ModelInfo) -> ModelSignature:
    """What the pyfunc takes and gives; columns: `history`, and what the model reads beside it.

    Columns are of any type. MLflow's typed lists refuse what JSON clients send (4 where a number is 4.0, 50 where an id
    is `50`, null, lists of different lengths); the model's own checks take it, and name row and column of what is
    wrong. All but `history` are optional to MLflow, for the model's own error says what belongs in them.
    """
    rates = info.config.outputs != "next_item"
    names = [*columns, *(["targets"] if rates else []), "candidates", "blocked"]
    inputs = [ColSpec(AnyType(), name, required=name == "history") for name in names]
    outputs = [ColSpec(Array(DataType.string), "items"), ColSpec(Array(DataType.double), "scores")]
    if rates:
        outputs.append(ColSpec(Array(DataType.double), "ratings", required=False))
    params = [
        ParamSpec("k", DataType.long, 10),
        ParamSpec("remove_seen", DataType.boolean, info.remove_seen),
        ParamSpec("explain", DataType.boolean, False),
        ParamSpec("candidates", DataType.string, [], shape=(-1,)),
        ParamSpec("blocked", DataType.string, [], shape=(-1,)),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))


def register(
    config: TrackingConfig,
    folder: Path,
    example: Mapping[str, list[list[Any]]],
    tags: Mapping[str, str],
    card: str = "",
) -> str | None:
    """Log the model folder to the active run as a pyfunc; gives the registered version, None where not registered.

    example: `history`, and what the model reads beside it (columns.LIST_NAMES), each a list a row. The new version
    becomes `challenger`, and `champion` too where there is none; `card`, markdown, describes it.
    """
    requirements = [f"{name}=={version}" for name, version in _serving_versions().items()]
    package = Path(__file__).parent.parent / "mgray"
    logged = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(__file__).parent / "served_model.py"),
        artifacts={"model": folder.absolute().as_uri()},  # a path with a % in it would be taken for a URI's
        code_paths=[str(package)],
        signature=signature(example, load_info(folder)),
        input_example=pd.DataFrame(dict(example)),
        pip_requirements=requirements,
        registered_model_name=config.model_name if config.register_model else None,
    )
    version = logged.registered_model_version
    if version is None:
        return None
    client = MlflowClient()
    client.update_model_version(config.model_name, version, description=card)
    for key, value in tags.items():
        client.set_model_version_tag(config.model_name, version, key, value)
    client.set_registered_model_alias(config.model_name, CHALLENGER, version)
    if CHAMPION not in client.get_registered_model(config.model_name).aliases:
        client.set_registered_model_alias(config.model_name, CHAMPION, version)
    return str(version)


def _serving_versions() -> dict[str, str]:
    """What the pyfunc imports, at the versions that trained it; no Ray."""
    names = ("mlflow", "torch", "safetensors", "numpy", "pandas", "pyarrow", "pydantic")
    return {name: installed_version(name).split("+")[0] for name in names}


def run_of_version(tracking_uri: str, name: str, version: str) -> str | None:
    """The run that made a registered version; None where it came from elsewhere."""
    return MlflowClient(tracking_uri).get_model_version(name, version).run_id or None


def find_version(uri: str, tracking_uri: str, option: str = "--model") -> ModelVersion:
    """The registered version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` names.

    Raises InputError, naming the option, where the URI is malformed or names nothing that exists.
    """
    # MLflow's own message for a version such as `newest` does not tell what a URI looks like.
    if not re.fullmatch(r"models:/[^/:@]+(@[\w-]+|/\d+)", uri):
        raise InputError(f"{option} {uri}: not a registry URI; give models:/NAME@ALIAS or models:/NAME/VERSION")
    client = MlflowClient(tracking_uri)
    name, _, alias = uri.removeprefix("models:/").partition("@")
    name, _, number = name.partition("/")
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        raise InputError(
            f"{option} {uri}: not in the registry at {shown_uri(tracking_uri)}: {error.message}; "
            "list what there is in MLflow's UI, or train one with jobs/train.py"
        ) from error


def fetch_model(uri: str, tracking_uri: str, target: Path) -> tuple[Path, str, str]:
    """Download a registered model -> (its model folder, registered name, version). Raises InputError as above."""
    found = find_version(uri, tracking_uri)
    # By its number: an alias may have moved since.
    folder = _download(f"models:/{found.name}/{found.version}", tracking_uri, target)
    return folder / "artifacts" / "model", found.name, str(found.version)


def fetch_info(version_uri: str, tracking_uri: str) -> ModelInfo:
    """What a registered model is, without its weights. version_uri: models:/NAME/VERSION, of one that is there.

    Raises InputError where its files are not.
    """
    with tempfile.TemporaryDirectory() as target:
        file = _download(f"{version_uri}/artifacts/model/{MODEL_FILE}", tracking_uri, Path(target))
        content = file.read_bytes()
        return parse_info(content, version_uri)


def _download(source: str, tracking_uri: str, target: Path) -> Path:
    try:
        # By name: a worker on another node has nothing of the driver's environment.
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=source, dst_path=str(target), tracking_uri=tracking_uri, registry_uri=tracking_uri
            )
        )
    except MlflowException as error:
        raise InputError(f"{source}: its files cannot be fetched: {error.message}; register it anew") from error

"""A run's params, tags and metrics. An outage is kept in a file and replayed."""

import json
import os
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import ray
import torch
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from mgray import __version__
from mgray.config import JobConfig, TrackingConfig
from mgray.config.command_line import flatten
from pipelines.runtime.redact import command_line, shown_uri
from pipelines.tracking.client import bound_waiting

SECONDS_BETWEEN_FLUSHES = 5.0
SENDING_SUFFIX = ".sending"  # of a spool file while it is sent


def metric_key(name: str) -> str:
    """MLflow allows no `@` in a metric's name: `hr@10` is `hr_at_10` there."""
    return name.replace("@", "_at_")


def run_params(config: JobConfig, uri: str) -> dict[str, Any]:
    """Dotted key -> value of a run's config, as MLflow and the report show it: the URI in use, without a password."""
    return flatten(config) | {"tracking.uri": shown_uri(uri)}


def param_text(value: Any) -> str:
    """A param as the command line takes it back: `[1, 4]`, `none`, `true`."""
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return json.dumps(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


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

    def tag(self, key: str, value: str) -> None:
        """Set a tag of the run. A failure is said, and the tag is lost."""
        try:
            self.client.set_tag(self.run_id, key, value)
        except Exception as error:  # as in _send
            warnings.warn(f"MLflow did not take the tag {key}: {error}", stacklevel=2)

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

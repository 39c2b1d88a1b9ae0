"""Joins the Ray cluster that is there, or starts a local one, and plans what a run may ask of it."""

import logging
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import ray
from ray._common.utils import get_default_ray_temp_dir

from mgray.config import HOME_VARIABLE, JobConfig, ScaleConfig, resolve_home
from mgray.errors import InputError
from pipelines.runtime.interrupt import kept_handlers
from pipelines.runtime.versions import try_to_write

API_SERVER_VARIABLE = "RAY_API_SERVER_ADDRESS"
# Their notices (progress bars are off, a token is in use) are no news to the user of a job; errors still show.
QUIET_LOGGERS = ("ray.data", "ray.train", "ray.tune", "ray._private.authentication.authentication_token_setup")


def connect(dashboard: bool = False) -> None:
    """Join the running cluster (RAY_ADDRESS, or one started on this machine), else start a local one.

    dashboard: a cluster that is started here gets one, as trials of several workers need (see pipelines/tune/job.py).
    """
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Under `uv run` Ray would start every worker through uv again, which saturates a node (ray#50961).
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if ray.is_initialized():
        return
    try:
        with kept_handlers():
            if dashboard and os.environ.get("RAY_ADDRESS", "") in ("", "local"):
                _init_with_dashboard()
            else:
                ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        address = os.environ.get("RAY_ADDRESS", "the local cluster")
        raise InputError(
            f"Ray at {address} cannot be joined: {error}; check RAY_ADDRESS and RAY_AUTH_MODE=token with its token"
        ) from error
    except OSError as error:  # a folder that cannot be written, a socket's path that is too long
        raise InputError(
            f"Ray cannot start on this machine: {error}; it writes to {get_default_ray_temp_dir()} and to "
            f"{Path('~/.ray').expanduser()}: set RAY_TMPDIR or TMPDIR, and HOME, to folders with short paths that can "
            "be written"
        ) from error


def _init_with_dashboard() -> None:
    """ray.init, where every process of a cluster that it starts knows its own dashboard's address.

    Without it Ray Train's clean-up looks for a Ray on the machine, and gives up where there are two.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = API_SERVER_VARIABLE in os.environ
    os.environ.setdefault(API_SERVER_VARIABLE, f"http://127.0.0.1:{port}")  # inherited by all that ray.init starts
    context = ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=True, dashboard_port=port)
    if not given and not str(context.dashboard_url).endswith(f":{port}"):
        del os.environ[API_SERVER_VARIABLE]  # a cluster that was there already


def job_home(config: JobConfig) -> Path:
    """HOME of a job, made if missing. Raises InputError where it cannot be written.

    A job that Ray runs from an uploaded copy of the code must not write beside it: Ray deletes that folder. So there
    ./var gives way to ~/.mgray.
    """
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise InputError(f"no folder for temporary files: {error}; set TMPDIR to one that can be written") from error
    home = resolve_home(config)
    uploaded = "runtime_resources" in Path.cwd().parts
    if uploaded and config.home is None and not os.environ.get(HOME_VARIABLE):
        home = Path("~/.mgray").expanduser()
    check_writable(home, f"--home PATH or {HOME_VARIABLE}")
    return home


def check_writable(folder: Path, option: str) -> None:
    """Raises InputError, naming the option to change, where `folder` cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try_to_write(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); give another place with {option}") from error


class WorkerPlan(NamedTuple):
    num_workers: int
    use_gpu: bool
    resources_per_worker: dict[str, float]

    @property
    def label(self) -> str:
        return f"{self.num_workers} {'GPU' if self.use_gpu else 'CPU'} worker{'s' if self.num_workers > 1 else ''}"


def _node_resources() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room(needs: Mapping[str, float]) -> int:
    """How many workers of these needs the cluster's nodes hold; one does not span two."""
    return sum(min(int(node.get(name, 0) // need) for name, need in needs.items()) for node in _node_resources())


def _shown_cpus() -> str:
    nodes = _node_resources()
    cpus = int(sum(node.get("CPU", 0) for node in nodes))
    return f"{cpus}" if len(nodes) == 1 else f"{cpus} on {len(nodes)} nodes"


def plan_workers(scale: ScaleConfig, section: str = "scale") -> WorkerPlan:
    """GPUs where asked for or, with `auto`, where every worker can have one. `section` is the config's, for messages.

    Raises InputError where the cluster could never hold the workers: Ray itself would wait for them forever.
    """
    on_cpu: dict[str, float] = {"CPU": scale.cpus_per_worker}
    on_gpu = on_cpu | {"GPU": 1}
    gpus = room({"GPU": 1})
    use_gpu = room(on_gpu) >= scale.num_workers if scale.use_gpu == "auto" else scale.use_gpu
    if use_gpu and gpus < scale.num_workers:
        raise InputError(
            f"{section}: {scale.num_workers} workers want a GPU each, the cluster has {gpus}; "
            f"lower --{section}.num_workers or set --{section}.use_gpu false"
        )
    resources = on_gpu if use_gpu else on_cpu
    if room(resources) < scale.num_workers:
        raise InputError(
            f"{section}: {scale.num_workers} workers of {scale.cpus_per_worker} CPUs{' and a GPU' if use_gpu else ''} "
            f"each do not fit the cluster's {_shown_cpus()}, {room(resources)} do; lower --{section}.num_workers or "
            f"--{section}.cpus_per_worker, or add nodes"
        )
    return WorkerPlan(scale.num_workers, use_gpu, resources)

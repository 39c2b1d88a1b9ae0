"""Fixtures of more than one test module."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mgray.config import DataConfig
from mgray.data.dataset import Dataset

# Train's controller takes one report a poll, and polls every 2 s: more than an epoch takes here. Ray Train hands the
# variable on to its controller and workers; tests/jobs/processes.py to the jobs that run in processes of their own.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")


# Under nohup, or in a shell's background, a signal is ignored, and so by every process that a test starts and signals.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The files that take longest, those first: with one of them begun last, the other CPU would have no work at the end.
LONGEST = (
    "cluster/test_tune.py",
    "cluster/test_train.py",
    "test_docs.py",
    "jobs/test_interrupts.py",
    "jobs/test_tracking_store.py",
    "cluster/test_retrain.py",
    "cluster/test_ingest_restart.py",
    "infra/test_postgres.py",
    "jobs/test_submit.py",
    "cluster/test_predict.py",
    "jobs/test_bad_input.py",
    "jobs/test_serving.py",
    "infra/test_schedules.py",
    "jobs/test_package.py",
    "ui/test_mlflow_ui.py",
    "cluster/test_predict_other_logs.py",
    "cluster/test_append.py",
    "cluster/test_ingest.py",
    "cluster/test_ingest_rules.py",
    "cluster/test_privacy.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files: those of LONGEST, then all others as they were."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of this test session's own: 2 CPUs, no dashboard."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Champion(NamedTuple):
    """A HOME with a registered model, and the dataset version that its vocabulary is of."""

    home: Path
    model_folder: Path
    dataset: Dataset


@pytest.fixture(scope="session")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    """Registered once a session, for it takes seconds. Tests write elsewhere."""
    from mgray.testing.synthetic import make_log
    from tests.datasets import write_dataset
    from tests.models import register_model

    home = tmp_path_factory.mktemp("champion")
    dataset = write_dataset(home / "dataset", make_log(120, 40))
    return Champion(home, register_model(home, dataset), dataset)


@pytest.fixture(scope="module")
def mlflow_apart() -> Iterator[None]:
    """MLflow as a fresh process has it, for one module: no URI, no active run, no MLFLOW_* or MGRAY_* variable."""
    import mlflow

    def forget() -> None:
        while mlflow.active_run():
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri("")
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "MGRAY_"))]:
            del os.environ[name]

    saved = {name: value for name, value in os.environ.items() if name.startswith(("MLFLOW_", "MGRAY_"))}
    forget()
    yield
    forget()
    os.environ.update(saved)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for one module's files: a drawn test (hypothesis) runs many times, and tmp_path is made once a test."""
    return tmp_path_factory.mktemp("folder")


@pytest.fixture
def run_ingest(ray_local: None, tmp_path: Path) -> Callable:
    """ingest(source, **data settings) with a HOME of the test's own."""
    from pipelines.ingest.job import RANGE_BYTES, IngestResult, ingest
    from pipelines.ingest.source.digests import Log

    def run(
        source: Path,
        range_bytes: int = RANGE_BYTES,
        home: Path | None = None,
        append: bool = False,
        log: Log | None = None,
        **settings: object,
    ) -> IngestResult:
        config = DataConfig.model_validate({"source": str(source), "num_shards": 2} | settings)
        return ingest(config, home or tmp_path / "home", None, range_bytes, append, log)

    return run

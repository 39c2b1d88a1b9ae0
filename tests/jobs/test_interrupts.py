"""Signals to jobs as a terminal, a scheduler or a closing window send them, to processes of their own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mgray.testing.synthetic import make_log
from pipelines.tracking.store import sqlite_uri
from tests.datasets import write_dataset
from tests.jobs.processes import ROOT, environment
from tests.models import register_model

TINY = [
    "--model.width=8",
    "--model.heads=2",
    "--model.granularities=[1,4]",
    "--train.epochs=100000",
    "--train.max_time_s=none",
    "--train.global_batch_events=500",
    "--train.num_negatives=15",
    "--train.validate_every_epochs=1",
    "--tracking.system_metrics=false",
    "--tracking.register_model=false",
]


class Place(NamedTuple):
    """A HOME with a dataset and a registered model of it, and a log."""

    home: Path
    dataset: Path
    log: Path

    def runs(self, name: str) -> list[Run]:
        """MLflow's runs whose name begins so."""
        client = MlflowClient(sqlite_uri(self.home / "mlflow.db"))
        experiment = client.get_experiment_by_name("mgray").experiment_id
        return [run for run in client.search_runs([experiment]) if run.info.run_name.startswith(name)]


@pytest.fixture(scope="module")
def place(mlflow_apart: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("interrupts")
    log = make_log(400, 60)
    log.write_csv(folder / "log.csv")
    dataset = write_dataset(folder / "home" / "datasets" / "test", log)
    register_model(folder / "home", dataset)
    return Place(folder / "home", dataset.folder, folder / "log.csv")


class Running:
    """A job that was started, in a process group of its own, as a shell starts it."""

    def __init__(self, folder: Path, name: str, *argv: str, **extra: str) -> None:
        self.errors = folder / "stderr.txt"
        with self.errors.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, f"jobs/{name}.py", *argv],
                cwd=ROOT,
                env=environment(**{"RAY_ADDRESS": "local", **extra}),
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
            )

    def wait_until(self, reached: Callable[[], object]) -> None:
        deadline = time.monotonic() + 150
        while not reached():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, self.errors.read_text()
            time.sleep(0.02)

    def says(self, pattern: str) -> Callable[[], object]:
        return lambda: re.search(pattern, self.errors.read_text(), re.MULTILINE)

    def end(self, number: signal.Signals, group: bool = False) -> str:
        """Signal it -> its one line; nothing that it started is alive then. group: all of its processes get it."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        (os.killpg if group else os.kill)(self.process.pid, number)
        assert self.process.wait(90) == 128 + number, self.errors.read_text()
        _, left = psutil.wait_procs(family, timeout=20)
        assert left == []
        told = self.errors.read_text()
        assert "Traceback" not in told, told
        assert "KeyboardInterrupt" not in told, told
        (line,) = [line for line in told.splitlines() if line.startswith("interrupted: ")]
        assert line.startswith(f"interrupted: {number.name} ended jobs/")
        return line


@contextmanager
def job(folder: Path, name: str, *argv: str, **extra: str) -> Iterator[Running]:
    running = Running(folder, name, *argv, **extra)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()


def test_while_it_loads(place: Place, tmp_path: Path) -> None:
    with job(tmp_path, "eval", f"--home={place.home}") as running:
        libraries = Path(f"/proc/{running.process.pid}/maps")
        running.wait_until(lambda: "libtorch" in libraries.read_text())
        assert "run the same again" in running.end(signal.SIGTERM)


def test_ctrl_c_in_ingest(place: Place, tmp_path: Path) -> None:
    with job(tmp_path, "ingest", f"--home={tmp_path}", f"--data.source={place.log}") as running:
        running.wait_until(running.says(r"^scan \d"))
        assert "goes on from" in running.end(signal.SIGINT)
    assert list((tmp_path / "datasets").glob("*/manifest.json")) == []
    assert list((tmp_path / "datasets").rglob("*.lock")) == []


def test_ctrl_c_in_predict(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = [f"--home={place.home}", f"--data.dataset={place.dataset}", f"--predict.out={out}", "--predict.part_users=1"]
    with job(tmp_path, "predict", *argv) as running:
        running.wait_until(lambda: list(out.glob(".staging-*/work/model/*")))
        assert "nothing is committed" in running.end(signal.SIGINT)
    assert list(out.iterdir()) == []


def test_ctrl_c_in_tune(place: Place, tmp_path: Path) -> None:
    """A search of trials of two workers, for which `local` starts a Ray with a dashboard, as no RAY_ADDRESS does."""
    argv = [f"--home={place.home}", f"--data.dataset={place.dataset}", "--search.name=stopped", *TINY]
    with job(tmp_path, "tune", *argv, "--scale.num_workers=2") as running:
        running.wait_until(lambda: place.runs("trial 0"))
        assert "--resume goes on" in running.end(signal.SIGINT)
    assert [run.info.status for run in place.runs("search stopped")] == ["KILLED"]
    (trial,) = place.runs("trial 0")
    assert trial.info.status == "KILLED"
    assert trial.data.tags["search.outcome"] == "interrupted; --resume goes on"


def test_a_terminal_that_closes_ends_a_training(place: Place, tmp_path: Path) -> None:
    argv = [f"--home={place.home}", f"--data.dataset={place.dataset}", *TINY, "--train.seed=1"]
    with job(tmp_path, "train", *argv, "--scale.num_workers=1") as running:
        running.wait_until(running.says(r"^epoch \d"))
        assert "the same command starts over" in running.end(signal.SIGHUP, group=True)
    assert [run.info.status for run in place.runs("g1-4-w8-s1")] == ["KILLED"]


def test_ctrl_c_in_a_training(place: Place, tmp_path: Path) -> None:
    """Where Ray Train would end the run by itself, and the job with 1."""
    argv = [f"--home={place.home}", f"--data.dataset={place.dataset}", *TINY, "--train.seed=2"]
    with job(tmp_path, "train", *argv, "--scale.num_workers=1") as running:
        running.wait_until(running.says(r"^epoch \d"))
        running.end(signal.SIGINT, group=True)
    assert [run.info.status for run in place.runs("g1-4-w8-s2")] == ["KILLED"]

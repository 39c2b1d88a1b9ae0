"""The tracking store as jobs find it: fresh and shared, out of reach, below folders of any name, and with leftovers."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from mgray.config import TrackingConfig, TrainJobConfig
from mgray.errors import InputError
from mgray.testing.synthetic import make_log
from pipelines import tracking
from pipelines.runtime.job import run_job
from pipelines.tracking.registry import Registry
from pipelines.tracking.store import sqlite_file, sqlite_uri
from tests.datasets import write_dataset
from tests.jobs.open_homes import Opener, openers
from tests.jobs.processes import ROOT, Done, environment, error_of
from tests.models import register_model
from tests.stores import give_store

QUIET = TrackingConfig(system_metrics=False)


@pytest.fixture(autouse=True)
def forget_the_store(mlflow_apart: None) -> Iterator[None]:
    """Each test opens stores of its own; the last one opened is the default of the next else."""
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Opener, Opener]]:
    with openers() as pair:
        yield pair


def test_ten_pairs_open_a_fresh_home_at_once(pair: tuple[Opener, Opener], tmp_path: Path) -> None:
    for number in range(10):
        home = tmp_path / str(number)
        for one in pair:
            one.tell(home)
        assert [one.answer() for one in pair] == ["ok", "ok"]
        client = MlflowClient(sqlite_uri(home / "mlflow.db"))
        (experiment,) = client.search_experiments(filter_string="name = 'mgray'")
        assert experiment.artifact_location == (home / "artifacts").as_uri()
        assert sorted(path.name for path in home.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def test_a_pair_of_jobs_on_a_fresh_home(tmp_path: Path) -> None:
    """Neither finds a model there, and neither says anything else."""
    command = [sys.executable, "jobs/eval.py", "--home", str(tmp_path / "home")]
    pair = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for one in pair:
        out, err = one.communicate(timeout=120)
        assert "not in the registry" in error_of(Done(one.returncode, out, err))


def test_a_first_opening_that_was_killed_leaves_no_broken_store(pair: tuple[Opener, Opener], tmp_path: Path) -> None:
    home = tmp_path / "home"
    with openers(1) as (killed,):
        killed.tell(home)
        deadline = time.monotonic() + 60
        while not list(home.glob(".mlflow.db.draft-*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
    assert not (home / "mlflow.db").exists(), "the kill came too late to show anything"
    pair[0].tell(home)
    assert pair[0].answer() == "ok"
    assert sorted(path.name for path in home.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


@pytest.mark.parametrize("name", ["what?", "50% x%20y", "a#b é:ü", "p@q:r@s&it's [1]"])
def test_a_home_of_any_name_holds_its_own_store(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    home = tmp_path / name / "home"
    uri = tracking.resolve_uri(QUIET, home)
    assert sqlite_file(uri) == home / "mlflow.db"
    dataset = write_dataset(home / "datasets" / "test", make_log(20, 12))
    assert tracking.open_tracking(QUIET, home) == uri
    register_model(home, dataset)
    assert (home / "mlflow.db").read_bytes()[:6] == b"SQLite"
    registry = Registry(uri, "mgray-interest")
    assert registry.manifest(registry.find(1)) == dataset.manifest
    assert tracking.fetch_info("models:/mgray-interest/1", uri).num_items == dataset.num_items
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["here", name]), "nothing lands outside"
    assert list((tmp_path / "here").iterdir()) == []


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen(16)
        yield opened.getsockname()[1]


def test_a_store_that_never_answers_is_told_within_15_s(pair: tuple[Opener, Opener], tmp_path: Path) -> None:
    with silent() as port:
        started = time.monotonic()
        for one, uri in zip(
            pair, (f"http://127.0.0.1:{port}", f"postgresql://u:s3cret@127.0.0.1:{port}/x"), strict=True
        ):
            one.tell(tmp_path, uri)
        answers = [one.answer() for one in pair]
        assert time.monotonic() - started < 15
    assert "Read timed out" in answers[0]
    assert "timeout expired" in answers[1]
    for answer in answers:
        assert answer.startswith("InputError: MLflow at ")
        assert "start it, or set --tracking.uri or MLFLOW_TRACKING_URI right" in answer
        assert "s3cret" not in answer


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:1", "Connection refused"),
        ("postgresql://u:p%40ss@127.0.0.1:1/x", "Connection refused"),
        ("postgresql://u:s3cret@no.such.host.invalid/x", "no.such.host.invalid"),
        ("sqlite:///{tmp}/50%25.txt", "file is not a database"),
        ("sqlite:///{tmp}", "unable to open database file"),
        ("sqlite:///{tmp}/50%25.txt/mlflow.db", "File exists"),
        ("ftp://somewhere", "unsupported URI"),
    ],
)
def test_a_store_that_cannot_be_used_is_told_within_15_s(uri: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "50%.txt").write_text("no database, and longer than the header of one" * 9)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"cannot be used") as raised:
        tracking.open_tracking(TrackingConfig(uri=uri.format(tmp=tmp_path)), tmp_path)
    assert time.monotonic() - started < 15
    assert reason in str(raised.value)
    assert not any(secret in str(raised.value) for secret in ("s3cret", "p%40ss", "p@ss"))


def test_a_blank_after_the_uri_is_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f" {uri} \n")
    assert tracking.resolve_uri(QUIET, tmp_path) == uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "  ")
    assert tracking.resolve_uri(TrackingConfig(uri=" "), tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_deleted_experiment_is_told_before_the_log_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.train.job import run_training

    give_store(tmp_path)
    uri = tracking.open_tracking(QUIET, tmp_path)
    client = MlflowClient(uri)
    number = client.get_experiment_by_name("mgray").experiment_id
    client.delete_experiment(number)
    argv = ["--home", str(tmp_path), "--data.source", str(tmp_path / "no-such-log.csv")]
    capsys.readouterr()
    code = run_job("train", TrainJobConfig, run_training, argv)
    told = error_of(Done(code, *capsys.readouterr()))
    assert f"experiment 'mgray' is deleted; restore it with `MLFLOW_TRACKING_URI={uri} mlflow experiments" in told
    assert f"restore --experiment-id {number}`, or give another with --tracking.experiment NAME" in told
    assert tracking.open_tracking(QUIET, tmp_path, runs=False) == uri, "who only reads the registry needs none"
    client.restore_experiment(number)
    assert tracking.open_tracking(QUIET, tmp_path) == uri


def test_a_run_of_the_environment_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    give_store(tmp_path)
    uri = tracking.open_tracking(QUIET, tmp_path)
    with tracking.start_run(QUIET, {"a": 1}, {}, "older") as older:
        pass
    other = MlflowClient(uri).create_experiment("other")
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("MLFLOW_RUN_ID", older.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:1")
    tracking.open_tracking(QUIET, tmp_path)
    told = capfd.readouterr().err
    assert told.startswith("MLFLOW_RUN_ID, MLFLOW_EXPERIMENT_ID, MLFLOW_EXPERIMENT_NAME, MLFLOW_REGISTRY_URI in the")
    with pytest.raises(ZeroDivisionError), tracking.start_run(QUIET, {"a": 2}, {}, "newer") as newer:
        raise ZeroDivisionError
    client = MlflowClient(uri)
    runs = {run.info.run_id: run.info for run in client.search_runs([older.info.experiment_id])}
    assert runs[older.info.run_id].status == "FINISHED"
    assert runs[older.info.run_id].end_time == client.get_run(older.info.run_id).info.end_time
    assert client.get_run(older.info.run_id).data.params == {"a": "1"}
    assert runs[newer.info.run_id].status == "FAILED"
    assert client.search_runs([other]) == []
    # A second job of the process, as the one that trains a search's best, has nothing more to say.
    tracking.open_tracking(QUIET, tmp_path)
    assert capfd.readouterr().err == ""


def test_a_run_that_is_active_in_the_process_is_not_mixed_up(tmp_path: Path) -> None:
    give_store(tmp_path)
    tracking.open_tracking(QUIET, tmp_path)
    with tracking.start_run(QUIET, {}, {}, "notebook") as run:
        with pytest.raises(InputError, match=f"run {run.info.run_id} is active in this process"):
            tracking.open_tracking(QUIET, tmp_path)
        tracking.open_tracking(QUIET, tmp_path, runs=False)


def test_a_registry_that_cannot_be_read_is_told_at_the_start(tmp_path: Path) -> None:
    give_store(tmp_path)
    tracking.open_tracking(QUIET, tmp_path)
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "half.db")
    with closing(sqlite3.connect(tmp_path / "half.db")) as database:
        database.execute("ALTER TABLE registered_models RENAME TO lost")
    for runs in (True, False):
        with pytest.raises(InputError, match="cannot be used"):
            tracking.open_tracking(TrackingConfig(uri=f"sqlite:///{tmp_path / 'half.db'}"), tmp_path, runs=runs)

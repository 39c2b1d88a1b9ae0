"""What a user can get wrong, each: exit code 2, one line that says what, where and how to mend it, no traceback, and
nothing that was committed before is lost.

Most cases call what the script calls, in this process, on one Ray; PROCESSES start the script itself.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient

from mgray.config import DataConfig, EvalJobConfig, IngestJobConfig, TrackingConfig, TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.model.mgdsc import MGDSC
from mgray.serve.model_folder import Vocabulary, save_model
from mgray.testing.synthetic import make_log
from mgray.train.resolve import model_info, resolve_job
from tests.jobs.processes import Done, error_of, run_job_process
from tests.models import model_config
from tests.stores import give_store

HEADER = "user_id,item_id,timestamp,rating\n"
GOOD = "".join(f"u{user},i{event},{event},4\n" for event in range(4) for user in range(5))
RESERVED_PORT = "http://127.0.0.1:1"  # nothing listens there
NAME = TrackingConfig().model_name


class Place(NamedTuple):
    """A HOME with what earlier jobs committed: a dataset version and a registered model."""

    home: Path
    log: Path
    dataset: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def committed(self) -> dict[str, Any]:
        """All that a failing job must leave as it is."""
        client = MlflowClient(self.uri)
        (experiment,) = client.search_experiments(filter_string="name = 'mgray'")
        return {
            "datasets": {p: p.read_bytes() for p in (self.home / "datasets").rglob("*") if p.is_file()},
            "artifacts": {p: p.read_bytes() for p in (self.home / "artifacts").rglob("*") if p.is_file()},
            "versions": [v.version for v in client.search_model_versions(f"name='{NAME}'")],
            "aliases": {k: str(v) for k, v in client.get_registered_model(NAME).aliases.items()},
            "runs": {r.info.run_id: r.info.status for r in client.search_runs([experiment.experiment_id])},
        }


@pytest.fixture(scope="module")
def place(ray_local: None, mlflow_apart: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    from pipelines import tracking
    from pipelines.ingest.job import ingest

    folder = tmp_path_factory.mktemp("place")
    log = folder / "log.csv"
    make_log(20, 12).write_csv(log)
    dataset = Dataset(ingest(DataConfig(source=str(log), num_shards=1), folder / "home").path)
    place = Place(folder / "home", log, dataset.folder)
    # A model that was never trained is registered like any other.
    config = model_config(width=8, granularities=(1,), heads=1)
    info = model_info(dataset, resolve_job(TrainJobConfig(model=config), dataset.manifest))
    torch.manual_seed(0)
    save_model(folder / "model", MGDSC(config, dataset.num_items).state_dict(), info, Vocabulary.of(dataset))
    give_store(place.home)
    tracking.open_tracking(TrackingConfig(), place.home)
    with tracking.start_run(TrackingConfig(system_metrics=False), {}, {}, "earlier"):
        assert tracking.register(TrackingConfig(), folder / "model", {"history": [dataset.item_ids[:3]]}, {}) == "1"
    return place


@pytest.fixture(autouse=True)
def nothing_is_lost(place: Place) -> Iterator[None]:
    before = place.committed()
    assert before["aliases"] == {"challenger": "1", "champion": "1"}
    assert any(path.name == "manifest.json" for path in before["datasets"])
    yield
    assert place.committed() == before


class Case(NamedTuple):
    """In `argv` and the files: {tmp} is the test's own folder, {home}, {log} and {dataset} are the place's."""

    name: str
    job: str
    argv: str
    says: tuple[str, ...]  # what, where, how to mend it
    files: dict[str, str] = {}  # below {tmp}, written before
    environment: dict[str, str] = {}

    def prepare(self, place: Place, tmp: Path) -> tuple[list[str], list[str]]:
        """The command line and the phrases, with the folders filled in."""

        def fill(text: str) -> str:
            for key, value in {"tmp": tmp, "home": place.home, "log": place.log, "dataset": place.dataset}.items():
                text = text.replace(f"{{{key}}}", str(value))
            return text

        for name, text in self.files.items():
            (tmp / name).write_text(text)
        argv = [fill(word) for word in self.argv.split()]
        if "--home" not in argv:
            argv = ["--home", str(place.home), *argv]
        return argv, [fill(text) for text in self.says]


def bad_log(name: str, text: str, *says: str, options: str = "") -> Case:
    return Case(name, "ingest", f"--data.source {{tmp}}/log.csv {options}", says, {"log.csv": text})


MEND_ROW = "mend the row, or set them aside with --data.max_quarantined_share"
MEND_MODEL = "list what there is in MLflow's UI, or train one with jobs/train.py"
MEND_MLFLOW = "start it, or set --tracking.uri or MLFLOW_TRACKING_URI right"

CASES = [
    # the log
    Case(
        "items_file_missing",
        "ingest",
        "--data.source {log} --data.items {tmp}/titles.csv",
        ("--data.items {tmp}/titles.csv: no such file", "item_id and title"),
    ),
    bad_log(
        "column_missing",
        "user_id,film,timestamp\nu1,i1,1\n",
        "/log.csv: no column 'item_id'; columns found: user_id, film, timestamp",
        "--data.columns.item_id NAME",
    ),
    bad_log(
        "rating_unparseable",
        HEADER + GOOD + "u1,i9,9,good\n",
        "1 of 21 rows cannot be read",
        "log.csv, line 22: rating 'good' is not a number",
        MEND_ROW,
    ),
    bad_log("id_empty", HEADER + "u1,,9,1\n" + GOOD, "log.csv, line 2: item_id is empty", MEND_ROW),
    bad_log(
        "more_bad_rows_than_allowed",
        HEADER + GOOD + "u1,i9,soon,1\nu2,i9,9,x\n",
        "2 of 22 rows cannot be read, more than data.max_quarantined_share allows (0.05)",
        "log.csv, line 22: timestamp 'soon'",
        options="--data.max_quarantined_share 0.05",
    ),
    bad_log("log_without_rows", HEADER, "{tmp}/log.csv: the log is empty (no rows); give a log with events"),
    bad_log("log_without_bytes", "", "{tmp}/log.csv: the log is empty (no bytes); give a log with events"),
    bad_log(
        "no_user_long_enough",
        HEADER + GOOD,
        "{tmp}/log.csv: no user has 5 events or more (20 readable events)",
        "give a longer log or lower --data.min_user_events",
        options="--data.min_user_events 5",
    ),
    Case(
        "dataset_without_manifest",
        "train",
        "--data.dataset {tmp}",
        ("{tmp}: no manifest.json, so no committed dataset version", "or run jobs/ingest.py"),
    ),
    Case(
        "dataset_with_a_torn_manifest",
        "train",
        "--data.dataset {tmp}",
        ("{tmp}/manifest.json: not a manifest that this version reads", "ingest again"),
        {"manifest.json": '{"schema_version": 1, "crea'},
    ),
    # the config
    Case(
        "unknown_key_in_a_file",
        "train",
        "--config {tmp}/run.yaml",
        (
            "--config {tmp}/run.yaml: unknown config key 'model.widht' (did you mean model.width?)",
            "valid keys: data.clean.duplicates, ",
            "model.granularities, ",
        ),
        {"run.yaml": "model:\n  widht: 32\n"},
    ),
    Case(
        "value_out_of_range",
        "train",
        "--model.dropout 1.5",
        ("command line: model.dropout: Input should be less than 1 (given: 1.5)", "--help"),
    ),
    Case(
        "value_out_of_range_in_a_file",
        "train",
        "--config {tmp}/run.yaml",
        ("--config {tmp}/run.yaml: train.epochs: Input should be greater than or equal to 1 (given: 0)", "--help"),
        {"run.yaml": "train:\n  epochs: 0\n"},
    ),
    Case("value_of_another_type", "train", "--model.width wide", ("model.width", "integer", "'wide'", "--help")),
    Case(
        "input_that_the_log_does_not_have",
        "train",
        "--data.dataset {dataset} --model.inputs [rating,event_type]",
        ("model.inputs: the dataset has no event_type (it has: rating, time_gap)", "leave it out, or ingest a log"),
    ),
    Case(
        "strides_that_do_not_grow",
        "train",
        "--model.granularities [4,1]",
        ("strides must grow from level to level, not [4, 1]", "--help"),
    ),
    Case("value_missing", "train", "--model.width", ("--model.width: expected one argument", "--help")),
    Case(
        "config_file_missing",
        "train",
        "--config {tmp}/run.yaml",
        ("--config {tmp}/run.yaml: No such file or directory", "give the path of a YAML file"),
    ),
    Case(
        "config_file_not_yaml",
        "train",
        "--config {tmp}/run.yaml",
        ("--config {tmp}/run.yaml: not valid YAML", "line 2", "mend the file"),
        {"run.yaml": "model: [\n"},
    ),
    # the registry
    Case(
        "model_alias_missing",
        "eval",
        f"--model models:/{NAME}@best --data.source {{log}}",
        (f"--model models:/{NAME}@best: not in the registry at sqlite:///{{home}}/mlflow.db", MEND_MODEL),
    ),
    Case(
        "model_version_missing",
        "eval",
        f"--model models:/{NAME}/7 --data.source {{log}}",
        (f"--model models:/{NAME}/7: not in the registry", MEND_MODEL),
    ),
    *(
        Case(
            f"model_malformed_{number}",
            "eval",
            f"--model {uri} --data.source {{log}}",
            (f"--model {uri}: not a registry URI; give models:/NAME@ALIAS or models:/NAME/VERSION",),
        )
        for number, uri in enumerate([NAME, "runs:/0/model", f"models:/{NAME}", f"models:/{NAME}/newest", "models:/"])
    ),
    Case(
        "warm_start_from_a_folder_without_a_model",
        "train",
        "--data.source {log} --train.warm_start {tmp}",
        ("{tmp}: no weights.safetensors, so not an mgray model", "give the folder that training wrote"),
    ),
    Case(
        "warm_start_from_a_version_that_is_not_there",
        "train",
        f"--data.source {{log}} --train.warm_start models:/{NAME}/7",
        (f"--train.warm_start models:/{NAME}/7: not in the registry", MEND_MODEL),
    ),
    Case(
        "warm_start_from_a_model_of_another_shape",
        "train",
        f"--data.dataset {{dataset}} --train.warm_start models:/{NAME}@champion",
        ("train.warm_start: the earlier model differs in model.width, ", "take its values, or train without"),
    ),
    # places and services. Root may write to any folder, so these lie below a file, where nobody can.
    Case(
        "home_cannot_be_written",
        "train",
        "--home {log}/home --data.source {log}",
        ("{log}/home: cannot be written (Not a directory)", "--home PATH or MGRAY_HOME"),
    ),
    Case(
        "out_cannot_be_written",
        "ingest",
        "--data.source {log} --data.out {log}/out",
        ("{log}/out: cannot be written (Not a directory)", "give another place with --data.out"),
    ),
    Case(
        "out_in_proc",
        "ingest",
        "--data.source {log} --data.out /proc/out",
        ("/proc/out: cannot be written (No such file or directory)", "give another place with --data.out"),
    ),
    Case(
        "database_cannot_be_made",
        "train",
        "--data.source {log} --tracking.uri sqlite:////proc/mlflow/mlflow.db",
        ("MLflow at sqlite:////proc/mlflow/mlflow.db cannot be used", MEND_MLFLOW),
    ),
    Case(
        "database_is_another_file",
        "train",
        "--data.source {log} --tracking.uri sqlite:///{log}",
        ("MLflow at sqlite:///{log} cannot be used", "file is not a database", MEND_MLFLOW),
    ),
    Case(
        "mlflow_unreachable_for_eval",
        "eval",
        f"--data.source {{log}} --tracking.uri {RESERVED_PORT}",
        (f"MLflow at {RESERVED_PORT} cannot be used", MEND_MLFLOW),
    ),
    Case(
        "more_workers_than_cpus",
        "train",
        "--data.source {log} --scale.num_workers 64",
        ("64 workers of 1 CPUs each do not fit the cluster's 2", "lower --scale.num_workers or"),
    ),
    Case(
        "more_gpus_than_there_are",
        "train",
        "--data.source {log} --scale.num_workers 1 --scale.use_gpu true",
        ("1 workers want a GPU each, the cluster has 0", "set --scale.use_gpu false"),
    ),
]

PROCESSES = [
    Case(
        "unknown_key",
        "train",
        "--model.widht 32",
        (
            "command line: unknown config key 'model.widht' (did you mean model.width?)",
            "valid keys: data.clean.duplicates, ",
            "model.granularities, ",
        ),
    ),
    Case(
        "file_missing",
        "ingest",
        "--home {tmp}/home --data.source {tmp}/log.csv",
        ("--data.source {tmp}/log.csv: no such file or folder", "give a log's path, or movielens-100k for the sample"),
    ),
    Case(
        "timestamp_unparseable",
        "train",
        "--data.source {tmp}/log.csv --data.num_shards 1",
        (
            "1 of 21 rows cannot be read",
            "log.csv, line 12: timestamp 'soon' is neither seconds since 1970 nor ISO 8601",
            MEND_ROW,
        ),
        {"log.csv": HEADER + GOOD[: len(GOOD) // 2] + "u1,i9,soon,1\n" + GOOD[len(GOOD) // 2 :]},
    ),
    Case(
        "mlflow_unreachable",
        "train",
        "--data.source {log}",
        (f"MLflow at {RESERVED_PORT} cannot be used", MEND_MLFLOW),
        environment={"MLFLOW_TRACKING_URI": RESERVED_PORT},
    ),
    Case(
        "model_missing",
        "eval",
        "--model models:/nobody@champion --data.source {log}",
        ("--model models:/nobody@champion: not in the registry at sqlite:///{home}/mlflow.db", MEND_MODEL),
    ),
]


def check(done: Done, phrases: list[str]) -> None:
    error = error_of(done)
    for phrase in phrases:
        assert phrase in error


def jobs() -> dict[str, tuple[type, Callable]]:
    """Job functions and configs, paired as in jobs/*.py."""
    from pipelines.evaluate.job import run_evaluation
    from pipelines.ingest.job import run_ingest
    from pipelines.train.job import run_training

    return {
        "ingest": (IngestJobConfig, run_ingest),
        "train": (TrainJobConfig, run_training),
        "eval": (EvalJobConfig, run_evaluation),
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_input(case: Case, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.runtime.job import run_job

    mlflow.set_tracking_uri(None)  # else the last case's is this one's default
    argv, phrases = case.prepare(place, tmp_path)
    capsys.readouterr()
    code = run_job(case.job, *jobs()[case.job], argv)
    printed = capsys.readouterr()
    check(Done(code, printed.out, printed.err), phrases)


@pytest.mark.parametrize("case", PROCESSES, ids=lambda case: case.name)
def test_wrong_input_of_a_process(case: Case, place: Place, tmp_path: Path) -> None:
    argv, phrases = case.prepare(place, tmp_path)
    check(run_job_process(case.job, *argv, **case.environment), phrases)

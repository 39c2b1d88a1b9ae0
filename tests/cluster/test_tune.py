"""pipelines.tune.job on real Ray, 2 CPUs: trials in place and by DDP, ASHA, failures, and a driver that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import yaml
from mlflow.tracking import MlflowClient

from mgray.config import TrainJobConfig, TuneJobConfig
from mgray.config.command_line import parse_args
from mgray.errors import InputError
from mgray.testing.synthetic import make_log
from tests.jobs.processes import ROOT, environment
from tests.models import model_config, write_model
from tests.stores import give_store

pytestmark = pytest.mark.timeout(900)  # minutes on an idle machine, far more beside others
GOOD_RATE, BAD_RATE = 1e-2, 1e-7
# Items start at random: from their neighbours, a model that learns nothing may be the best of so small a log.
TINY: dict[str, Any] = {
    "model": {"width": 16, "granularities": [1], "kernel": 3, "dropout": 0.0},
    "train": {
        "epochs": 3,
        "learning_rate": GOOD_RATE,
        "validate_every_epochs": 1,
        "num_negatives": 8,
        "item_init": "random",
    },
    "tracking": {"system_metrics": False},
    "data": {"num_shards": 1},
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.csv"
    make_log(80, 30).write_csv(path)
    return path


@pytest.fixture
def here(ray_local: None, mlflow_apart: None) -> Iterator[None]:
    """Searches in this process; when one has ended, whatever its end, all CPUs are free again."""
    yield
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < deadline, f"CPUs not returned: {ray.available_resources()}"
        time.sleep(0.2)


def settings(home: Path, log: Path, space: dict[str, Any], **search: Any) -> dict[str, Any]:
    give_store(home)
    (home / "space.yaml").write_text(yaml.safe_dump(space))
    given = {"train_best": False, "grace_epochs": 1, "space": str(home / "space.yaml"), **search}
    tracking = {**TINY["tracking"], "uri": f"sqlite:///{home / 'mlflow.db'}"}
    return {
        **TINY,
        "home": str(home),
        "tracking": tracking,
        "data": {**TINY["data"], "source": str(log)},
        "search": given,
    }


def search(*args: Any, scale: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    from pipelines.tune.job import run_search

    return run_search(TuneJobConfig.model_validate({**settings(*args, **options), "scale": scale or {}}))


def runs_by_trial(home: Path, parent: str) -> dict[int, Any]:
    """The search's nested runs in MLflow, by the trial's number."""
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mgray").experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {int(run.data.tags["search.trial"]): run for run in runs if "search.trial" in run.data.tags}


def test_asha_stops_the_weak_and_the_best_is_registered(here: None, tmp_path: Path, log: Path) -> None:
    # The first trial is the configuration given; what else the space holds learns nothing.
    space = {"train.learning_rate": {"choice": [GOOD_RATE, BAD_RATE]}, "model.granularities": {"choice": [[1], [1, 2]]}}
    result = search(tmp_path, log, space, num_trials=3, max_concurrent=1, train_best=True, algorithm="random", seed=1)
    assert sum(result["trials"].values()) == 3
    assert result["trials"]["stopped"] >= 1
    assert result["trials"]["failed"] == 0
    assert result["best"]["train.learning_rate"] == GOOD_RATE

    client = MlflowClient(result["tracking_uri"])
    runs = runs_by_trial(tmp_path, result["run_id"])
    assert {run.info.status for run in runs.values()} == {"FINISHED", "KILLED"}
    assert runs[0].info.status == "FINISHED"
    for run in runs.values():
        stopped = run.info.status == "KILLED"
        assert run.data.tags["search.outcome"] == ("stopped" if stopped else "finished")
        assert ("behind at epoch" in run.data.tags.get("search.reason", "")) == stopped
        assert "valid/ndcg_at_10" in run.data.metrics
        assert not list((tmp_path / "runs" / run.info.run_id).glob("checkpoint*"))
    parent = client.get_run(result["run_id"])
    assert parent.info.status == "FINISHED"
    names = {file.path for file in client.list_artifacts(result["run_id"])}
    assert {"space.yaml", "best.yaml", "search.html", "trials.json"} <= names

    # best.yaml is what jobs/train.py --config takes, and what was registered was trained by it
    best = parse_args(TrainJobConfig, "jobs/train.py", ["--config", result["best_config"]])
    assert (best.train.learning_rate, best.train.epochs) == (GOOD_RATE, 3)
    assert list(best.model.granularities) == result["best"]["model.granularities"]
    version = client.get_model_version_by_alias("mgray-interest", "challenger")
    assert str(version.version) == result["model"]["version"]
    full = client.get_run(version.run_id)
    assert full.data.tags["mlflow.parentRunId"] == result["run_id"]
    assert full.data.params["model.granularities"] == json.dumps(list(best.model.granularities))
    assert result["metrics"].keys() >= {"hr@10", "ndcg@10"}


def test_a_trial_is_the_same_training_as_a_run_of_its_own(here: None, tmp_path: Path, log: Path) -> None:
    from pipelines.train.job import run_training

    result = search(tmp_path, log, {"model.width": {"choice": [16]}}, num_trials=4)
    assert result["trials"] == {"finished": 1, "stopped": 0, "failed": 0}, "the space has one point, tried once"
    config = parse_args(TrainJobConfig, "jobs/train.py", ["--config", result["best_config"], "--home", str(tmp_path)])
    alone = run_training(config)
    run = MlflowClient(alone["tracking_uri"]).get_run(alone["run_id"])
    trial = runs_by_trial(tmp_path, result["run_id"])[0]
    assert trial.data.metrics["test/ndcg_at_10"] == pytest.approx(run.data.metrics["test/ndcg_at_10"], abs=1e-12)
    assert trial.data.metrics["valid/ndcg_at_10"] == pytest.approx(run.data.metrics["valid/ndcg_at_10"], abs=1e-12)


def test_a_failing_trial_is_recorded_and_ends_no_search(here: None, tmp_path: Path, log: Path) -> None:
    # Width 18 divides into no 4 heads of attention, and is well as a sum.
    space = {"model.width": {"choice": [16, 18]}, "model.fusion": {"choice": ["attention", "sum"]}}
    result = search(tmp_path, log, space, num_trials=9, scheduler=None)
    assert result["trials"] == {"finished": 3, "stopped": 0, "failed": 1}, "4 points, each tried once"
    failed = [run for run in runs_by_trial(tmp_path, result["run_id"]).values() if run.info.status == "FAILED"]
    assert len(failed) == 1
    assert "width (18) must be a multiple of heads (4)" in failed[0].data.tags["search.reason"]
    assert "width (18) must be a multiple of heads" in Path(result["search_report"]).read_text()


def spoil_items(shard: Path) -> None:
    """Break what a training reads, and not what the search looks at before its trials."""
    columns = pq.ParquetFile(shard).metadata.row_group(0)
    chunks = [columns.column(number) for number in range(columns.num_columns)]
    (items,) = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == "items"]
    content = bytearray(shard.read_bytes())
    begin = items.dictionary_page_offset if items.has_dictionary_page else items.data_page_offset
    content[begin : begin + items.total_compressed_size] = b"x" * items.total_compressed_size
    shard.write_bytes(content)


def test_when_all_fail_the_job_fails_with_the_first_reason(here: None, tmp_path: Path, log: Path) -> None:
    # The configuration fits the model to start from, and no point of the space does.
    given = settings(tmp_path, log, {"model.kernel": {"choice": [5, 7]}}, num_trials=2)
    earlier = write_model(tmp_path / "earlier", ["a"], [1], config=model_config(**TINY["model"]))
    given["train"] = {**given["train"], "warm_start": str(earlier)}
    from pipelines.tune.job import run_search

    reason = r"all 2 trials failed; the first \(trial 0\).*the earlier model differs in model\.kernel; take"
    with pytest.raises(InputError, match=reason) as raised:
        run_search(TuneJobConfig.model_validate(given))
    assert "\n" not in str(raised.value)

    # The data breaks after the search began: no fault of the settings
    space = {"model.width": {"choice": [16, 32]}}
    result = search(tmp_path / "other", log, space, num_trials=1)
    shard = next(Path(result["dataset"]["path"]).glob("*/*.parquet"), None)
    shard = shard or next(file for file in Path(result["dataset"]["path"]).glob("*.parquet") if "part" in file.name)
    spoil_items(shard)
    with pytest.raises(RuntimeError, match="the only trial failed"):
        search(tmp_path / "other", log, space, num_trials=1)
    client = MlflowClient(f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("mgray").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]


# --- drivers of their own -------------------------------------------------------------------------------------------


def job(home: Path, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "jobs/tune.py", "--home", str(home), *argv],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def result_of(process: "subprocess.Popen[str]", timeout_s: float) -> dict[str, Any]:
    stdout, stderr = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, stderr[-3000:]
    return json.loads(stdout.splitlines()[-1])


def trials_on_record(home: Path) -> dict[int, dict[str, Any]]:
    """Number -> what the journal says, read as a dead driver left it."""
    found: dict[int, dict[str, Any]] = {}
    for line in next((home / "searches").iterdir()).joinpath("journal.jsonl").read_text().splitlines():
        entry = json.loads(line)
        trial = found.setdefault(entry.get("trial_id", len(found)), {}) if entry["op_code"] != 0 else {}
        if "user_attr" in entry:
            trial |= entry["user_attr"]
        if entry["op_code"] == 6:
            trial["state"] = entry["state"]
    return found


COMPLETE, PRUNED = 1, 2  # Optuna's numbers of its states


def test_killed_and_resumed_it_loses_and_repeats_nothing(tmp_path: Path, log: Path) -> None:
    home = tmp_path / "home"
    space = {"train.learning_rate": {"loguniform": [1e-3, 2e-2]}, "model.granularities": {"choice": [[1], [1, 2]]}}
    given = settings(home, log, space, num_trials=4, max_concurrent=1)
    given["train"] = {**given["train"], "epochs": 25}  # so that a trial is under way when the driver dies
    file = tmp_path / "tune.yaml"
    file.write_text(yaml.safe_dump(given))
    process = job(home, "--config", str(file))
    ended: dict[int, dict[str, Any]] = {}
    try:
        deadline = time.monotonic() + 500
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
            if list(home.glob("searches/*/journal.jsonl")):
                trials = trials_on_record(home)
                ended = {number: t for number, t in trials.items() if t.get("state") in (COMPLETE, PRUNED)}
                if ended and any("seconds" in t and "state" not in t for t in trials.values()):
                    break
        assert process.poll() is None, "it was to be killed on its way"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
    before = trials_on_record(home)
    ended = {number: t for number, t in before.items() if t.get("state") in (COMPLETE, PRUNED)}
    under_way = {t["run_id"] for t in before.values() if "state" not in t and "run_id" in t}
    assert ended
    assert under_way
    models = {
        t["run_id"]: (home / "runs" / t["run_id"] / "model").stat().st_mtime_ns
        for t in ended.values()
        if t["state"] == COMPLETE
    }

    result = result_of(job(home, "--config", str(file), "--resume"), 600)
    assert result["resumed"]
    assert sum(result["trials"].values()) == 4
    after = trials_on_record(home)
    for number, trial in ended.items():
        assert after[number] == trial, "a trial that had ended is untouched"
    for run_id, touched in models.items():
        assert (home / "runs" / run_id / "model").stat().st_mtime_ns == touched
    runs = runs_by_trial(home, result["run_id"])
    assert len(runs) == 4, "an unfinished trial goes on in the run that it had"
    assert under_way <= {run.info.run_id for run in runs.values()}
    assert all(run.info.status in ("FINISHED", "KILLED") for run in runs.values())

    again = result_of(job(home, "--config", str(file), "--resume"), 300)
    assert (again["trials"], again["run_id"], again["best"]) == (result["trials"], result["run_id"], result["best"])
    assert trials_on_record(home) == after, "a search that is complete is not gone on with"

    other = job(home, "--resume", "--search.algorithm", "random")
    _, stderr = other.communicate(timeout=300)
    assert other.returncode == 2
    assert "differs in search.algorithm" in stderr.splitlines()[-1]


def test_trials_of_two_workers_on_two_cpus(tmp_path: Path, log: Path) -> None:
    """DDP in each trial, one trial at a time, the second stopped by ASHA: its workers' CPUs come back for the third."""
    home = tmp_path / "home"
    space = {"train.learning_rate": {"choice": [GOOD_RATE, BAD_RATE]}, "model.depth": {"choice": [1, 2]}}
    given = settings(home, log, space, num_trials=3, algorithm="random", seed=3)
    given["scale"] = {"num_workers": 2}
    file = tmp_path / "tune.yaml"
    file.write_text(yaml.safe_dump(given))
    process = job(home, "--config", str(file))
    try:
        result = result_of(process, 800)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert sum(result["trials"].values()) == 3
    assert result["trials"]["failed"] == 0
    assert result["trials"]["stopped"] >= 1
    assert result["best"]["train.learning_rate"] == GOOD_RATE
    runs = runs_by_trial(home, result["run_id"])
    assert runs[0].data.tags["workers"] == "2 CPU workers"
    assert all(run.info.status in ("FINISHED", "KILLED") for run in runs.values())

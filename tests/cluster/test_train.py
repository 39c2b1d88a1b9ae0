"""pipelines.train.job on a real local Ray, with a real MLflow: two small runs, what they leave, what a client gets."""

import json
import re
import shlex
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
import ray
import torch
from mlflow.tracking import MlflowClient

from mgray.config import EvalJobConfig, ExportJobConfig, TrackingConfig, TrainJobConfig
from mgray.config.command_line import flatten, parse_args
from mgray.data.dataset import Dataset
from mgray.errors import InputError
from mgray.serve.model_folder import Vocabulary
from mgray.serve.recommender import Recommender
from mgray.testing.synthetic import make_log
from pipelines.tracking import param_text
from tests.jobs.processes import environment
from tests.stores import give_store
from tests.train_runs import CLIENT, EPOCHS, ITEMS, NAME, USERS, Runs, kill_a_worker_after_a_checkpoint, settings

METRICS = {"hr@10", "ndcg@10", "mrr@10", "coverage@10"}
BASELINES = {"popularity", "popularity_recent", "cooccurrence"}


@pytest.fixture(scope="module")
def runs(ray_local: None, mlflow_apart: None, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    from pipelines.train.job import run_training

    home = tmp_path_factory.mktemp("train") / "home"
    make_log(USERS, ITEMS).write_csv(home.parent / "log.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
        two_workers = run_training(settings(home))
        one_worker = run_training(settings(home, num_workers=1))
    assert mlflow.active_run() is None
    return Runs(home, two_workers, one_worker, MlflowClient(two_workers["tracking_uri"]))


def test_the_result_names_all_that_was_made(runs: Runs) -> None:
    result, dataset = runs.two_workers, Dataset(runs.two_workers["dataset"]["path"])
    assert result["tracking_uri"] == f"sqlite:///{runs.home / 'mlflow.db'}"
    assert result["model"] == {"name": NAME, "version": "1"}
    assert set(result["metrics"]) == METRICS
    assert set(result["baselines"]) == BASELINES
    assert all(set(figures) == METRICS for figures in result["baselines"].values())
    for figures in (result["metrics"], *result["baselines"].values()):
        assert all(0 <= value <= 1 for value in figures.values())
    assert result["dataset"]["fingerprint"] == dataset.manifest.fingerprint
    assert dataset.folder.parent == runs.home / "datasets"
    assert result["rows"] == dataset.manifest.rows
    assert result["rows"]["read"] == result["rows"]["written"] > 1000
    assert {"ray_start", "ingest", "train", "baselines", "publish", "training"} <= set(result["seconds"])
    assert result["workers"] == "2 CPU workers"
    assert result["positions_s"] > 0
    assert result["unsent_metrics"] == 0
    report = Path(result["report"]).read_text(encoding="utf-8")
    assert report.lower().startswith("<!doctype html>")
    assert result["run_id"] in report
    saved = {path.name for path in Path(result["checkpoint"]).iterdir()}
    assert saved == {"weights.safetensors", "model.json", "vocabulary.arrow"}


def test_training_learns(runs: Runs) -> None:
    """Popularity cannot tell a ring's items apart; a step along the ring can be learned."""
    history = runs.client.get_metric_history(runs.two_workers["run_id"], "train/loss")
    assert history[-1].value < history[0].value
    assert runs.two_workers["metrics"]["ndcg@10"] > 2 * runs.two_workers["baselines"]["popularity"]["ndcg@10"]


def test_the_dataset_is_reused(runs: Runs) -> None:
    assert not runs.two_workers["dataset"]["reused"]
    assert runs.one_worker["dataset"] == runs.two_workers["dataset"] | {"reused": True}
    assert len([path for path in (runs.home / "datasets").iterdir() if not path.name.startswith(".")]) == 1


def test_one_worker_and_two_give_the_same_figures(runs: Runs) -> None:
    # fp32 sums in another order: a near-tie may fall the other way, and moves a figure by 1 / USERS.
    for name, value in runs.two_workers["metrics"].items():
        allowed = 3 / ITEMS if name.startswith("coverage") else 3 / USERS
        assert runs.one_worker["metrics"][name] == pytest.approx(value, abs=allowed), name
    assert runs.one_worker["baselines"] == runs.two_workers["baselines"]
    losses = [
        {m.step: m.value for m in runs.client.get_metric_history(result["run_id"], "train/loss")}
        for result in (runs.two_workers, runs.one_worker)
    ]
    assert losses[0].keys() == losses[1].keys()
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_the_run_has_params_and_tags(runs: Runs) -> None:
    run = runs.run(runs.two_workers)
    assert run.info.status == "FINISHED"
    config = flatten(settings(runs.home)) | {"model.norm": "layer", "model.memory": ("pairs",)}  # what `auto` came to
    uri = runs.two_workers["tracking_uri"]
    assert run.data.params == {key: param_text(value) for key, value in config.items()} | {"tracking.uri": uri}
    tags = run.data.tags
    assert tags["dataset_fingerprint"] == runs.two_workers["dataset"]["fingerprint"]
    assert tags["ray_version"] == ray.__version__
    assert tags["torch_version"] == torch.__version__
    assert tags["mlflow_version"] == mlflow.__version__
    assert tags["granularities"] == "1,4"
    assert tags["workers"] == "2 CPU workers"
    assert tags["valid_users_share"] == "1"
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert tags.get("git_commit") == (commit.stdout.strip() or None)


def test_the_run_has_metrics_by_step(runs: Runs) -> None:
    result, client = runs.two_workers, runs.client

    def steps(key: str) -> list[int]:
        return [metric.step for metric in client.get_metric_history(result["run_id"], key)]

    logged = steps("train/loss")
    assert len(logged) >= EPOCHS
    assert logged == list(range(2, 2 * len(logged) + 1, 2)), "a line each two steps, none twice"
    assert steps("train/learning_rate") == steps("train/positions_s") == steps("train/allreduce_bytes") == logged
    assert runs.run(result).data.metrics["train/allreduce_bytes"] > 0
    per_epoch, rest = divmod(steps("test/hr_at_10")[0], EPOCHS)
    assert rest == 0
    assert steps("valid/ndcg_at_10") == [per_epoch * epoch for epoch in range(1, EPOCHS + 1)]

    values = runs.run(result).data.metrics
    for name, value in result["metrics"].items():
        assert values[f"test/{name.replace('@', '_at_')}"] == pytest.approx(value)
    for baseline, figures in result["baselines"].items():
        for name, value in figures.items():
            assert values[f"baseline/{baseline}/{name.replace('@', '_at_')}"] == pytest.approx(value)
    for name, count in result["rows"].items():
        assert values[f"data/{name}_rows"] == count
    assert (values["data/users"], values["data/items"]) == (USERS, ITEMS)
    assert values["epoch"] == EPOCHS
    assert values["model/parameters"] > 0
    assert any(name.startswith("system/cpu") for name in values)


def test_the_run_has_its_artifacts(runs: Runs) -> None:
    result = runs.two_workers
    assert {entry.path for entry in runs.client.list_artifacts(result["run_id"])} >= {"report.html", "manifest.json"}
    manifest = mlflow.artifacts.load_dict(f"runs:/{result['run_id']}/manifest.json")
    assert manifest["fingerprint"] == result["dataset"]["fingerprint"]
    page = mlflow.artifacts.load_text(f"runs:/{result['run_id']}/ingest/report.html")
    assert page == (Path(result["dataset"]["path"]) / "report.html").read_text(encoding="utf-8")
    pictures = re.findall(r'<svg [^>]*aria-label="([^"]*)"', page)
    assert pictures == ["Events over time", "Users by history length, and share of events by item popularity"]
    assert "Nothing was dropped" in page


def test_the_first_model_is_champion_and_the_last_challenger(runs: Runs) -> None:
    assert runs.one_worker["model"] == {"name": NAME, "version": "2"}
    aliases = {alias: str(version) for alias, version in runs.client.get_registered_model(NAME).aliases.items()}
    assert aliases == {"champion": "1", "challenger": "2"}
    for result in (runs.two_workers, runs.one_worker):
        version = runs.client.get_model_version(NAME, result["model"]["version"])
        assert version.run_id == result["run_id"]
        assert version.tags["dataset_fingerprint"] == result["dataset"]["fingerprint"]
        assert float(version.tags["test/hr_at_10"]) == pytest.approx(result["metrics"]["hr@10"], abs=1e-6)


def test_nothing_of_the_model_is_pickled(runs: Runs, tmp_path: Path) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion", dst_path=str(tmp_path)))
    files = [path for path in folder.rglob("*") if path.is_file()]
    weights = {path.suffix for path in files if "artifacts" in path.relative_to(folder).parts}
    assert weights == {".safetensors", ".json", ".arrow"}
    assert not [path for path in files if path.suffix in {".pkl", ".pickle", ".cloudpickle", ".pt", ".pth", ".bin"}]
    code = {path.suffix for path in files if "artifacts" not in path.relative_to(folder).parts}
    text = {".py", ".typed", ".css", ".j2", ".json", ".txt", ".yaml", ".yml", ""}
    assert code <= text, "MLmodel is the one without a suffix"


def test_a_process_without_ray_gets_recommendations(runs: Runs, tmp_path: Path) -> None:
    dataset = Dataset(runs.two_workers["dataset"]["path"])
    known = ["i3", "i4", "i5"]
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, runs.two_workers["tracking_uri"], json.dumps(known)],
        cwd=tmp_path,
        env=environment(MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["columns"] == ["items", "scores"]
    assert [len(items) for items in answer["items"]] == [3, 3, 3]
    assert all(scores == sorted(scores, reverse=True) for scores in answer["scores"])
    assert not set(answer["items"][0]) & set(known), "what the user has is not recommended"
    assert (answer["items"][1], answer["scores"][1]) == (answer["items"][0], answer["scores"][0])
    assert "1 of 7 history items are unknown to this model" in done.stderr
    popularity = dict(zip(dataset.item_ids, Vocabulary.of(dataset).popularity[1:].tolist(), strict=True))
    assert [popularity[item] for item in answer["items"][2]] == sorted(popularity.values(), reverse=True)[:3]
    assert answer["default"] == 10
    assert "/code/" in answer["code"], "the package travels inside the model"
    assert [field["name"] for field in answer["inputs"] if field["required"]] == ["history"]
    assert [field["name"] for field in answer["inputs"]] == ["history", "candidates", "blocked"]
    assert [field["name"] for field in answer["outputs"]] == ["items", "scores"]
    assert answer["example"]


def test_evaluation_of_the_champion_gives_the_same_figures(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    from pipelines.evaluate.job import run_evaluation

    def evaluated(evaluate: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
        given = {"home": str(runs.home), "model": f"models:/{NAME}@champion", "data": data, "evaluate": evaluate or {}}
        return run_evaluation(EvalJobConfig.model_validate(given))

    result = evaluated(source=str(runs.home.parent / "log.csv"), num_shards=2)
    assert result["model"] == {"name": NAME, "version": "1"}
    # Batches of other sizes than the run's: the sums differ in the last bit.
    assert result["metrics"] == pytest.approx(runs.two_workers["metrics"])
    for name, figures in runs.two_workers["baselines"].items():
        assert result["baselines"][name] == pytest.approx(figures), name
    assert result["rows"]["queries"] == USERS
    assert (result["rows"]["unknown_targets"], result["rows"]["unknown_history_events"]) == (0, 0)
    assert evaluated(dataset=runs.two_workers["dataset"]["path"])["metrics"] == result["metrics"]
    assert "exclude_seen" not in capfd.readouterr().err
    kept = evaluated({"remove_seen": False}, dataset=runs.two_workers["dataset"]["path"])["metrics"]
    assert kept["ndcg@10"] < result["metrics"]["ndcg@10"]
    assert "exclude_seen" in capfd.readouterr().err, "why the figures are low"
    assert evaluated()["dataset"]["path"] == runs.two_workers["dataset"]["path"], "the model's own, where none is named"


def test_an_outage_costs_seconds_and_no_figure(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.tracking import Tracker

    # As on another node, which has nothing of the driver's environment.
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    run_id, spool = runs.one_worker["run_id"], tmp_path / "below" / "unsent.jsonl"
    tracker = Tracker("http://127.0.0.1:1", run_id, spool)
    tracker.log({"during@outage": 0.5}, 7)
    started = time.monotonic()
    with pytest.warns(UserWarning, match="MLflow did not take 1 metrics"):
        tracker.flush()
    assert time.monotonic() - started < 30
    assert len(spool.read_text().splitlines()) == tracker.num_lost == 1
    tracker.client = runs.client  # the server is back
    # A replay that was killed left its part under another name, and a full disk half a line.
    sending = spool.rename(spool.with_suffix(".sending"))
    sending.write_text(sending.read_text() + '["during_at_ou')
    with pytest.warns(UserWarning, match="is broken, and left out"):
        assert tracker.replay() == 0
    assert list(spool.parent.iterdir()) == []
    (metric,) = runs.client.get_metric_history(run_id, "during_at_outage")
    assert (metric.value, metric.step) == (0.5, 7)


def test_a_registry_that_fails_costs_the_version_alone(
    runs: Runs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from pipelines import tracking
    from pipelines.lifecycle.export import run_export
    from pipelines.tracking.registry import Registry
    from pipelines.train.job import run_training

    asked = settings(runs.home, num_workers=1).model_dump(exclude_unset=True)
    asked["train"] |= {"epochs": 1}
    asked["tracking"] |= {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    config = TrainJobConfig.model_validate(asked)
    give_store(tmp_path)
    tracking.open_tracking(config.tracking, runs.home)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        # It can be read, as it is before the training, and takes no version.
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON model_versions BEGIN SELECT RAISE(FAIL, 'the disk is full'); END"
        )
    try:
        with pytest.raises(RuntimeError, match="the model is not in the registry") as raised:
            run_training(config)
    finally:  # a job leaves its MLflow to the process, and this one is broken
        tracking.open_tracking(TrackingConfig(uri=runs.two_workers["tracking_uri"]), runs.home)
    told = capfd.readouterr().err
    assert "cooccurrence" in told, "the figures of the training come first"
    (report,) = re.findall(r"report: (.*)", told)
    assert "not registered" in Path(report).read_text()
    folder = Path(report).parent / "model"
    assert str(folder) in str(raised.value)
    assert len(Recommender(folder).recommend([[]], k=3).items[0]) == 3
    # The command that it names registers the model, once MLflow is well, with all that it would have had.
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("DROP TRIGGER full")
    (command,) = re.findall(r"this registers it: python jobs/export\.py (.*)", str(raised.value))
    result = run_export(parse_args(ExportJobConfig, "jobs/export.py", shlex.split(command)))
    tracking.open_tracking(TrackingConfig(uri=runs.two_workers["tracking_uri"]), runs.home)
    assert result["registered"] == {"name": NAME, "version": "1"}
    assert (result["path"], result["was"]) == (str(folder), result["now"])
    registry = Registry(result["tracking_uri"], NAME)
    version, whole = registry.champion(), Registry(runs.two_workers["tracking_uri"], NAME).find(1)
    assert version is not None
    assert version.run_id == folder.parent.name
    assert version.tags.keys() == whole.tags.keys() | {"registered_from"}
    assert registry.manifest(version) == Dataset(runs.two_workers["dataset"]["path"]).manifest
    run = registry.client.get_run(folder.parent.name)
    assert run.info.status == "FINISHED"
    assert float(version.tags["test/ndcg_at_10"]) == pytest.approx(run.data.metrics["test/ndcg_at_10"], abs=1e-6)
    assert version.description.startswith(whole.description.splitlines()[0][:20])


def test_a_diverged_training_ends_once_and_registers_nothing(runs: Runs) -> None:
    from pipelines.train.job import run_training

    diverging = settings(runs.home)
    diverging = diverging.model_copy(update={"train": diverging.train.model_copy(update={"learning_rate": 1e30})})
    versions = len(runs.client.search_model_versions(f"name='{NAME}'"))
    with pytest.raises(InputError, match="training has diverged"):
        run_training(diverging)
    assert len(runs.client.search_model_versions(f"name='{NAME}'")) == versions
    last = runs.client.search_runs([runs.run(runs.one_worker).info.experiment_id], max_results=1)[0]
    assert last.info.status == "FAILED"
    assert last.data.metrics["data/users"] == USERS, "what was logged before it"


def test_a_warm_start_takes_from_the_earlier_model_what_the_data_would_decide_anew(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.train.job import run_training

    earlier = runs.run(runs.one_worker).data.params
    assert earlier["model.norm"] == "layer"
    monkeypatch.setattr("mgray.train.resolve.NORM", "batch")  # by a later version's rule
    asked = settings(runs.home, num_workers=1).model_dump(exclude_unset=True)
    asked["train"] |= {"warm_start": f"models:/{NAME}@champion", "epochs": 1}
    asked["tracking"] |= {"register_model": False}
    result = run_training(TrainJobConfig.model_validate(asked))
    params = runs.run(result).data.params
    assert (params["model.norm"], params["model.inputs"]) == (earlier["model.norm"], earlier["model.inputs"])
    loss = [runs.client.get_metric_history(r["run_id"], "train/loss")[0].value for r in (runs.one_worker, result)]
    assert loss[1] < 0.9 * loss[0], "it goes on, and does not begin anew"


def test_a_training_that_time_ended_says_so(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    from pipelines.train.job import run_training

    asked = settings(runs.home, num_workers=1).model_dump(exclude_unset=True)
    asked["train"] |= {"epochs": 100_000, "max_time_s": 2.0, "validate_every_epochs": 100_000}
    asked["tracking"] |= {"register_model": False}
    assert "2 s of training" not in capfd.readouterr().err
    result = run_training(TrainJobConfig.model_validate(asked))
    for told in (capfd.readouterr().err, Path(result["report"]).read_text()):
        assert "2 s of training (train.max_time_s) were enough for" in told
        assert "of 100000 epochs" in told


def test_a_killed_worker_does_not_change_the_run(runs: Runs) -> None:
    from pipelines.train.job import run_training

    home = runs.home.with_name("home_of_the_killed")
    give_store(home)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after_a_checkpoint, args=(home / "runs", killed), daemon=True)
    killer.start()
    result = run_training(settings(home))
    killer.join()
    assert killed, "training was over before the first checkpoint was seen"
    # Order, negatives and dropout are drawn from (seed, step), so the run goes on as if nothing had happened.
    assert result["metrics"] == runs.two_workers["metrics"]
    client = MlflowClient(result["tracking_uri"])
    both = [
        {metric.step for metric in c.get_metric_history(r["run_id"], "valid/ndcg_at_10")}
        for c, r in ((client, result), (runs.client, runs.two_workers))
    ]
    assert both[0] == both[1]
    steps = [metric.step for metric in client.get_metric_history(result["run_id"], "test/hr_at_10")]
    assert steps == [max(both[1])]

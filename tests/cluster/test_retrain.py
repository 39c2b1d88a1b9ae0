"""The retraining loop on a real local Ray and a real MLflow (SQLite): what each run does, and what it leaves alone."""

import itertools
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from mgray.config import PromoteJobConfig, RetrainJobConfig, RollbackJobConfig
from mgray.errors import InputError
from mgray.testing.synthetic import make_log
from pipelines.lifecycle import retrain
from pipelines.lifecycle.promote import run_promote, run_rollback
from pipelines.runtime.job import run_job
from pipelines.runtime.lock import LOCK_FILE, retrain_lock
from pipelines.tracking.registry import Registry
from tests.stores import give_store

NAME = "mgray-interest"
TINY = {
    "model.width": 8,
    "model.heads": 2,
    "model.granularities": "[1,4]",
    "train.epochs": 2,
    "retrain.warm_epochs": 1,
    "train.validate_every_epochs": 1,
    "train.num_negatives": 16,
    "scale.num_workers": 1,
    "scale.use_gpu": "false",
    "data.num_shards": 1,
    "data.min_user_events": 3,
    "gate.min_slice_queries": 100000,
    "tracking.system_metrics": "false",
}


def uri(home: Path) -> str:
    """Said to every job: MLflow keeps the last one in the environment of the process, which the tests share."""
    return f"sqlite:///{home / 'mlflow.db'}"


class Shop:
    """A HOME, a folder of log files, and the jobs over them as their command lines run them."""

    def __init__(self, folder: Path) -> None:
        self.home, self.logs = folder / "home", folder / "logs"
        give_store(self.home)
        self.logs.mkdir()
        log = make_log(num_users=60, num_items=30, mean_events=20).sort("timestamp", maintain_order=True)
        cuts = [0, 600, 800, 1000, log.height]
        self.slices = [log[begin:end] for begin, end in itertools.pairwise(cuts)]

    def add_file(self, number: int) -> Path:
        path = self.logs / f"day-{number}.csv"
        self.slices[number].write_csv(path)
        return path

    def run(self, capsys: pytest.CaptureFixture, **settings: Any) -> dict[str, Any]:
        """jobs/retrain.py -> its result line, or {"exit": code, "error": text}."""
        given = {**TINY, "home": self.home, "data.source": self.logs, "tracking.uri": uri(self.home)} | {
            key.replace("__", "."): value for key, value in settings.items()
        }
        argv = [f"--{key}={value}" for key, value in given.items()]
        return run("retrain", RetrainJobConfig, retrain.run_retrain, argv, capsys)

    @property
    def registry(self) -> Registry:
        return Registry(uri(self.home), NAME)

    def runs(self) -> list[str]:
        client = self.registry.client
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return [run.info.run_id for run in client.search_runs(experiments)]

    def champion(self) -> str:
        champion = self.registry.champion()
        assert champion is not None
        return champion.version

    def tree(self) -> dict[str, int]:
        """Every file below HOME but MLflow's own database, with its size."""
        files = (path for path in self.home.rglob("*") if path.is_file() and "mlflow.db" not in path.name)
        return {str(path.relative_to(self.home)): path.stat().st_size for path in files}


def run(name: str, schema: Any, pipeline: Callable, argv: list[str], capsys: pytest.CaptureFixture) -> dict[str, Any]:
    capsys.readouterr()
    code = run_job(name, schema, pipeline, argv)
    captured = capsys.readouterr()
    if code:
        return {"exit": code, "error": captured.err.strip().splitlines()[-1]}
    return json.loads(captured.out.splitlines()[-1])


@pytest.fixture(scope="module")
def shop(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """One shop for the tests below that go through it in order, as its days do."""
    return Shop(tmp_path_factory.mktemp("shop"))


def test_1_the_first_run_trains_from_scratch(shop: Shop, capsys: pytest.CaptureFixture) -> None:
    shop.add_file(0)
    line = shop.run(capsys)
    assert (line["job"], line["status"], line["action"], line["champion"]) == ("retrain", "ok", "first", None)
    assert line["challenger"] == {"name": NAME, "version": "1"}
    assert line["files"] == {"new": ["day-0.csv"], "known": 0, "missing": []}
    assert shop.champion() == "1"
    version = shop.registry.find(1)
    assert version.tags["decision"] == "promoted"
    for part in ("## Trained on", "day-0.csv", "## Quality", "history, events", "## Intended use", "## Limits"):
        assert part in version.description
    assert "no champion yet" in version.description


def test_2_nothing_new_says_so(shop: Shop, capsys: pytest.CaptureFixture) -> None:
    line = shop.run(capsys)
    assert (line["action"], line["champion"]["version"], line["files"]["known"]) == ("nothing_new", "1", 1)
    assert line["reasons"] == ["all 1 files of the log are in the data of version 1"]
    assert not (shop.home / LOCK_FILE).exists()


def test_3_a_dry_run_changes_nothing(shop: Shop, capsys: pytest.CaptureFixture) -> None:
    shop.add_file(1)
    before, versions = shop.tree(), shop.registry.versions()
    runs = shop.runs()
    line = shop.run(capsys, retrain__dry_run="true", gate__min_improvement="none")
    assert (line["action"], line["dry_run"], line["challenger"]) == ("would_promote", True, None)
    assert line["metrics"]["challenger"]["ndcg@10"] > 0
    assert shop.tree() == before
    assert shop.registry.versions() == versions
    assert shop.runs() == runs


def test_4_a_refused_challenger_is_kept_back_with_reasons(
    shop: Shop, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    (shop.logs / "notes.txt").touch()
    line = shop.run(capsys, gate__min_improvement=10)
    left_out = [message for message in caplog.messages if "left out" in message]
    assert len(left_out) == 1, "once, though the log is looked at for new files and then ingested"
    assert "notes.txt" in left_out[0]
    (shop.logs / "notes.txt").unlink()
    assert (line["action"], line["champion"]["version"], line["challenger"]["version"]) == ("kept", "1", "2")
    assert line["files"]["new"] == ["day-1.csv"]
    assert "must be above +10.0000: refused" in line["reasons"][0]
    assert 0 < line["window"]["users"] <= line["window"]["queries"]
    assert line["drift"]["num_new_events"] > 0
    assert line["drift"]["items"] is not None
    assert shop.champion() == "1"
    version = shop.registry.find(2)
    assert version.tags["decision"] == "kept"
    assert version.tags["decision_reasons"].splitlines() == line["reasons"]
    assert float(version.tags["drift_items"]) == line["drift"]["items"]
    assert "Started from models:/mgray-interest/1" in version.description
    assert "must be above +10.0000: refused" in version.description
    assert len(version.description) <= 5000


def test_5_what_was_decided_is_not_trained_again(
    shop: Shop, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain, "train_model", lambda config: pytest.fail("trained again"))
    again = shop.run(capsys, gate__min_improvement=10)
    assert again["action"] == "nothing_new"
    assert again["reasons"][0] == "version 2 was trained on these files and kept"
    # another gate asks again, of the same version
    line = shop.run(capsys, gate__min_improvement="none")
    assert (line["action"], line["challenger"]["version"], line["dataset"]["reused"]) == ("promoted", "2", True)
    assert shop.champion() == "2"
    assert shop.registry.history() == ["1", "2"]
    assert shop.run(capsys, gate__min_improvement="none")["action"] == "nothing_new"


def test_6_a_run_that_died_is_finished_by_the_next(
    shop: Shop, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.add_file(2)

    def die(*_: object) -> None:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(retrain, "compare", die)
        assert shop.run(capsys, gate__min_improvement="none") == {"exit": 1, "error": "RuntimeError: killed here"}
    assert shop.champion() == "2"
    assert "decision" not in shop.registry.find(3).tags
    monkeypatch.setattr(retrain, "train_model", lambda config: pytest.fail("trained again"))
    line = shop.run(capsys, gate__min_improvement="none")
    assert (line["action"], line["challenger"]["version"]) == ("promoted", "3")


def test_7_a_broken_log_changes_nothing(shop: Shop, capsys: pytest.CaptureFixture) -> None:
    broken = shop.add_file(3)
    broken.write_text(broken.read_text().replace(",160", ",soon", 1))
    before = shop.tree()
    failed = shop.run(capsys)
    assert failed["exit"] == 2
    assert "day-3.csv, line 2" in failed["error"]
    broken.write_text("who,what\nu1,i1\n")
    failed = shop.run(capsys)
    assert failed["exit"] == 2
    assert "user_id" in failed["error"]
    assert (shop.tree(), shop.champion()) == (before, "3")
    broken.unlink()


def test_7b_another_id_space_is_refused(shop: Shop, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    renamed = pl.format("sku-{}", pl.col("item_id")).alias("item_id")
    shop.slices[0].with_columns(renamed).write_csv(tmp_path / "other.csv")
    failed = shop.run(capsys, data__source=tmp_path)
    assert failed["exit"] == 2
    assert "its item ids are others" in failed["error"]


def test_7c_another_shape_than_champions_needs_a_start_from_scratch(shop: Shop, capsys: pytest.CaptureFixture) -> None:
    path = shop.add_file(3)
    failed = shop.run(capsys, model__width=16)
    path.unlink()
    assert failed["exit"] == 2
    assert "model.width: 16, but champion, from which training starts, has 8" in failed["error"]


def promote(shop: Shop, capsys: pytest.CaptureFixture, *argv: str) -> dict[str, Any]:
    settings = [f"--home={shop.home}", f"--tracking.uri={uri(shop.home)}", "--gate.min_slice_queries=100000", *argv]
    return run("promote", PromoteJobConfig, run_promote, settings, capsys)


def rollback(home: Path, capsys: pytest.CaptureFixture, name: str = NAME) -> dict[str, Any]:
    argv = [f"--home={home}", f"--tracking.uri={uri(home)}", f"--tracking.model_name={name}", "--reason=it was slow"]
    return run("rollback", RollbackJobConfig, run_rollback, argv, capsys)


def test_8_promotion_by_version_goes_through_the_gate(shop: Shop, capsys: pytest.CaptureFixture) -> None:
    refused = promote(shop, capsys, "--version=1", "--gate.min_improvement=10")
    assert (refused["action"], shop.champion()) == ("kept", "3")
    assert refused["dataset"]["fingerprint"] == shop.registry.find(3).tags["dataset_fingerprint"]
    line = promote(shop, capsys, "--version=1", "--gate.min_improvement=none", "--reason=the old one")
    assert (line["action"], shop.champion()) == ("promoted", "1")
    assert shop.registry.find(1).tags["decision_reasons"].startswith("the old one\n")
    assert promote(shop, capsys, "--version=1")["action"] == "already_champion"
    assert promote(shop, capsys, "--version=9")["error"].endswith("no such version (there are: 1, 2, 3)")
    assert promote(shop, capsys)["exit"] == 2
    assert promote(shop, capsys, "--version=2", "--skip_gate=true")["exit"] == 2

    assert rollback(shop.home, capsys)["champion"]["version"] == "3"
    assert shop.registry.find(1).tags["decision"] == "rolled_back"


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HOME with a database."""
    home = tmp_path_factory.mktemp("home")
    give_store(home)
    return home


def make_versions(home: Path, name: str, count: int) -> Registry:
    """Registered versions without models: the registry's moves need none."""
    registry = Registry(uri(home), name)
    registry.client.create_registered_model(name)
    for _ in range(count):
        registry.client.create_model_version(name, source=str(home))
    registry.client.set_registered_model_alias(name, "champion", "1")
    return registry


def test_rollback_goes_one_step_each_time(empty_home: Path, capsys: pytest.CaptureFixture) -> None:
    registry = make_versions(empty_home, "steps", 4)
    for number in (2, 4):
        registry.promote(registry.find(number), expected=registry.champion())
    assert registry.history() == ["1", "2", "4"]
    line = rollback(empty_home, capsys, "steps")
    assert (line["champion"]["version"], line["former"]["version"], line["history"]) == ("2", "4", ["1", "2"])
    assert "rolled back to version 2: it was slow" in registry.find(4).description
    assert rollback(empty_home, capsys, "steps")["champion"]["version"] == "1"
    failed = rollback(empty_home, capsys, "steps")
    assert failed["exit"] == 2
    assert "version 1 is the first champion on record" in failed["error"]
    # a version may come back after a rollback, and be rolled back again
    registry.promote(registry.find(4), expected=registry.champion())
    assert registry.history() == ["1", "4"]


def test_an_alias_moved_by_hand_counts(empty_home: Path, capsys: pytest.CaptureFixture) -> None:
    registry = make_versions(empty_home, "by-hand", 5)
    for number in (2, 3):
        registry.promote(registry.find(number), expected=registry.champion())
    by_hand = registry.client
    # to a version that never was champion: a promotion, so rollback goes to the last champion
    by_hand.set_registered_model_alias("by-hand", "champion", "5")
    assert registry.history() == ["1", "2", "3", "5"]
    assert rollback(empty_home, capsys, "by-hand")["champion"]["version"] == "3"
    # to an earlier champion: a rollback by hand, so rollback goes on from there
    by_hand.set_registered_model_alias("by-hand", "champion", "2")
    assert rollback(empty_home, capsys, "by-hand")["champion"]["version"] == "1"
    # a promotion after a move by hand keeps what was moved away from
    by_hand.set_registered_model_alias("by-hand", "champion", "4")
    registry.promote(registry.find(5), expected=registry.champion())
    assert registry.history() == ["1", "4", "5"]
    # a deleted version is passed over
    by_hand.delete_model_version("by-hand", "4")
    assert rollback(empty_home, capsys, "by-hand")["champion"]["version"] == "1"


def test_a_champion_that_changed_meanwhile_is_not_overrun(empty_home: Path) -> None:
    registry = make_versions(empty_home, "raced", 3)
    judged_against = registry.champion()
    registry.promote(registry.find(2), expected=judged_against)
    with pytest.raises(InputError, match="champion was 1 when the gate decided and is 2 now"):
        registry.promote(registry.find(3), expected=judged_against)


def write_lock(home: Path, **changes: Any) -> None:
    me = psutil.Process()
    holder = {
        "pid": me.pid,
        "host": socket.gethostname(),
        "process_started": me.create_time(),
        "locked_at": time.time(),
        "token": "another's",
    }
    (home / LOCK_FILE).write_text(json.dumps(holder | changes))


def test_two_at_once_the_second_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_lock(tmp_path)
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,i,1\n")
    argv = [f"--home={tmp_path}", f"--data.source={tmp_path / 'log.csv'}"]
    failed = run("retrain", RetrainJobConfig, retrain.run_retrain, argv, capsys)
    assert failed["exit"] == 2
    assert failed["error"].startswith(f"error: another retraining runs already (process {os.getpid()} on ")
    assert json.loads((tmp_path / LOCK_FILE).read_text())["token"] == "another's"


@pytest.mark.parametrize(
    "left",
    [
        {"pid": 2**22 + 1},  # beyond Linux's largest pid
        {"process_started": 5.0},  # the pid went to another process
        {"locked_at": time.time() - 7300},
        {"host": "elsewhere", "locked_at": time.time() - 7300},
    ],
)
def test_a_lock_left_behind_heals(tmp_path: Path, left: dict[str, Any]) -> None:
    write_lock(tmp_path, **left)
    with retrain_lock(tmp_path, timeout_s=7200) as lock:
        assert lock.is_held()
    assert not (tmp_path / LOCK_FILE).exists()


def test_another_hosts_lock_holds_until_its_time(tmp_path: Path) -> None:
    write_lock(tmp_path, host="elsewhere", pid=2**22 + 1)
    with pytest.raises(InputError, match="on elsewhere"), retrain_lock(tmp_path, timeout_s=7200):
        pass


def test_a_lock_taken_over_is_not_removed_by_its_former_holder(tmp_path: Path) -> None:
    with retrain_lock(tmp_path, timeout_s=7200) as lock:
        write_lock(tmp_path)
        assert not lock.is_held()
    assert (tmp_path / LOCK_FILE).exists()


def test_a_file_that_is_no_lock_holds_for_its_age(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("{")
    with pytest.raises(InputError, match="another retraining"), retrain_lock(tmp_path, timeout_s=7200):
        pass
    old = time.time() - 7300
    os.utime(tmp_path / LOCK_FILE, (old, old))
    with retrain_lock(tmp_path, timeout_s=7200) as lock:
        assert lock.is_held()

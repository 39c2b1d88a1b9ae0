"""A rank's whole run with train.include_valid: nothing is validated, a killed one goes on, the model says it."""

from pathlib import Path

import polars as pl
import pytest

from mgray.config import TrainJobConfig
from mgray.serve.model_folder import load_info
from mgray.testing.synthetic import make_log
from mgray.train.resolve import resolve_job
from pipelines import tracking
from pipelines.train.job import Fitted, fit_here
from pipelines.train.worker import RankInput
from tests.datasets import write_dataset
from tests.stores import give_store


class KilledError(Exception):
    pass


@pytest.fixture
def rank(tmp_path: Path, mlflow_apart: None) -> RankInput:
    log = make_log(60, 20).sort("user_id", "timestamp")
    items = log["item_id"].to_list()
    items[-2] = "only-valid"  # has no number, and must not be trained on
    dataset = write_dataset(tmp_path / "dataset", log.with_columns(pl.Series("item_id", items)))
    config = TrainJobConfig.model_validate(
        {
            "model": {"width": 16, "heads": 2},
            "train": {
                "epochs": 3,
                "validate_every_epochs": 1,
                "global_batch_events": 256,
                "max_time_s": None,
                "include_valid": True,
            },
            "tracking": {"system_metrics": False},
        }
    )
    give_store(tmp_path)
    uri = tracking.open_tracking(config.tracking, tmp_path)
    with tracking.start_run(config.tracking, {}, {}, "include-valid") as run:
        run_id = run.info.run_id
    spool = tmp_path / "runs" / run_id / "unsent.jsonl"
    resolved = resolve_job(config, dataset.manifest)
    return RankInput(resolved.model_dump_json(), str(dataset.folder), run_id, uri, str(spool), None, None)


def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path, rank: RankInput) -> None:
    reported: list[dict[str, float]] = []

    def train(runs: str, kill_at: float | None = None) -> Fitted:
        def on_report(metrics: dict[str, float]) -> None:
            reported.append(metrics)
            if metrics["epoch"] == kill_at:
                raise KilledError

        return fit_here(rank, tmp_path / runs, on_report)

    whole, folder = train("whole")
    assert [set(metrics) for metrics in reported] == [{"step", "epoch", "seconds"}] * 3
    with pytest.raises(KilledError):
        train("killed", kill_at=2.0)
    resumed, _ = train("killed")
    assert [point.epoch for point in resumed.curve] == [1, 2, 3]
    assert resumed.metrics == whole.metrics
    assert (resumed.best_valid, resumed.best_epoch) == ({}, 3)
    assert all(point.valid == {} for point in resumed.curve)
    info = load_info(folder)
    assert (info.include_valid, info.exclude_seen) == (True, True)

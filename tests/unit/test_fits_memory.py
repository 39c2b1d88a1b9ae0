"""What a training's item tables take of memory, by hand, and the line that refuses what does not fit."""

from pathlib import Path

import pytest
import torch

from mgray.config import ModelConfig, ResolvedTrainConfig, ResolvedTrainJobConfig, TrainConfig, TrainJobConfig
from mgray.errors import InputError
from mgray.testing.synthetic import make_log
from mgray.train import fits_memory
from mgray.train.fits_memory import check_fits_memory, table_bytes
from mgray.train.resolve import resolve_job
from pipelines.train.worker import LocalSession, RankInput, RankRun
from tests.datasets import write_dataset
from tests.models import model_config

CPU = torch.device("cpu")
MILLION = 10**6


def job(train: dict | None = None, **model: object) -> ResolvedTrainJobConfig:
    options = {"max_time_s": None, "global_batch_events": 4096, "num_negatives": 2048, **(train or {})}
    return ResolvedTrainJobConfig(model=model_config(width=64, **model), train=ResolvedTrainConfig(**options))


@pytest.mark.parametrize(
    ("config", "ranks", "width", "copies"),
    [
        (job(), 1, 64, 4),
        (job(), 8, 64, 4),  # rows alone are all-reduced
        (job({"loss": "softmax"}), 1, 64, 5),  # the gradient of all items
        (job({"loss": "softmax"}), 2, 64, 6),  # and DDP's bucket
        (job({"ema_decay": 0.999}), 1, 64, 6),
        (job(members=3), 1, 192, 4),
        (job(outputs="both", inputs=("rating",)), 1, 64 + 1 + 3 * 64, 4),  # the rating head's bias and three vectors
    ],
)
def test_bytes_by_hand(config: ResolvedTrainJobConfig, ranks: int, width: int, copies: int) -> None:
    found = table_bytes(config, MILLION - 1, ranks)
    assert (found.table, found.copies) == (MILLION * width * 4, copies)
    assert found.total == MILLION * (width * 4 * copies + 48)


def test_a_catalogue_that_does_not_fit_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million items of 64 numbers: four tables of 256 MB and 48 MB of counts, 1.072 GB."""
    monkeypatch.setattr(fits_memory, "free_bytes", lambda device: 1_072_000_000)
    check_fits_memory(job(), MILLION - 1, CPU)
    monkeypatch.setattr(fits_memory, "free_bytes", lambda device: 872_000_000)
    with pytest.raises(InputError) as caught:
        check_fits_memory(job(), MILLION - 1, CPU)
    assert str(caught.value).startswith(
        "model.width: 999,999 items want 1.07 GB a worker (4 times 0.26 GB: weights, moments, copies; and 0.05 GB of "
        "counts), 1.07 GB for 1 on "
    )
    assert "0.20 GB are missing; lower model.width (64), or the items by data.min_item_count" in str(caught.value)
    monkeypatch.setattr(fits_memory, "free_bytes", lambda device: None)  # not known, not refused
    check_fits_memory(job(), MILLION - 1, CPU)


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    """A limit of 1,000 bytes of which 700 are used, 200 of them pages of files."""
    for name, text in {"max": "1000\n", "current": "700\n", "stat": "anon 500\ninactive_file 200\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert fits_memory._free_of_group(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert fits_memory._free_of_group(tmp_path) is None


def test_a_worker_refuses_before_it_makes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_dataset(tmp_path / "v", make_log(20, 30))
    asked = TrainJobConfig(model=ModelConfig(width=16, granularities=(1,)), train=TrainConfig(epochs=1))
    config = resolve_job(asked, dataset.manifest)
    monkeypatch.setattr(fits_memory, "free_bytes", lambda device: 1000)
    monkeypatch.setattr("pipelines.train.worker.make_model", lambda *_: pytest.fail("a model was made"))
    given = RankInput(config.model_dump_json(), str(dataset.folder))
    with pytest.raises(InputError, match=r"model\.width: 30 items want .* GB are missing"):
        RankRun(given, LocalSession(tmp_path / "state", lambda _: None, CPU))

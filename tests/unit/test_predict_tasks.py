"""A scoring worker's part, scored in this process: no Ray is needed to run what the workers run."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch

from mgray.data.dataset import Dataset
from mgray.model.mgdsc import MGDSC
from mgray.serve.model_folder import ModelInfo, Vocabulary, save_model
from mgray.serve.recommender import Recommender
from mgray.serve.request import raw_lists
from pipelines.predict.tasks import PartScorer, PredictJob, plan_parts
from tests.datasets import write_dataset
from tests.models import model_config
from tests.perturbed import perturbed

CONFIG = model_config(
    width=8, granularities=(1, "session:30m"), heads=2, inputs=("event_type", "features", "rating", "hour")
)


def make_dataset(folder: Path) -> Dataset:
    random = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user_id": [f"u{i % 12}" for i in range(120)],
            "item_id": [f"i{i}" for i in random.integers(0, 20, 120)],
            "timestamp": 1.6e9 + np.arange(120) * 600.0,
            "rating": random.integers(1, 6, 120).astype(float),
            "event_type": np.array([*"xyz"])[random.integers(0, 3, 120)],
            "feature:price": random.random(120) * 100,
        }
    )
    return write_dataset(folder, log)


def test_a_part_holds_what_a_service_would_answer(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "dataset")
    # a model of another vocabulary: the items the other way round, one of them missing, and one type more
    items = dataset.item_ids[:0:-1]
    spec = dataset.input_spec(CONFIG).model_copy(update={"event_types": ("w", "z", "y")})
    torch.manual_seed(0)
    info = ModelInfo(config=CONFIG, num_items=len(items), max_length=6, dataset_fingerprint="test", inputs=spec)
    model = perturbed(MGDSC(CONFIG, len(items), spec))
    save_model(tmp_path / "model", model.state_dict(), info, Vocabulary(items, items, [1] * len(items)))
    job = PredictJob(
        dataset=dataset.folder,
        model=tmp_path / "model",
        folder=tmp_path,
        parts=plan_parts(dataset.manifest, 1000),
        k=5,
        remove_seen=True,
        blocked=None,
        batch_events=100,
        threads=1,
        use_gpu=False,
    )
    scorer, recommender = PartScorer(job), Recommender(tmp_path / "model")
    assert scorer.error is None
    for part in range(len(job.parts)):
        written = pq.read_table(tmp_path / scorer.score(part).file).to_pylist()
        histories = dataset.read(part, recommender.scorer.columns)
        raw = raw_lists([histories.row(row) for row in range(len(histories.user_ids))], dataset, spec)
        served = recommender.recommend(raw["history"], 5, beside=raw)
        rows = [(user, item) for user, found in zip(histories.user_ids, served.items, strict=True) for item in found]
        assert [(row["user_id"], row["item_id"]) for row in written] == rows

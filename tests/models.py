"""Small untrained models: what serving and scoring do does not depend on how good a model is."""

from pathlib import Path
from typing import Any

import torch

from mgray.config import ResolvedModelConfig, TrackingConfig
from mgray.data.dataset import Dataset
from mgray.model.mgdsc import MGDSC
from mgray.serve.model_folder import ModelInfo, Vocabulary, save_model
from tests.stores import give_store

MAX_LENGTH = 50


def model_config(**options: Any) -> ResolvedModelConfig:
    """A config with what mgray.train.resolve would choose by a dataset already chosen."""
    return ResolvedModelConfig(**{"dropout": 0.5, "norm": "layer"} | options)


MODEL = model_config(width=16, granularities=(1, 4), heads=2)


def write_model(
    folder: Path,
    item_ids: list[str],
    counts: list[int],
    seed: int = 0,
    config: ResolvedModelConfig = MODEL,
    **info: Any,
) -> Path:
    """A model folder whose vocabulary is `item_ids`, with `counts` training events each; info: more of ModelInfo."""
    torch.manual_seed(seed)
    model = MGDSC(config, len(item_ids))
    info = {"dataset_fingerprint": "test"} | info
    whole = ModelInfo(config=config, num_items=len(item_ids), max_length=MAX_LENGTH, **info)
    save_model(folder, model.state_dict(), whole, Vocabulary(item_ids, item_ids, counts))
    return folder


def register_model(home: Path, dataset: Dataset) -> Path:
    """A model of the dataset's vocabulary as champion in the registry of `home`; gives its folder."""
    import mlflow

    from pipelines import tracking
    from pipelines.tracking.store import sqlite_uri

    folder = write_model(home / "model", dataset.item_ids, dataset.item_counts[1:].tolist())
    config = TrackingConfig(uri=sqlite_uri(home / "mlflow.db"), system_metrics=False)
    give_store(home)
    tracking.open_tracking(config, home)
    with tracking.start_run(config, {}, {}, "test"):
        mlflow.log_dict(dataset.manifest.model_dump(mode="json"), "manifest.json")
        tracking.register(config, folder, {"history": [dataset.item_ids[:2]]}, {})
    return folder

"""Resolution of what a configuration leaves to the data (`auto`), by stated rules; no rule knows a dataset by name.

Done once a job, on the driver, by `resolve_job`; ranks, model folder, report and card take its result.
"""

import math
from typing import Any

from mgray.config import (
    ModelConfig,
    ResolvedModelConfig,
    ResolvedTrainConfig,
    ResolvedTrainJobConfig,
    TrainConfig,
    TrainJobConfig,
)
from mgray.config.model import MemoryKind
from mgray.data.dataset import Dataset
from mgray.data.inputs import resolve_inputs
from mgray.data.manifest import Manifest
from mgray.errors import InputError
from mgray.serve.model_folder import ModelInfo

DROPOUT_AT_100K = 0.5  # of 100,000 training events
DROPOUT_PER_DECADE = 0.25  # less for ten times the events
DROPOUT_RANGE = (0.1, 0.5)
# Batch normalization was worth its time on a small log of long histories in batches of 4,096; in the batches that such
# a log has now layer normalization is ahead, and needs no reduction over the workers.
NORM = "layer"
# When a model is trained on: no weights depend on them.
FREE_TO_CHANGE = frozenset({"dropout", "level_dropout", "memory", "memory_kernels"})

# A small log wants more steps than large batches leave it: short histories of 47,000 and 157,000 events gained 4% and
# 5% by 1,024 instead of 4,096; on a million 4,096 was as good, and faster.
BATCHES_AN_EPOCH = 200
BATCH_RANGE = (1024, 4096)  # events


def dropout_rate(train_events: int) -> float:
    """Dropout for `auto`, lower with more data: 0.5 at 100,000 training events, 0.25 at a million."""
    rate = DROPOUT_AT_100K - DROPOUT_PER_DECADE * math.log10(max(1, train_events) / 100_000)
    low, high = DROPOUT_RANGE
    return round(min(high, max(low, rate)), 3)


def resolve_job(
    config: TrainJobConfig, manifest: Manifest, start: ResolvedModelConfig | None = None
) -> ResolvedTrainJobConfig:
    """Resolve both sections, `model` and `train`. Arguments and errors as of `resolve_model`."""
    model = resolve_model(config.model, manifest, start)
    resolved = {
        "model": model.model_copy(update={"memory": resolve_memory(config, manifest)}),
        "train": resolve_train(config.train, manifest),
    }
    return ResolvedTrainJobConfig(**(dict(config) | resolved))


def resolve_model(
    config: ModelConfig, manifest: Manifest, start: ResolvedModelConfig | None = None
) -> ResolvedModelConfig:
    """Replace each `auto` by what the dataset's manifest says.

    start: config of the earlier model that training starts from. Its weights fit no other, so its values go first.
    `memory: auto` is none here: `resolve_job` knows what it depends on. Raises InputError for an input that is asked
    for, or ratings to train on, that the dataset does not have.
    """
    if start is not None:
        left = {name for name in ModelConfig.model_fields if getattr(config, name) == "auto"} - FREE_TO_CHANGE
        config = config.model_copy(update={name: getattr(start, name) for name in left})
    values: dict[str, Any] = resolve_inputs(config, manifest).model_dump()
    if config.dropout == "auto":
        values["dropout"] = dropout_rate(manifest.train_events)
    if config.norm == "auto":
        values["norm"] = NORM
    if config.memory in ("auto", "none"):
        values["memory"] = ()
    return ResolvedModelConfig(**values)


def resolve_memory(config: TrainJobConfig, manifest: Manifest) -> tuple[MemoryKind, ...]:
    """Replace `model.memory: auto` by the kinds that the job's ranking has a use for.

    Raises InputError for kinds that are asked for where nothing can be fitted to the validation part.
    """
    asked = config.model.memory
    fits = manifest.split.kind != "random" and manifest.valid_events > 0
    if asked == "auto":
        if not fits or config.model.outputs == "rating":
            return ()
        return ("pairs",) if config.evaluate.remove_seen else ("pairs", "repeats")
    if asked and asked != "none" and not fits:
        raise InputError(
            "model.memory: its numbers are fitted to a validation part that follows the training part in time, and "
            "the dataset has none (a random split, or an empty validation part); set model.memory none"
        )
    return () if asked == "none" else asked


def resolve_train(config: TrainConfig, manifest: Manifest) -> ResolvedTrainConfig:
    """Replace a batch size of `auto` by one that follows the dataset's training events."""
    values: dict[str, Any] = config.model_dump()
    if config.global_batch_events == "auto":
        low, high = BATCH_RANGE
        values["global_batch_events"] = min(high, max(low, manifest.train_events // BATCHES_AN_EPOCH))
    return ResolvedTrainConfig(**values)


def model_info(dataset: Dataset, config: ResolvedTrainJobConfig) -> ModelInfo:
    """Describe the model that training with `config` on the dataset makes."""
    model = config.model
    return ModelInfo(
        config=model,
        num_items=dataset.num_items,
        max_length=config.train.max_length,
        dataset_fingerprint=dataset.manifest.fingerprint,
        inputs=dataset.input_spec(model),
        remove_seen=config.evaluate.remove_seen,
        include_valid=config.train.include_valid,
        exclude_seen=resolve_exclude_seen(config.train, config.evaluate.remove_seen),
    )


def resolve_exclude_seen(config: TrainConfig, ranking_removes_seen: bool) -> bool:
    """Replace `auto`: train as the ranking is evaluated, where no label smoothing forbids it."""
    if config.exclude_seen == "auto":
        return ranking_removes_seen and config.label_smoothing == 0
    return config.exclude_seen

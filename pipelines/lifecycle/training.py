"""The configuration of a retraining: from scratch as the user says, or from champion with a shorter schedule."""

from pathlib import Path
from typing import NamedTuple

from mgray.config import (
    ModelConfig,
    ResolvedModelConfig,
    ResolvedTrainConfig,
    ResolvedTrainJobConfig,
    RetrainConfig,
    RetrainJobConfig,
    TrainJobConfig,
)
from mgray.data.dataset import Dataset
from mgray.errors import InputError
from mgray.train.resolve import BATCH_RANGE, FREE_TO_CHANGE, resolve_job


class Start(NamedTuple):
    """The model that training starts from: champion."""

    uri: str  # models:/NAME/VERSION
    config: ResolvedModelConfig


def training_config(
    config: RetrainJobConfig, home: Path, dataset: Dataset, start: Start | None = None
) -> ResolvedTrainJobConfig:
    """The training run's config on `dataset`; start None: from scratch.

    Raises InputError where the user asks for another model than `start`, or for inputs that the dataset lacks.
    """
    asked = TrainJobConfig(
        home=str(home),
        data=config.data.model_copy(update={"dataset": str(dataset.folder)}),
        model=config.model if start is None else _model_to_go_on_with(config.model, start.config),
        train=config.train,
        evaluate=config.evaluate,
        scale=config.scale,
        tracking=config.tracking,
    )
    resolved = resolve_job(asked, dataset.manifest)
    if start is None:
        return resolved
    train = warm_training(resolved.train, config.retrain).model_copy(update={"warm_start": start.uri})
    return resolved.model_copy(update={"train": train})


def _model_to_go_on_with(asked: ModelConfig, champion: ResolvedModelConfig) -> ModelConfig:
    """Champion's model section, with what may change (FREE_TO_CHANGE) as `asked` says.

    Raises InputError where the user asks for another value of what may not. An `auto` asks for nothing: what the data
    decides, champion has decided.
    """
    given = asked.model_fields_set
    for name in given - FREE_TO_CHANGE:
        wanted, has = getattr(asked, name), getattr(champion, name)
        if wanted not in ("auto", has):
            raise InputError(
                f"model.{name}: {wanted}, but champion, from which training starts, has {has}; "
                "leave it out, or set --retrain.start scratch"
            )
    # What memory is used is decided anew: champion may be from before there was any, or of a ranking of another kind.
    anew = {"memory": asked.memory, "memory_kernels": asked.memory_kernels}
    return ModelConfig(**(dict(champion) | anew | {name: getattr(asked, name) for name in given & FREE_TO_CHANGE}))


def warm_training(train: ResolvedTrainConfig, retrain: RetrainConfig) -> ResolvedTrainConfig:
    """The training that starts from champion: its own schedule and share of champion's weights, else as from scratch.

    From scratch many epochs over the same events find the weights; from champion few will do, as long as they take
    enough steps, which smaller batches give at nearly the same cost: down to the smallest that a small log gets.
    """
    whole, smallest = train.global_batch_events, BATCH_RANGE[0]
    settings = {
        "epochs": retrain.warm_epochs,
        "learning_rate": retrain.warm_learning_rate,
        "global_batch_events": max(min(whole, smallest), round(whole * retrain.warm_batch_share)),
        "validate_every_epochs": retrain.warm_validate_every_epochs,
        "warm_start_keep": retrain.warm_keep,
    }
    return train.model_copy(update=settings)

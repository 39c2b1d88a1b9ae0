"""Settings that a configuration leaves to the data."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mgray.config import (
    ModelConfig,
    ResolvedModelConfig,
    ResolvedTrainJobConfig,
    RetrainJobConfig,
    TrainConfig,
    TrainJobConfig,
)
from mgray.errors import InputError
from mgray.testing.synthetic import make_log
from mgray.train.resolve import DROPOUT_RANGE, dropout_rate, resolve_job, resolve_model, resolve_train
from pipelines.lifecycle.training import Start, training_config
from tests.datasets import write_dataset


@pytest.mark.parametrize(("events", "rate"), [(100_000, 0.5), (1_000_000, 0.25), (10**9, 0.1), (1_000, 0.5), (0, 0.5)])
def test_dropout_falls_with_the_events(events: int, rate: float) -> None:
    assert dropout_rate(events) == pytest.approx(rate)
    assert DROPOUT_RANGE[0] <= dropout_rate(events) <= DROPOUT_RANGE[1]


def test_auto_becomes_what_the_dataset_says_and_a_number_stays(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "version", make_log(30, 20, mean_events=40)).manifest
    resolved = resolve_model(ModelConfig(inputs="auto"), manifest)
    assert resolved.dropout == dropout_rate(manifest.train_events)
    assert resolved.inputs == ("rating", "time_gap")
    assert resolved.norm == "layer"
    chosen = resolve_model(ModelConfig(dropout=0.2, norm="batch"), manifest)
    assert (chosen.dropout, chosen.norm) == (0.2, "batch")
    assert resolve_model(resolved, manifest) == resolved


def test_auto_becomes_what_the_model_has_that_training_starts_from(tmp_path: Path) -> None:
    """By a log that has grown past a rule's border it would be another model, which the weights do not fit."""
    manifest = write_dataset(tmp_path / "version", make_log(30, 20, mean_events=40)).manifest
    start = ResolvedModelConfig(norm="batch", inputs=("rating",), dropout=0.11)
    resolved = resolve_model(ModelConfig(inputs="auto"), manifest, start)
    assert (resolved.norm, resolved.inputs) == ("batch", ("rating",))
    assert resolved.dropout == dropout_rate(manifest.train_events), "it has no weights: the data's"
    assert resolve_model(ModelConfig(norm="layer"), manifest, start).norm == "layer", "asked for, and refused later"


@pytest.mark.parametrize(("events", "batch"), [(47_000, 1024), (500_000, 2500), (10**6, 4096), (10**9, 4096)])
def test_a_batch_grows_with_the_log(events: int, batch: int, tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "version", make_log(5, 20)).manifest.model_copy(update={"train_events": events})
    assert resolve_train(TrainConfig(), manifest).global_batch_events == batch
    assert resolve_train(TrainConfig(global_batch_events=7), manifest).global_batch_events == 7


def test_a_resolved_config_holds_no_auto_and_dumps_in_the_same_order(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "version", make_log(30, 20, mean_events=40)).manifest
    asked = TrainJobConfig(model=ModelConfig(inputs="auto"))
    resolved = resolve_job(asked, manifest)
    assert ResolvedTrainJobConfig.model_validate_json(resolved.model_dump_json()) == resolved
    assert [*resolved.model.model_dump()] == [*asked.model.model_dump()], "model.json and MLflow's params keep theirs"
    assert (resolved.data, resolved.scale, resolved.evaluate) == (asked.data, asked.scale, asked.evaluate)
    for section in ("model", "train"):
        with pytest.raises(ValidationError):
            ResolvedTrainJobConfig.model_validate(
                resolved.model_dump() | {section: getattr(asked, section).model_dump()}
            )


def test_a_start_from_champion_keeps_its_model_but_for_what_is_free_to_change(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "version", make_log(30, 20, mean_events=40))
    champion = ResolvedModelConfig(width=32, inputs=("rating",), norm="batch", dropout=0.11)
    start = Start("models:/m/3", champion)

    def model(**asked: Any) -> ResolvedModelConfig:
        config = RetrainJobConfig.model_validate({"model": asked})
        trained = training_config(config, tmp_path, dataset, start)
        assert trained.train.warm_start == start.uri
        return trained.model

    # What is looked up is decided anew: champion, of before there was memory, has none.
    kept = champion.model_copy(update={"memory": ("pairs",)})
    assert model() == model(norm="auto", inputs="auto", width=32) == kept
    assert model(memory="none") == champion
    assert model(dropout=0.3) == kept.model_copy(update={"dropout": 0.3})
    assert model(dropout="auto").dropout == dropout_rate(dataset.manifest.train_events)
    with pytest.raises(InputError, match=r"model\.width: 64, but champion, from which training starts, has 32"):
        model(width=64)

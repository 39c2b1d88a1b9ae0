"""The model section: what a level's settings come to, and what is refused in one line."""

import json
from pathlib import Path

import pytest
import torch

from mgray.config import ModelConfig, ResolvedModelConfig, TrainJobConfig
from mgray.config.command_line import parse_args
from mgray.config.granularity import Decay, Session, Span, Stride
from mgray.errors import InputError
from mgray.model.layers import LayerNorm
from mgray.model.mgdsc import MGDSC
from mgray.serve.model_folder import MODEL_FILE, ModelInfo, Vocabulary, load_model, save_model

OLD = (  # as a model.json of version 0.1.0 holds it
    '{"width": 64, "granularities": [1, 4, "decay:4..400"], "kernel": 7, "depth": 1, "feedforward": 2, '
    '"fusion": "attention", "heads": 4, "dropout": 0.4}'
)


def parse(*argv: str) -> ModelConfig:
    return parse_args(TrainJobConfig, "jobs/train.py", list(argv)).model


def test_a_value_is_every_levels_and_a_list_has_one_for_each() -> None:
    config = parse(
        "--model.granularities=[1, 4, 'session:30m', 1d, 'decay:4..40']",
        "--model.kernel=[7, 3, 3, 2, 1]",
        "--model.depth=2",
        "--model.width_multiplier=[1, 0.5, 1, 2, 1]",
        "--model.pooling=max",
    )
    assert [level.kind for level in config.levels] == [Stride(1), Stride(4), Session(1800), Span(86_400), Decay(4, 40)]
    assert [level.kernel for level in config.levels] == [7, 3, 3, 2, 1]
    assert {level.depth for level in config.levels} == {2}
    assert [level.inner_width for level in config.levels] == [64, 32, 64, 128, 64]
    assert [level.dilation for level in config.levels] == [1, 4, 1, 1, 1]
    assert {level.pooling for level in config.levels} == {"max"}


def test_dilation_wins_over_the_stride() -> None:
    assert [level.dilation for level in ModelConfig(granularities=(1, 4), dilation=2).levels] == [2, 2]
    assert [level.dilation for level in ModelConfig(granularities=(1, 4), dilation=(1, 3)).levels] == [1, 3]


def test_an_earlier_models_config_means_what_it_meant() -> None:
    config = ModelConfig.model_validate_json(OLD)
    assert (config.conv, config.level_dropout) == ("separable", 0.0)
    assert {(level.pooling, level.inner_width) for level in config.levels} == {("mean", 64)}
    assert [level.dilation for level in config.levels] == [1, 4, 1]


def test_a_model_of_a_version_without_norm_is_one_of_layer_norm(tmp_path: Path) -> None:
    """Else a start from it would be refused, or normalize by what its weights were not trained with."""
    config = ResolvedModelConfig.model_validate_json(OLD)
    info = ModelInfo(config=config, num_items=3, max_length=9, dataset_fingerprint="old")
    save_model(tmp_path, MGDSC(config, 3).state_dict(), info, Vocabulary(["a", "b", "c"], ["a", "b", "c"], [1, 1, 1]))
    written = json.loads((tmp_path / MODEL_FILE).read_text())
    written["config"] = json.loads(OLD)
    (tmp_path / MODEL_FILE).write_text(json.dumps(written))
    model, loaded, _ = load_model(tmp_path, torch.device("cpu"))
    assert loaded.config.norm == "layer"
    assert isinstance(model.input_norm, LayerNorm)


def test_a_config_survives_its_json() -> None:
    config = ModelConfig(granularities=(1, "7d"), kernel=(7, 3), pooling=("mean", "max"), width_multiplier=(1, 0.5))
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--model.kernel=[7, 3, 3]", "kernel lists 3 values for 2 granularities; give one for each"),
        ("--model.pooling=[mean]", "pooling lists 1 values for 2 granularities"),
        ("--model.kernel=[7, 3, 0]", "model.kernel: 0 is not between 1 and 256 (given: [7, 3, 0])"),
        ("--model.depth=33", "model.depth: 33 is not between 1 and 32"),
        ("--model.dilation=0", "model.dilation: 0 is not between 1 and 65536"),
        ("--model.width_multiplier=0", "model.width_multiplier: 0.0 is not between 0.01 and 16"),
        ("--model.kernel=seven", "model.kernel: Input should be a valid integer"),
        ("--model.pooling=median", "'mean', 'max', 'learned' or 'decay'"),
        ("--model.norm=group", "'layer', 'batch' or 'auto'"),
        ("--model.conv=full", "'separable' or 'dense'"),
        ("--model.fusion=product", "'attention', 'gate', 'concat' or 'sum'"),
        ("--model.level_dropout=1", "model.level_dropout"),
        ("--model.granularities=[1,100000]", "model.granularities"),
        ("--model.granularities=['decay:1..1000000']", "model.granularities"),
        ("--model.granularities=[1, 7d, 1d]", "spans of time must grow"),
        ("--model.granularities=[1, 7 weeks]", "neither a stride"),
        ("--model.members=0", "model.members"),
    ],
)
def test_a_mistake_is_one_line(argv: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_members_that_rate_are_refused() -> None:
    with pytest.raises(InputError, match=r"members \(2\) needs outputs: next_item; give 1 to a model that rates"):
        parse("--model.members=2", "--model.outputs=both")

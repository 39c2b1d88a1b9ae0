"""The inputs beside items: what they encode, and the model's laws with all of them."""

from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from mgray.config import ModelConfig
from mgray.data.inputs import Inputs, InputSpec, read_columns, resolve_inputs
from mgray.data.manifest import Feature
from mgray.errors import InputError
from mgray.model.input_encoder import NUM_GAP_BUCKETS, InputEncoder, gap_buckets, time_gaps
from mgray.model.mgdsc import MGDSC
from tests.datasets import write_dataset
from tests.models import model_config
from tests.perturbed import perturbed

ALL = ("event_type", "features", "rating", "time_gap", "hour", "weekday")
SPEC = InputSpec(
    event_types=("buy", "view"),
    features=(Feature(name="price", mean=0, std=1), Feature(name="stars", mean=0, std=1)),
    rating_mean=3.0,
    rating_std=2.0,
)
CONFIG = model_config(inputs=ALL, width=16, granularities=(1, 4, "decay:2..20"), heads=2)
NUM_ITEMS = 50
NAN = torch.nan


def make_model() -> MGDSC:
    torch.manual_seed(0)
    return perturbed(MGDSC(CONFIG, NUM_ITEMS, SPEC))


def make_encoder(config: ModelConfig, spec: InputSpec = SPEC) -> InputEncoder:
    """Away from its start, where it adds nothing."""
    encoder = InputEncoder(config, spec)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_()
    return encoder


def history(length: int, seed: int = 1) -> Inputs:
    random = torch.Generator().manual_seed(seed)
    ratings = torch.randint(1, 6, (2, length), generator=random).float()
    ratings[:, ::3] = NAN
    gaps = torch.rand(2, length, generator=random, dtype=torch.float64) * 100_000
    return Inputs(
        torch.randint(1, NUM_ITEMS + 1, (2, length), generator=random),
        1_600_000_000 + gaps.cumsum(1),
        torch.randint(0, 3, (2, length), generator=random),
        ratings,
        torch.randn(2, length, 2, generator=random),
    )


def left_padded(inputs: Inputs, padding: int) -> Inputs:
    def pad(column: Tensor, value: float) -> Tensor:
        return torch.cat([torch.full((2, padding, *column.shape[2:]), value, dtype=column.dtype), column], dim=1)

    return Inputs(*(pad(column, value) for column, value in zip(inputs, (0, 0, 0, NAN, 0), strict=True)))


CHANGES = {
    "items": lambda column: column % NUM_ITEMS + 1,
    "times": lambda column: column + 1e6,
    "event_types": lambda column: (column + 1) % 3,
    "ratings": lambda column: column.nan_to_num(0) + 1,
    "features": lambda column: column + 1,
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_column_reaches_outputs_from_its_position_on(name: str) -> None:
    """Causality, and its other side: the change does show at the position itself."""
    model, inputs = make_model(), history(30)
    for position in (1, 17, 29):
        column = getattr(inputs, name).clone()
        column[:, position:] = CHANGES[name](column[:, position:])
        before, after = model(inputs), model(inputs._replace(**{name: column}))
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=1e-6)
        assert not torch.allclose(after[:, position], before[:, position], atol=1e-4)


@pytest.mark.parametrize("padding", [1, 16, 100])
def test_left_padding_changes_nothing(padding: int) -> None:
    model, inputs = make_model(), history(21)
    padded = model(left_padded(inputs, padding))
    torch.testing.assert_close(padded[:, padding:], model(inputs), rtol=1e-5, atol=1e-5)


def test_all_parameters_learn() -> None:
    model = make_model().train()
    model(history(20)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_gaps_by_hand() -> None:
    times = torch.tensor([[0.0, 100, 160, 160, 90]], dtype=torch.float64)
    is_real = torch.tensor([[False, True, True, True, True]])
    # The first event has none before it; a clock that goes back counts as no time at all.
    assert time_gaps(times, is_real).tolist() == [[-1, -1, 60, 0, 0]]


def test_gaps_go_on_from_the_last_event_read() -> None:
    times = torch.tensor([[100.0, 160], [100, 160]], dtype=torch.float64)
    previous = torch.tensor([90.0, NAN], dtype=torch.float64)
    assert time_gaps(times, torch.ones(2, 2, dtype=torch.bool), previous).tolist() == [[10, 60], [-1, 60]]


def test_buckets_by_hand() -> None:
    # 1 + floor(2 log2(1 + gap)): gaps 0, 1, 3, 60 and 3600 s have 2 log2 of 0, 2, 4, 11.9 and 23.6.
    gaps = torch.tensor([-1.0, 0, 1, 3, 60, 3600, 1e12], dtype=torch.float64)
    assert gap_buckets(gaps).tolist() == [0, 1, 3, 5, 12, 24, NUM_GAP_BUCKETS - 1]


@pytest.mark.parametrize(("name", "row"), [("hour", 13), ("weekday", 2)])
def test_the_calendar_is_utc(name: str, row: int) -> None:
    """2020-09-16 13:30:00 UTC was a Wednesday, day 2 of a week that starts on Monday."""
    encoder = make_encoder(model_config(inputs=(name,), width=4))
    inputs = Inputs(torch.tensor([[1]]), torch.tensor([[1_600_263_000.0]], dtype=torch.float64))
    table = encoder.encoders[name].weight
    assert torch.equal(encoder(inputs)[0, 0], table[row])


def test_a_rating_scales_a_direction_and_none_has_its_own() -> None:
    encoder = make_encoder(model_config(inputs=("rating",), width=4))
    rating = encoder.encoders["rating"]
    with torch.no_grad():
        rating.missing.fill_(7)
    out = encoder(Inputs(torch.tensor([[1, 1, 1]]), ratings=torch.tensor([[5.0, 3.0, NAN]])))[0]
    torch.testing.assert_close(out, torch.stack([rating.direction, torch.zeros(4), torch.full((4,), 7.0)]))


def test_one_event_after_another_has_the_same_encoding() -> None:
    encoder, inputs = make_encoder(CONFIG), history(9)
    whole = encoder(inputs)
    previous = torch.full((2,), NAN, dtype=torch.float64)
    for position in range(9):
        now = inputs.map(lambda column, position=position: column[:, position : position + 1])
        torch.testing.assert_close(encoder(now, previous)[:, 0], whole[:, position])
        previous = now.times[:, 0]


def test_training_begins_as_without_inputs() -> None:
    torch.manual_seed(0)
    with_inputs = MGDSC(CONFIG, NUM_ITEMS, SPEC).eval()
    torch.manual_seed(0)
    plain = MGDSC(CONFIG.model_copy(update={"inputs": ()}), NUM_ITEMS).eval()
    assert torch.equal(with_inputs(history(9)), plain(history(9)))


def test_without_inputs_nothing_is_added() -> None:
    torch.manual_seed(0)
    plain = MGDSC(model_config(width=16, heads=2), NUM_ITEMS)
    assert plain.input_encoder is None
    assert read_columns(plain.config) == frozenset()
    assert read_columns(CONFIG) == {"times", "event_types", "ratings", "features"}
    assert read_columns(model_config(granularities=(1, "session:30m"))) == {"times"}


def test_inputs_are_those_that_the_dataset_has(tmp_path: Path) -> None:
    log = pl.DataFrame(
        {"user_id": ["u"] * 4, "item_id": [*"abcd"], "timestamp": [1.0, 2, 3, 4], "event_type": [*"xyxy"]}
    )
    manifest = write_dataset(tmp_path / "v", log, 1).manifest
    assert resolve_inputs(ModelConfig(inputs="auto"), manifest).inputs == ("event_type", "time_gap")
    assert resolve_inputs(model_config(), manifest).inputs == ()
    assert resolve_inputs(model_config(inputs=("time_gap", "hour")), manifest).inputs == ("time_gap", "hour")
    with pytest.raises(InputError, match=r"model\.inputs: the dataset has no rating \(it has: event_type, time_gap\)"):
        resolve_inputs(model_config(inputs=("rating",)), manifest)


def test_an_input_is_named_once() -> None:
    with pytest.raises(ValueError, match="inputs names one twice"):
        model_config(inputs=("rating", "rating"))

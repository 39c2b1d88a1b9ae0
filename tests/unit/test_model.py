"""The laws of the model, over configurations that between them hold every kind of part."""

import pytest
import torch

from mgray.config import ResolvedModelConfig
from mgray.data.inputs import Inputs
from mgray.errors import InputError
from mgray.model.mgdsc import MGDSC
from tests.models import model_config
from tests.perturbed import NUM_ITEMS, make_inputs, make_model, pad_left

MIXED = (1, 4, "session:30m", "1d", "decay:4..40")
CONFIGS = {
    "strides": model_config(width=16, granularities=(1, 4, 16), heads=4),
    "decay": model_config(width=16, granularities=(1, "decay:1..100"), heads=2),
    "sum": model_config(width=16, granularities=(2, 3, "decay:4..40"), fusion="sum", kernel=3, depth=2, feedforward=0),
    "one": model_config(width=8, granularities=("decay:1..10",), heads=1),
    "times": model_config(width=8, granularities=("session:30m", "12h", "7d"), heads=2, fusion="gate"),
    "mixed": model_config(
        width=8,
        granularities=MIXED,
        kernel=(7, 3, 2, 1, 1),
        depth=(1, 2, 1, 1, 1),
        width_multiplier=(1, 0.5, 2, 1, 1),
        dilation=(1, 2, 3, 1, 1),
        pooling=("mean", "learned", "max", "decay", "mean"),
        fusion="concat",
    ),
    "batch norm": model_config(width=8, granularities=(1, 3, "1d"), heads=2, norm="batch", pooling="learned"),
    "dense last": model_config(width=8, granularities=(1, 3), heads=2, conv="dense"),
    "dense": model_config(width=8, granularities=(1, 3, "1d", "decay:2..9"), heads=2, conv="dense", pooling="decay"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
class TestLaws:
    def test_output_depends_on_the_past_alone(self, config: ResolvedModelConfig) -> None:
        model, inputs = make_model(config), make_inputs(40)
        assert inputs.times is not None
        before = model(inputs)
        for position in (0, 1, 17, 38):
            items, times = inputs.items.clone(), inputs.times.clone()
            items[:, position + 1 :] = items[:, position + 1 :] % NUM_ITEMS + 1
            times[:, position + 1 :] += 5000
            after = model(Inputs(items, times))
            torch.testing.assert_close(after[:, : position + 1], before[:, : position + 1], rtol=0, atol=1e-6)
            assert not torch.allclose(after[:, position + 1], before[:, position + 1])

    @pytest.mark.parametrize("padding", [1, 3, 16, 100])
    def test_left_padding_changes_nothing(self, config: ResolvedModelConfig, padding: int) -> None:
        model, inputs = make_model(config), make_inputs(21)
        padded = model(pad_left(inputs, padding))
        torch.testing.assert_close(padded[:, padding:], model(inputs), rtol=1e-5, atol=1e-5)

    def test_the_last_position_alone_is_the_same(self, config: ResolvedModelConfig) -> None:
        model, inputs = make_model(config), make_inputs(21)
        for length in (1, 2, 21):
            some = pad_left(inputs.map(lambda column: column[:, :length]), 3)  # noqa: B023
            (interest, share), (alone, own_share) = model.fuse(some), model.fuse(some, only_last=True)
            torch.testing.assert_close(alone, interest[:, -1:], rtol=1e-5, atol=1e-5)
            assert (share is None) == (own_share is None)
            if share is not None:
                torch.testing.assert_close(own_share, share[:, -1:], rtol=1e-5, atol=1e-5)

    def test_padding_beside_another_length(self, config: ResolvedModelConfig) -> None:
        model, long, short = make_model(config), make_inputs(30, rows=1), make_inputs(7, seed=2, rows=1)
        both = zip(long, pad_left(short, 23), strict=True)
        batch = Inputs(*(None if one is None or other is None else torch.cat([one, other]) for one, other in both))
        torch.testing.assert_close(model(batch)[1:, 23:], model(short), rtol=1e-5, atol=1e-5)

    def test_all_parameters_learn(self, config: ResolvedModelConfig) -> None:
        model = make_model(config).train()
        model(make_inputs(20)).square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def test_half_precision_is_near(self, config: ResolvedModelConfig) -> None:
        """bf16 keeps 8 bits of each product: a few hundredths of outputs that are about 1."""
        model, inputs = make_model(config), make_inputs(20)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(inputs)
        half.float().square().sum().backward()
        assert (half.float() - model(inputs)).square().mean().sqrt().item() < 0.05

    def test_each_level_can_be_cut_off(self, config: ResolvedModelConfig) -> None:
        """The cut model is the model that reads by its first levels alone."""
        model, inputs = make_model(config), make_inputs(20)
        read = model.read(inputs)
        for num_levels in range(1, len(config.granularities) + 1):
            smaller = model.cut(num_levels)
            assert smaller.config == ResolvedModelConfig.model_validate(config.cut(num_levels).model_dump())
            kept = torch.arange(len(config.granularities)).expand(2, -1) < num_levels
            fused, _ = model.fusion(read.outputs, read.mask, kept)
            torch.testing.assert_close(smaller(inputs), model.output_norm(fused, read.mask))
            rebuilt = MGDSC(smaller.config, NUM_ITEMS)
            rebuilt.load_state_dict(smaller.state_dict())


@pytest.mark.parametrize("name", ["strides", "decay", "sum", "one"])
def test_every_position_is_read(name: str) -> None:
    """The other side of causality: the newest output does feel an event inside its span."""
    config = CONFIGS[name]
    model, inputs = make_model(config), make_inputs(5)
    for position in range(2 if config.granularities[0] == 1 else 3, 5):
        items = inputs.items.clone()
        items[:, position] = items[:, position] % NUM_ITEMS + 1
        assert not torch.allclose(model(Inputs(items))[:, -1], model(inputs)[:, -1], atol=1e-5)


def test_a_span_of_time_wants_times() -> None:
    model = make_model(CONFIGS["times"])
    with pytest.raises(InputError, match=r"session:30m, 12h, 7d .* give Inputs.times"):
        model(Inputs(make_inputs(3).items))


def test_the_same_items_at_other_times_are_another_history() -> None:
    inputs = make_inputs(20)
    assert inputs.times is not None
    slower = Inputs(inputs.items, inputs.times.floor() * 2)
    for name in ("times", "mixed"):
        model = make_model(CONFIGS[name])
        assert not torch.allclose(model(slower)[:, -1], model(inputs)[:, -1], atol=1e-3)
    model = make_model(CONFIGS["strides"])
    assert torch.equal(model(slower), model(inputs))


def test_cut_takes_the_parameters_of_the_levels_away() -> None:
    """Three like levels weigh the same; attention adds a norm (2 D) and a bias (heads) a level."""
    model = make_model(CONFIGS["strides"])
    counts = [sum(p.numel() for p in model.cut(levels).parameters()) for levels in (1, 2, 3)]
    level = sum(p.numel() for p in model.levels[0].parameters())
    assert counts[1] - counts[0] == counts[2] - counts[1] == level + 2 * 16 + 4
    assert counts[2] == sum(p.numel() for p in model.parameters())
    for levels in (0, 4):
        with pytest.raises(ValueError, match="of 3 levels"):
            model.cut(levels)


def test_level_dropout_reads_by_the_first_levels() -> None:
    config = CONFIGS["strides"].model_copy(update={"level_dropout": 0.6, "dropout": 0.0})
    model, inputs = make_model(config), make_inputs(6, rows=3000)
    whole = model(inputs)
    torch.manual_seed(0)
    outputs = model.train()(inputs)
    by_cut = [model.eval().cut(levels)(inputs) for levels in (1, 2)] + [whole]
    shares = [torch.isclose(outputs, expected, atol=1e-5).all(2).all(1).float().mean().item() for expected in by_cut]
    # 0.6 of the histories, half of them by one level and half by two; the deviation of a share is below 0.01.
    assert shares == pytest.approx([0.3, 0.3, 0.4], abs=0.03)


def test_level_dropout_leaves_a_gradient_for_every_parameter() -> None:
    """DDP waits for each of them, also where all of a batch's histories are read by the finest level."""
    model = make_model(CONFIGS["mixed"].model_copy(update={"level_dropout": 0.999})).train()
    model(make_inputs(6, rows=1)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_padding_is_never_recommended() -> None:
    model = make_model(CONFIGS["decay"])
    scores = model.score(model(make_inputs(5))[:, -1])
    assert scores.shape == (2, NUM_ITEMS + 1)
    assert bool((scores[:, 0] == -torch.inf).all())

"""The laws of the model, over several granularity configurations."""

import pytest
import torch
from torch import Tensor

from mgray.config import ModelConfig
from mgray.model import (
    MGDSC,
    DecayMixer,
    Dropout,
    StrideMixer,
    causal_mean,
    causal_sum,
    decayed_sum,
    depthwise_causal,
    shift,
)

NUM_ITEMS = 50
CONFIGS = {
    "strides": ModelConfig(width=16, granularities=(1, 4, 16), heads=4),
    "decay": ModelConfig(width=16, granularities=(1, "decay:1..100"), heads=2),
    "sum": ModelConfig(width=16, granularities=(2, 3, "decay:4..40"), fusion="sum", kernel=3, depth=2, feedforward=0),
    "one": ModelConfig(width=8, granularities=("decay:1..10",), heads=1),
}


def make_model(config: ModelConfig) -> MGDSC:
    torch.manual_seed(0)
    model = MGDSC(config, NUM_ITEMS)
    with torch.no_grad():  # biases and time scales away from their neutral start, where a leak could hide
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.embedding.weight[0] = 0
    return model.eval()


def history(length: int, seed: int = 1) -> Tensor:
    return torch.randint(1, NUM_ITEMS + 1, (2, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
class TestLaws:
    def test_output_depends_on_the_past_alone(self, config: ModelConfig) -> None:
        model, items = make_model(config), history(40)
        for position in (0, 1, 17, 38):
            changed = items.clone()
            changed[:, position + 1 :] = changed[:, position + 1 :] % NUM_ITEMS + 1
            torch.testing.assert_close(
                model(changed)[:, : position + 1], model(items)[:, : position + 1], rtol=0, atol=1e-6
            )
            assert not torch.allclose(model(changed)[:, position + 1], model(items)[:, position + 1])

    def test_every_position_is_read(self, config: ModelConfig) -> None:
        """The other side of causality: the newest output does feel an event inside its span."""
        model, items = make_model(config), history(5)
        for position in range(2 if config.granularities[0] == 1 else 3, 5):
            changed = items.clone()
            changed[:, position] = changed[:, position] % NUM_ITEMS + 1
            assert not torch.allclose(model(changed)[:, -1], model(items)[:, -1], atol=1e-5)

    @pytest.mark.parametrize("padding", [1, 3, 16, 100])
    def test_left_padding_changes_nothing(self, config: ModelConfig, padding: int) -> None:
        model, items = make_model(config), history(21)
        padded = torch.cat([torch.zeros(2, padding, dtype=torch.int64), items], dim=1)
        torch.testing.assert_close(model(padded)[:, padding:], model(items), rtol=1e-5, atol=1e-5)

    def test_padding_beside_another_length(self, config: ModelConfig) -> None:
        model, long, short = make_model(config), history(30)[:1], history(7, seed=2)[:1]
        batch = torch.zeros(2, 30, dtype=torch.int64)
        batch[0], batch[1, 23:] = long[0], short[0]
        torch.testing.assert_close(model(batch)[1:, 23:], model(short), rtol=1e-5, atol=1e-5)

    def test_all_parameters_learn(self, config: ModelConfig) -> None:
        model = make_model(config).train()
        model(history(20)).square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("taps", "dilation", "length"), [(1, 1, 5), (7, 1, 20), (3, 4, 20), (7, 16, 30)])
def test_fast_depthwise_equals_a_plain_loop(taps: int, dilation: int, length: int) -> None:
    x, weight = torch.randn(2, length, 6, dtype=torch.float64), torch.randn(6, taps, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for t in range(length):
        for k in range(taps):
            source = t - (taps - 1 - k) * dilation
            if source >= 0:
                expected[:, t] += weight[:, k] * x[:, source]
    torch.testing.assert_close(depthwise_causal(x, weight, dilation), expected)


@pytest.mark.parametrize("length", [1, 2, 7, 33])
def test_decayed_sum_equals_the_recurrence(length: int) -> None:
    x = torch.randn(2, length, 5, dtype=torch.float64)
    decay = torch.tensor([0.1, 0.5, 0.9, 0.99, 0.999], dtype=torch.float64)
    state, expected = torch.zeros(2, 5, dtype=torch.float64), []
    for t in range(length):
        state = decay * state + x[:, t]
        expected.append(state)
    torch.testing.assert_close(decayed_sum(x, decay), torch.stack(expected, 1))


def test_decayed_sum_has_the_right_gradient() -> None:
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    decay = torch.tensor([0.2, 0.7, 0.95], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(decayed_sum, (x, decay))


def test_decay_mixer_starts_with_the_time_scales_asked_for() -> None:
    mixer = DecayMixer(width=3, shortest=1, longest=100)
    decay = torch.exp(-torch.exp(-mixer.tau))
    # a = exp(-1 / scale) with scales 1, 10, 100, evenly spread in the logarithm.
    torch.testing.assert_close(decay, torch.exp(-1 / torch.tensor([1.0, 10.0, 100.0])))


@pytest.mark.parametrize("span", [1, 2, 3, 4, 7, 16, 100])
def test_causal_sum_equals_a_plain_loop(span: int) -> None:
    x = torch.randn(2, 20, 3, dtype=torch.float64)
    expected = torch.stack([x[:, max(0, t - span + 1) : t + 1].sum(1) for t in range(20)], 1)
    torch.testing.assert_close(causal_sum(x, span), expected)


def test_causal_mean_counts_real_positions_only() -> None:
    x = torch.tensor([9.0, 2.0, 4.0, 9.0])[None, :, None]
    mask = torch.tensor([0.0, 1.0, 1.0, 1.0])[None, :, None]
    assert causal_mean(x, mask, 2).flatten().tolist() == [0.0, 2.0, 3.0, 6.5]


def test_shift_moves_both_ways() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])[None, :, None]
    assert shift(x, 1).flatten().tolist() == [0, 1, 2]
    assert shift(x, -2).flatten().tolist() == [3, 0, 0]
    assert shift(x, 5).flatten().tolist() == [0, 0, 0]


def test_dropout_keeps_the_mean_and_the_rate() -> None:
    torch.manual_seed(0)
    layer, x = Dropout(0.25).train(), torch.ones(1000, 1000)
    out = layer(x)
    # 64 of 256 bytes drop: a rate of exactly 1/4; the sample's deviation is sqrt(p (1 - p) / 1e6) = 4e-4.
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=2e-3)
    assert out.mean().item() == pytest.approx(1.0, abs=3e-3)
    assert torch.equal(layer.eval()(x), x)


def test_attention_shares_sum_to_one() -> None:
    _, share = make_model(CONFIGS["strides"]).fuse(history(10))
    assert share is not None
    assert share.shape == (2, 10, 3, 4)
    torch.testing.assert_close(share.sum(2), torch.ones(2, 10, 4))


def test_padding_is_never_recommended() -> None:
    model = make_model(CONFIGS["decay"])
    scores = model.score(model(history(5))[:, -1])
    assert scores.shape == (2, NUM_ITEMS + 1)
    assert bool((scores[:, 0] == -torch.inf).all())


def test_stride_level_is_separable() -> None:
    """Depthwise K D + pointwise: a stride mixer adds K + 1 numbers a channel, not K D."""
    assert sum(p.numel() for p in StrideMixer(32, 7, 4).parameters()) == 32 * (7 + 1)

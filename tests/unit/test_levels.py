"""The parts of a level: what they start as, and what separability saves."""

import torch

from mgray.model.level import DecayMixer, DenseMixer, DepthwiseMixer, Level
from tests.models import model_config
from tests.perturbed import make_model


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_decay_mixer_starts_with_the_time_scales_asked_for() -> None:
    mixer = DecayMixer(width=3, shortest=1, longest=100)
    decay = torch.exp(-torch.exp(-mixer.tau))
    # a = exp(-1 / scale) with scales 1, 10, 100, evenly spread in the logarithm.
    torch.testing.assert_close(decay, torch.exp(-1 / torch.tensor([1.0, 10.0, 100.0])))


def test_what_separability_saves() -> None:
    """Depthwise K + 1 numbers a channel and pointwise D + 1 a channel, against dense K D + 1 a channel."""
    assert num_parameters(DepthwiseMixer(32, 7, 4)) == 32 * (7 + 1)
    assert num_parameters(DenseMixer(32, 32, 7, 4)) == 32 * (7 * 32 + 1)
    separable, dense = (
        num_parameters(make_model(model_config(width=32, granularities=(1, 4), conv=conv)))
        for conv in ("separable", "dense")
    )
    assert dense - separable == 2 * (32 * (7 * 32 + 1) - 32 * (7 + 1) - 32 * (32 + 1))


def test_settings_of_each_level() -> None:
    config = model_config(
        width=8,
        granularities=(1, 4, "1d", "decay:1..9"),
        kernel=(5, 3, 2, 2),
        depth=(1, 2, 1, 3),
        width_multiplier=(0.5, 1, 2, 1),
        dilation=None,
    )
    levels = [Level(config, settings) for settings in config.levels]
    assert [len(level.blocks) for level in levels] == [1, 2, 1, 3]
    mixers = [level.blocks[0].mixer for level in levels]
    assert [tuple(mixer.weight.shape) for mixer in mixers[:3]] == [(4, 5), (8, 3), (16, 2)]
    assert [mixer.dilation for mixer in mixers[:3]] == [1, 4, 1]
    assert isinstance(mixers[3], DecayMixer)

"""Dropout and normalization."""

import pytest
import torch

from mgray.model.layers import BatchNorm, Dropout, LayerNorm


def test_dropout_keeps_the_mean_and_the_rate() -> None:
    torch.manual_seed(0)
    layer, x = Dropout(0.25).train(), torch.ones(1000, 1000)
    out = layer(x)
    # 64 of 256 bytes drop: a rate of exactly 1/4; the sample's deviation is sqrt(p (1 - p) / 1e6) = 4e-4.
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=2e-3)
    assert out.mean().item() == pytest.approx(1.0, abs=3e-3)
    assert torch.equal(layer.eval()(x), x)


def test_batch_norm_counts_real_positions_alone() -> None:
    """PyTorch's own over the real positions is the reference."""
    x, mask = torch.randn(4, 6, 3) * 2 + 1, torch.ones(4, 6, 1)
    mask[0, :4] = mask[2, :1] = 0
    real = mask.squeeze(-1) == 1
    ours, theirs = BatchNorm(3).train(), torch.nn.BatchNorm1d(3).train()
    torch.testing.assert_close(ours(x, mask)[real], theirs(x[real]))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    # Theirs keeps the unbiased variance, n / (n - 1) of the 19 real positions.
    torch.testing.assert_close(ours.running_variance - 0.9, (theirs.running_var - 0.9) * 18 / 19)
    before = ours.running_mean.clone()
    ours.eval()(x, mask)
    assert torch.equal(ours.running_mean, before)


def test_batch_norm_keeps_a_variance_far_below_the_mean() -> None:
    """Squares about zero would lose it: 1e6 has an error of 0.06 in fp32, and the variance is 0.01."""
    x, mask = torch.randn(8, 40, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + 1000, torch.ones(8, 40, 1)
    norm = BatchNorm(3).train()
    norm.running_mean.fill_(1000.0)
    expected = (x.double() - x.double().mean((0, 1))) / x.double().var((0, 1), unbiased=False).add(1e-5).sqrt()
    torch.testing.assert_close(norm(x, mask).double(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("norm", [LayerNorm(5), BatchNorm(5).eval()], ids=["layer", "batch"])
def test_parts_add_up_to_the_normalized(norm: LayerNorm | BatchNorm) -> None:
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    summands = torch.randn(3, 2, 7, 5)
    total = summands.sum(0)
    parts = torch.stack([norm.part(summand, total) for summand in summands]).sum(0)
    torch.testing.assert_close(parts + norm.bias, norm(total, torch.ones(2, 7, 1)))

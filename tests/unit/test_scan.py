"""Running sums and maxima equal plain loops, and their gradients are right."""

import pytest
import torch

from mgray.model.scan import causal_max, causal_sum, decayed_sum, gated_sum, running_max

LENGTH = 20
SPANS = pytest.mark.parametrize("span", [1, 2, 3, 4, 7, 16, 20, 100])


@SPANS
def test_causal_sum_equals_a_plain_loop(span: int) -> None:
    x = torch.randn(2, LENGTH, 3, dtype=torch.float64)
    expected = torch.stack([x[:, max(0, t - span + 1) : t + 1].sum(1) for t in range(LENGTH)], 1)
    torch.testing.assert_close(causal_sum(x, span), expected)


@SPANS
def test_causal_max_equals_a_plain_loop(span: int) -> None:
    x = torch.randn(2, LENGTH, 3)
    expected = torch.stack([x[:, max(0, t - span + 1) : t + 1].amax(1) for t in range(LENGTH)], 1)
    assert torch.equal(causal_max(x, span), expected)


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


@pytest.mark.parametrize("keep_width", [1, 5])
@pytest.mark.parametrize("length", [1, 2, 7, 33])
def test_gated_sum_equals_the_recurrence(length: int, keep_width: int) -> None:
    x, keep = torch.randn(2, length, 5, dtype=torch.float64), torch.rand(2, length, keep_width, dtype=torch.float64)
    keep[keep < 0.2] = 0
    state, expected = torch.zeros(2, 5, dtype=torch.float64), []
    for t in range(length):
        state = keep[:, t] * state + x[:, t]
        expected.append(state)
    torch.testing.assert_close(gated_sum(x, keep), torch.stack(expected, 1))


@pytest.mark.parametrize("keep_width", [1, 3])
def test_gated_sum_has_the_right_gradient(keep_width: int) -> None:
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(2, 9, keep_width, dtype=torch.float64)
    keep[:, 4] = 0
    assert torch.autograd.gradcheck(gated_sum, (x, keep))
    assert torch.autograd.gradcheck(gated_sum, (x, keep.requires_grad_()))


def test_gated_sum_of_a_long_history_keeps_its_digits() -> None:
    """A difference of prefix sums in fp32 would be off by 1e-2 here: 1e5 events of size 1e3 before the border."""
    x = torch.cat([torch.full((1, 100_000, 1), 1e3), torch.full((1, 10, 1), 1e-3)], dim=1)
    keep = torch.ones_like(x)
    keep[:, 100_000] = 0
    assert gated_sum(x, keep)[0, -1, 0].item() == pytest.approx(1e-2, rel=1e-6)


def test_running_max_begins_anew_at_each_border() -> None:
    x = torch.tensor([3.0, 1.0, 5.0, 2.0, 4.0, 1.0])[None, :, None]
    goes_on = torch.tensor([True, True, True, False, True, True])[None, :, None]
    assert running_max(x, goes_on).flatten().tolist() == [3, 3, 5, 2, 4, 4]
    assert running_max(x, torch.zeros_like(goes_on)).flatten().tolist() == x.flatten().tolist()

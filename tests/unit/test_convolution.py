"""Law three: the fast convolutions equal a plain loop; and each goes on from the positions before."""

import pytest
import torch
from torch import Tensor

from mgray.model.convolution import dense_causal, depthwise_causal, shift

CASES = pytest.mark.parametrize(
    ("taps", "dilation", "length"),
    [(1, 1, 5), (7, 1, 20), (3, 4, 20), (7, 16, 30), (3, 9, 9)],
)


def dense_loop(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    out_width, _, taps = weight.shape
    expected = torch.zeros(*x.shape[:2], out_width, dtype=x.dtype)
    for t in range(x.shape[1]):
        for k in range(taps):
            source = t - (taps - 1 - k) * dilation
            if source >= 0:
                expected[:, t] += x[:, source] @ weight[:, :, k].T
    return expected


@CASES
def test_depthwise_equals_a_plain_loop(taps: int, dilation: int, length: int) -> None:
    x, weight = torch.randn(2, length, 6, dtype=torch.float64), torch.randn(6, taps, dtype=torch.float64)
    diagonal = torch.diag_embed(weight.T).permute(1, 2, 0)  # a depthwise filter is a dense one that mixes no channels
    torch.testing.assert_close(depthwise_causal(x, weight, dilation), dense_loop(x, diagonal, dilation))


@CASES
def test_dense_equals_a_plain_loop(taps: int, dilation: int, length: int) -> None:
    x, weight = torch.randn(2, length, 6, dtype=torch.float64), torch.randn(4, 6, taps, dtype=torch.float64)
    torch.testing.assert_close(dense_causal(x, weight, dilation), dense_loop(x, weight, dilation))


@CASES
def test_convolutions_go_on_from_the_past(taps: int, dilation: int, length: int) -> None:
    reach = (taps - 1) * dilation
    x = torch.randn(2, reach + length, 6, dtype=torch.float64)
    depthwise, dense = torch.randn(6, taps, dtype=torch.float64), torch.randn(4, 6, taps, dtype=torch.float64)
    past, rest = x[:, :reach], x[:, reach:]
    torch.testing.assert_close(
        depthwise_causal(rest, depthwise, dilation, past), depthwise_causal(x, depthwise, dilation)[:, reach:]
    )
    torch.testing.assert_close(dense_causal(rest, dense, dilation, past), dense_causal(x, dense, dilation)[:, reach:])


def test_taps_further_apart_than_the_history_is_long_cost_nothing() -> None:
    """Padded for, they would take 8 TB."""
    x, weight = torch.randn(1, 5, 4, dtype=torch.float64), torch.randn(4, 256, dtype=torch.float64)
    expected = x * weight[:, -1]
    torch.testing.assert_close(depthwise_causal(x, weight, 10**9), expected)
    torch.testing.assert_close(dense_causal(x, torch.diag_embed(weight.T).permute(1, 2, 0), 10**9), expected)


def test_shift_moves_both_ways() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])[None, :, None]
    assert shift(x, 1).flatten().tolist() == [0, 1, 2]
    assert shift(x, -2).flatten().tolist() == [3, 0, 0]
    assert shift(x, 5).flatten().tolist() == [0, 0, 0]

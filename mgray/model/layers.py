"""Dropout and the two normalizations.

Legend: `B` sequences, `L` positions, `D` channels.
"""

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

BATCH_NORM_MOMENTUM = 0.1
EPSILON = 1e-5


class Dropout(nn.Module):
    """Inverted dropout. On a CPU the mask costs one random byte an element, so the rate is rounded to 1/256.

    PyTorch's own draws a Bernoulli variable per element, at ten times the cost: a seventh of a training step.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        dropped = min(round(self.rate * 256), 255)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * (keep * (256 / (256 - dropped))).to(x.dtype)


class LayerNorm(nn.Module):
    """Normalization over the channels of each position. The mask is unused: it is there to be called like BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [..., D] -> [..., D]."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, EPSILON)

    def part(self, summand: Tensor, total: Tensor) -> Tensor:
        """Share of a summand of `total` in its normalized value, bias aside, at the deviation of `total`. [..., D]."""
        deviation = torch.sqrt(total.var(-1, unbiased=False, keepdim=True) + EPSILON)
        return (summand - summand.mean(-1, keepdim=True)) / deviation * self.weight


class BatchNorm(nn.Module):
    """Normalize each channel over the real positions of the global batch; in evaluation, by the running statistics.

    Batch normalization (Ioffe & Szegedy 2015, arXiv 1502.03167). PyTorch's own counts padding too. While training,
    the statistics of the batch see the future of a history, so only the trained model is causal.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_variance", torch.ones(width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, L, D], mask: [B, L, 1] in {0, 1} -> [B, L, D]."""
        x = x.float()
        mean, variance = self._moments(x, mask) if self.training else (self.running_mean, self.running_variance)
        scale = self.weight * torch.rsqrt(variance + EPSILON)
        return x * scale + (self.bias - mean * scale)

    def part(self, summand: Tensor, total: Tensor) -> Tensor:
        """Share of a summand, as LayerNorm's, by the trained statistics, not those of `total`; the mean is of none."""
        return summand * self.weight * torch.rsqrt(self.running_variance + EPSILON)

    def _moments(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # One all-reduce per norm: a small step waits for little else. Squares are of distances from the running mean,
        # the same on every rank. Of the distance from zero, a variance far below the mean's square would be lost.
        centred = (x - self.running_mean) * mask
        sums = (centred.sum((0, 1)), centred.square().sum((0, 1)), mask.sum().float().view(1))
        first, second, count = _over_ranks(torch.cat(sums)).split([x.shape[-1], x.shape[-1], 1])
        count = count.clamp(min=1)
        offset = first / count
        variance = (second / count - offset.square()).clamp(min=0)
        mean = self.running_mean + offset
        with torch.no_grad():
            self.running_mean.lerp_(mean, BATCH_NORM_MOMENTUM)
            self.running_variance.lerp_(variance, BATCH_NORM_MOMENTUM)
        return mean, variance


class _SumOverRanks(torch.autograd.Function):
    """All-reduce (sum) with a gradient: every rank's loss depends on the sum, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def _over_ranks(x: Tensor) -> Tensor:
    """Sum over all ranks, with its gradient. Collective where there is a process group."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    total: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]
    return total


Norm = LayerNorm | BatchNorm


def make_norm(kind: Literal["layer", "batch"], width: int) -> Norm:
    return BatchNorm(width) if kind == "batch" else LayerNorm(width)

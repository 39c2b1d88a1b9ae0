"""The level of one granularity: mixers along the history, gated blocks around them, feed-forward.

Legend: `B` sequences, `L` positions, `D` width, `E` channels inside a block, `K` kernel taps.

The gated block follows the gated linear attention family (Dauphin et al. 2017, arXiv 1612.08083, for the gate); the
learned decay is a diagonal linear recurrence (as in LRU, Orvieto et al. 2023, arXiv 2303.06349, but real and
positive, with no complex phase).

A mixer takes x [B, L, E] and a state: what it returned for the events before. Given None, as in training, it returns
None; to go on event by event, start from `initial_state`.
"""

import math
from typing import NamedTuple, assert_never, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgray.config import LevelSettings, ResolvedModelConfig
from mgray.config.granularity import Decay, Session, Span, Stride
from mgray.model.convolution import dense_causal, depthwise_causal, last
from mgray.model.layers import Dropout, make_norm
from mgray.model.pooling import States, make_pool
from mgray.model.scan import decayed_sum
from mgray.model.spans import Clock


class DepthwiseMixer(nn.Module):
    """Depthwise causal convolution of K taps. State: [B, (K - 1) dilation, E], the last inputs."""

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        bound = 1 / math.sqrt(kernel)
        self.weight = nn.Parameter(torch.empty(width, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(width))

    def initial_state(self, batch: int, device: torch.device) -> Tensor:
        width, kernel = self.weight.shape
        return torch.zeros(batch, (kernel - 1) * self.dilation, width, device=device)

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        mixed = depthwise_causal(x, self.weight.to(x.dtype), self.dilation, past) + self.bias
        return mixed, None if past is None else last(torch.cat([past, x], dim=1), past.shape[1])


class DenseMixer(nn.Module):
    """Causal convolution of K taps from every channel to every channel, to compare the separable one with.

    State: [B, (K - 1) dilation, E], the last inputs.
    """

    def __init__(self, width: int, out_width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        bound = 1 / math.sqrt(width * kernel)
        self.weight = nn.Parameter(torch.empty(out_width, width, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_width))

    def initial_state(self, batch: int, device: torch.device) -> Tensor:
        _, width, kernel = self.weight.shape
        return torch.zeros(batch, (kernel - 1) * self.dilation, width, device=device)

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        mixed = dense_causal(x, self.weight.to(x.dtype), self.dilation, past) + self.bias
        return mixed, None if past is None else last(torch.cat([past, x], dim=1), past.shape[1])


class DecayMixer(nn.Module):
    """Depthwise causal convolution with an endless exponential filter; each channel learns its time scale.

    h_t = a h_(t-1) + x_t with a = exp(-1 / T), T = exp(tau) events. The output is (1 - a) h, whose weights sum to one,
    and a learned multiple of the input, since the newest event weighs little in a long mean. State: [B, 1, E], h.
    """

    def __init__(self, width: int, shortest: float, longest: float) -> None:
        super().__init__()
        self.tau = nn.Parameter(torch.linspace(math.log(shortest), math.log(longest), width))
        self.skip = nn.Parameter(torch.ones(width))

    def initial_state(self, batch: int, device: torch.device) -> Tensor:
        return torch.zeros(batch, 1, len(self.tau), device=device)

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        # In fp32 whatever the input: 1 - a of a long time scale has no digits left in bf16.
        x = x.float()
        keep = torch.exp(-torch.exp(-self.tau))
        # The old sum enters as an element before x.
        sums = decayed_sum(x if past is None else torch.cat([past, x], dim=1), keep)
        mixed = last(sums, x.shape[1]) * (1 - keep) + self.skip * x
        return mixed, None if past is None else sums[:, -1:]


class GatedBlock(nn.Module):
    """`x + drop(W_out(norm(mixer(silu(v))) * silu(g)))`, `v, g = W_in norm(x)`: the depthwise separable block.

    The mixer is the depthwise convolution, W_in and W_out are the pointwise ones. A dense mixer has W_out in it:
    `x + drop(norm(mixer(silu(v))) * silu(g))`.
    """

    def __init__(self, config: ResolvedModelConfig, settings: LevelSettings) -> None:
        super().__init__()
        inner, width = settings.inner_width, config.width
        mixer = _make_mixer(config, settings)
        gate = width if isinstance(mixer, DenseMixer) else inner
        self.split_sizes = (inner, gate)
        self.norm = make_norm(config.norm, width)
        self.pointwise_in = nn.Linear(width, inner + gate)
        self.mixer = mixer
        self.mixed_norm = make_norm(config.norm, gate)
        self.pointwise_out = None if isinstance(mixer, DenseMixer) else nn.Linear(inner, width)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Tensor, mask: Tensor, past: Tensor | None, only_last: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x: [B, L, D], mask: [B, L, 1] -> [B, L, D], or with only_last [B, 1, D], and the mixer's new state."""
        value, gate = self.pointwise_in(self.norm(x, mask)).split(self.split_sizes, dim=-1)
        mixed, state = self.mixer(F.silu(value) * mask, past)
        if only_last:  # only the mixer reads other positions
            x, mask, gate, mixed = (last(part, 1) for part in (x, mask, gate, mixed))
        out = self.mixed_norm(mixed, mask) * F.silu(gate)
        if self.pointwise_out is not None:
            out = self.pointwise_out(out)
        return x + self.dropout(out), state


def _make_mixer(config: ResolvedModelConfig, settings: LevelSettings) -> DepthwiseMixer | DenseMixer | DecayMixer:
    inner, kind = settings.inner_width, settings.kind
    match kind:
        case Decay(shortest, longest):  # a filter without an end has no dense form
            return DecayMixer(inner, shortest, longest)
        case Stride() | Span() | Session():
            if config.conv == "dense":
                return DenseMixer(inner, config.width, settings.kernel, settings.dilation)
            return DepthwiseMixer(inner, settings.kernel, settings.dilation)
        case _:
            assert_never(kind)


class GatedFeedForward(nn.Module):
    """`x + drop(W_down(v * silu(g)))`, `v, g = W_up norm(x)`."""

    def __init__(self, config: ResolvedModelConfig) -> None:
        super().__init__()
        inner = config.feedforward * config.width
        self.norm = make_norm(config.norm, config.width)
        self.up = nn.Linear(config.width, 2 * inner)
        self.down = nn.Linear(inner, config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        value, gate = self.up(self.norm(x, mask)).chunk(2, dim=-1)
        found: Tensor = x + self.dropout(self.down(value * F.silu(gate)))
        return found


class LevelState(NamedTuple):
    """State of a level, from which it goes on with the next event. Its size depends on the config alone."""

    pool: States
    mixers: States


class Level(nn.Module):
    """One granularity: where it has a span, a causal pooling of the level below; then depthwise separable blocks."""

    def __init__(self, config: ResolvedModelConfig, settings: LevelSettings) -> None:
        super().__init__()
        self.pool = make_pool(settings.kind, settings.pooling, config.width)
        self.blocks = nn.ModuleList(GatedBlock(config, settings) for _ in range(settings.depth))
        self.feedforward = GatedFeedForward(config) if config.feedforward else None

    def initial_state(self, batch: int, device: torch.device) -> LevelState:
        pool = () if self.pool is None else self.pool.initial_state(batch, device)
        return LevelState(
            pool, tuple(cast(GatedBlock, block).mixer.initial_state(batch, device) for block in self.blocks)
        )

    def forward(
        self, x: Tensor, mask: Tensor, clock: Clock | None, state: LevelState | None, only_last: bool = False
    ) -> tuple[Tensor, LevelState | None]:
        """x: [B, L, D] of the level below, mask: [B, L, 1] in {0, 1} -> [B, L, D], or with only_last
        [B, 1, D], and the new state, or None where no state was given.

        clock: the times of the events, None where no level reads times.
        """
        pool: States | None = None if state is None else state.pool
        if self.pool is not None:
            x, pool = self.pool(x, mask, clock, pool)
        mixers: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            only_last_here = only_last and number == len(self.blocks) - 1
            x, mixer = block(x, mask, None if state is None else state.mixers[number], only_last_here)
            if mixer is not None:
                mixers.append(mixer)
        if self.feedforward is not None:
            x = self.feedforward(x, last(mask, x.shape[1]))  # x may hold the last position alone
        return x, None if pool is None else LevelState(pool, tuple(mixers))

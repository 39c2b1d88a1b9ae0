"""MG-DSC: granularities of a history, tied by depthwise separable convolutions and fused into the user's interest.

Legend: `B` sequences, `L` positions, `D` width, `G` granularities, `K` kernel taps, `V` items (1..V; 0 is padding).

Three laws, each a test: the output at a position depends on positions up to it only (causality); left-padding
changes no output at a real position; the fast depthwise paths equal a plain loop.

The gated block follows the gated linear attention family (Dauphin et al. 2017, arXiv 1612.08083, for the gate); the
learned decay is a diagonal linear recurrence (as in LRU, Orvieto et al. 2023, arXiv 2303.06349, but real and
positive, with no complex phase).
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from mgray.config import DECAY_PATTERN, ModelConfig
from mgray.schema import PAD


def shift(x: Tensor, steps: int) -> Tensor:
    """`y[:, t] = x[:, t - steps]`, zero where there is none. x: [B, L, D] -> [B, L, D]; a negative step looks ahead."""
    length = x.shape[1]
    if abs(steps) >= length:
        return torch.zeros_like(x)
    if steps >= 0:
        return F.pad(x[:, : length - steps], (0, 0, steps, 0))
    return F.pad(x[:, -steps:], (0, 0, 0, -steps))


def causal_sum(x: Tensor, span: int) -> Tensor:
    """Sum over the last `span` positions, in log2(span) shifted additions. x: [B, L, D] -> [B, L, D].

    Doubling instead of a difference of cumulative sums: that one loses digits where a history is long.
    """
    total: Tensor | None = None
    power, covered, width = x, 0, 1
    while True:
        if span & width:
            part = shift(power, covered)
            total = part if total is None else total + part
            covered += width
        width *= 2
        if width > span:
            assert total is not None
            return total
        power = power + shift(power, width // 2)


def causal_mean(x: Tensor, mask: Tensor, span: int) -> Tensor:
    """Mean over the real positions among the last `span`. x: [B, L, D], mask: [B, L, 1] in {0, 1} -> [B, L, D]."""
    count = mask.cumsum(1).clamp(1, span)
    return causal_sum(x * mask, span) / count


def depthwise_causal(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """`y[:, t, d] = sum_k weight[d, k] x[:, t - (K - 1 - k) dilation, d]`. x: [B, L, D], weight: [D, K] -> [B, L, D].

    Written as a channels-last 2-D convolution: [B, L, D] is that layout already, so nothing is transposed, and on a
    CPU it takes a third to a fifth of conv1d's time.
    """
    _, taps = weight.shape
    padded = F.pad(x, (0, 0, (taps - 1) * dilation, 0))
    image = padded.transpose(1, 2).unsqueeze(2)  # [B, D, 1, L + pad], channels last in memory
    out = F.conv2d(image, weight[:, None, None, :], groups=x.shape[2], dilation=(1, dilation))
    return out.squeeze(2).transpose(1, 2)


class _DecayedSum(torch.autograd.Function):
    """`h_t = a h_{t-1} + x_t` in log2(L) doubling steps; its gradient is the same recurrence run backwards."""

    @staticmethod
    def _scan(x: Tensor, decay: Tensor, direction: int) -> Tensor:
        out, power, step = x.clone(), decay, 1
        length = x.shape[1]
        while step < length:
            # The addition reads `out` as it was before the step, so its product is made first.
            if direction > 0:
                out[:, step:] += power * out[:, : length - step]
            else:
                out[:, : length - step] += power * out[:, step:]
            power, step = power * power, step * 2
        return out

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, decay: Tensor) -> Tensor:
        out = _DecayedSum._scan(x, decay, 1)
        ctx.save_for_backward(out, decay)
        return out

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor]:
        out, decay = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_x = _DecayedSum._scan(grads[0], decay, -1)
        grad_decay = (grad_x[:, 1:] * out[:, :-1]).sum((0, 1))
        return grad_x, grad_decay


def decayed_sum(x: Tensor, decay: Tensor) -> Tensor:
    """`h_t = decay h_{t-1} + x_t`, `h` zero before the start. x: [B, L, D], decay: [D] in (0, 1) -> [B, L, D]."""
    result: Tensor = _DecayedSum.apply(x, decay)
    return result


class Dropout(nn.Module):
    """Inverted dropout. On a CPU the mask costs one random byte an element, so the rate is rounded to 1/256.

    PyTorch's own draws a Bernoulli variable an element there, ten times dearer: a seventh of the whole step.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        dropped = round(self.rate * 256)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * (keep * (256 / (256 - dropped))).to(x.dtype)


class StrideMixer(nn.Module):
    """Depthwise causal convolution of K taps, dilated to the level's stride."""

    def __init__(self, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        bound = 1 / math.sqrt(kernel)
        self.weight = nn.Parameter(torch.empty(width, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_causal(x, self.weight.to(x.dtype), self.stride) + self.bias


class DecayMixer(nn.Module):
    """Depthwise causal convolution whose filter is an exponential that never ends, one learned time scale a channel.

    `a = exp(-exp(-tau))`, so a channel's time scale is `exp(tau)` events; the sum is scaled by `1 - a` to stay a
    mean, and a learned share of the input is added, since the newest event weighs little in a long mean.
    """

    def __init__(self, width: int, shortest: float, longest: float) -> None:
        super().__init__()
        self.tau = nn.Parameter(torch.linspace(math.log(shortest), math.log(longest), width))
        self.skip = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        # In fp32 whatever the input: 1 - a of a long time scale has no digits left in bf16.
        x = x.float()
        decay = torch.exp(-torch.exp(-self.tau))
        return decayed_sum(x, decay) * (1 - decay) + self.skip * x


class GatedBlock(nn.Module):
    """`x + drop(W_out(norm(mixer(silu(v))) * silu(g)))`, `v, g = W_in norm(x)`: the depthwise separable block.

    The mixer is the depthwise half; W_in and W_out are the pointwise halves around it.
    """

    def __init__(self, width: int, mixer: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.pointwise_in = nn.Linear(width, 2 * width)
        self.mixer = mixer
        self.mixed_norm = nn.LayerNorm(width)
        self.pointwise_out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        value, gate = self.pointwise_in(self.norm(x)).chunk(2, dim=-1)
        mixed = self.mixer(F.silu(value) * mask)
        out = self.pointwise_out(self.mixed_norm(mixed) * F.silu(gate))
        return x + self.dropout(out)


class GatedFeedForward(nn.Module):
    """`x + drop(W_down(v * silu(g)))`, `v, g = W_up norm(x)`."""

    def __init__(self, width: int, multiple: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * multiple * width)
        self.down = nn.Linear(multiple * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        return x + self.dropout(self.down(value * F.silu(gate)))


class Level(nn.Module):
    """One granularity: a causal pooling of the level below over the stride, then depthwise separable blocks."""

    def __init__(self, config: ModelConfig, granularity: int | str) -> None:
        super().__init__()
        self.stride = granularity if isinstance(granularity, int) else 1
        blocks: list[nn.Module] = []
        for _ in range(config.depth):
            blocks.append(GatedBlock(config.width, self._mixer(config, granularity), config.dropout))
        self.blocks = nn.ModuleList(blocks)
        self.feedforward = (
            GatedFeedForward(config.width, config.feedforward, config.dropout) if config.feedforward else None
        )

    @staticmethod
    def _mixer(config: ModelConfig, granularity: int | str) -> nn.Module:
        if isinstance(granularity, int):
            return StrideMixer(config.width, config.kernel, granularity)
        match = DECAY_PATTERN.match(granularity)
        assert match is not None, f"the config lets no such granularity through: {granularity}"
        return DecayMixer(config.width, float(match[1]), float(match[2]))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.stride > 1:
            x = causal_mean(x, mask, self.stride)
        for block in self.blocks:
            x = block(x, mask)
        return x if self.feedforward is None else self.feedforward(x)


class AttentionFusion(nn.Module):
    """Multi-head attention over the G levels at each position; the finest level asks.

    A level's values are its own channels (a head is a slice of them): with a handful of levels a value projection
    adds parameters, not choice, and without it a level's share reads directly as its weight in the interest.
    """

    def __init__(self, width: int, num_levels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.level_bias = nn.Parameter(torch.zeros(num_levels, heads))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_levels))

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """levels: G x [B, L, D] -> (fused [B, L, D], share [B, L, G, heads], which sums to 1 over G)."""
        normed = torch.stack([norm(level) for norm, level in zip(self.norms, levels, strict=True)], dim=2)
        batch, length, num_levels, width = normed.shape
        per_head = width // self.heads
        query = self.query(normed[:, :, 0]).view(batch, length, 1, self.heads, per_head)
        key = self.key(normed).view(batch, length, num_levels, self.heads, per_head)
        logits = (query * key).sum(-1).float() / math.sqrt(per_head) + self.level_bias
        share = logits.softmax(dim=2)
        values = torch.stack(levels, dim=2).view(batch, length, num_levels, self.heads, per_head)
        fused = (share.unsqueeze(-1).to(values.dtype) * values).sum(2)
        return fused.reshape(batch, length, width), share


class MGDSC(nn.Module):
    """History of item numbers to user interest at every position, scored against the item embedding itself."""

    def __init__(self, config: ModelConfig, num_items: int) -> None:
        super().__init__()
        self.config = config
        self.num_items = num_items
        self.embedding = nn.Embedding(num_items + 1, config.width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(config.width))
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        # The table is small enough to score with; the blocks want inputs of unit variance.
        self.input_norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)
        self.levels = nn.ModuleList(Level(config, granularity) for granularity in config.granularities)
        self.fusion = (
            AttentionFusion(config.width, len(self.levels), config.heads) if config.fusion == "attention" else None
        )
        self.output_norm = nn.LayerNorm(config.width)

    def fuse(self, items: Tensor) -> tuple[Tensor, Tensor | None]:
        """items: [B, L] int64, 0 = pad -> (interest [B, L, D], share of each granularity [B, L, G, heads] or None)."""
        mask = (items != PAD).unsqueeze(-1).to(self.embedding.weight.dtype)
        x = self.dropout(self.input_norm(self.embedding(items)))
        outputs: list[Tensor] = []
        for level in self.levels:
            x = level(x, mask)
            outputs.append(x)
        if self.fusion is not None:
            fused, share = self.fusion(outputs)
        else:
            fused, share = torch.stack(outputs).sum(0), None
        return self.output_norm(fused), share

    def forward(self, items: Tensor) -> Tensor:
        """items: [B, L] int64, 0 = pad, oldest first -> interest [B, L, D] at every position."""
        return self.fuse(items)[0]

    def score(self, interest: Tensor) -> Tensor:
        """interest: [T, D] -> scores [T, V + 1] float32; padding scores minus infinity."""
        scores = interest.float() @ self.embedding.weight.float().T
        scores[:, PAD] = -torch.inf
        return scores

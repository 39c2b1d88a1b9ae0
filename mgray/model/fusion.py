"""Fusion: combines the levels' outputs at a position into one vector.

Legend: `B` sequences, `L` positions, `D` width, `G` granularities.

A fusion takes the G outputs [B, L, D], finest first, the mask [B, L, 1], and which levels each history is read by
(`kept` [B, G] bool; None: all); it returns the fused [B, L, D] and, for attention only, each level's share
[B, L, G, heads], which sums to 1 over G. `parts` returns the summands of the fused vector, [B, L, G, D].
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mgray.config import ResolvedModelConfig
from mgray.model.layers import make_norm

Fused = tuple[Tensor, Tensor | None]


def _zero_dropped(levels: Sequence[Tensor], kept: Tensor | None) -> Sequence[Tensor]:
    if kept is None:
        return levels
    return [level * kept[:, g, None, None] for g, level in enumerate(levels)]


class SumFusion(nn.Module):
    def forward(self, levels: Sequence[Tensor], mask: Tensor, kept: Tensor | None) -> Fused:
        return torch.stack(list(_zero_dropped(levels, kept))).sum(0), None

    def parts(self, levels: Sequence[Tensor], mask: Tensor) -> Tensor:
        return torch.stack(list(levels), dim=2)


class ConcatFusion(nn.Module):
    """One linear map of the concatenated outputs."""

    def __init__(self, config: ResolvedModelConfig) -> None:
        super().__init__()
        self.project = nn.Linear(len(config.granularities) * config.width, config.width)

    def forward(self, levels: Sequence[Tensor], mask: Tensor, kept: Tensor | None) -> Fused:
        return self.project(torch.cat(list(_zero_dropped(levels, kept)), dim=-1)), None

    def parts(self, levels: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Without the bias, which belongs to no level."""
        weights = self.project.weight.chunk(len(levels), dim=1)
        return torch.stack([level @ weight.T for level, weight in zip(levels, weights, strict=True)], dim=2)


class GateFusion(nn.Module):
    """`sum_g sigmoid(W_g norm(x_g)) * x_g`: each channel of a level opens or closes by what the level holds."""

    def __init__(self, config: ResolvedModelConfig) -> None:
        super().__init__()
        levels = range(len(config.granularities))
        self.gates = nn.ModuleList(nn.Linear(config.width, config.width) for _ in levels)
        self.norms = nn.ModuleList(make_norm(config.norm, config.width) for _ in levels)

    def forward(self, levels: Sequence[Tensor], mask: Tensor, kept: Tensor | None) -> Fused:
        return torch.stack(list(_zero_dropped(self._gated(levels, mask), kept))).sum(0), None

    def parts(self, levels: Sequence[Tensor], mask: Tensor) -> Tensor:
        return torch.stack(self._gated(levels, mask), dim=2)

    def _gated(self, levels: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        return [
            torch.sigmoid(gate(norm(level, mask))) * level
            for gate, norm, level in zip(self.gates, self.norms, levels, strict=True)
        ]


class AttentionFusion(nn.Module):
    """Multi-head attention over the G levels at each position; the finest level is the query.

    A level's values are its own channels (a head is a slice of them): with a handful of levels a value projection
    adds parameters, not choice, and without it a level's share reads directly as its weight in the interest.
    """

    def __init__(self, config: ResolvedModelConfig) -> None:
        super().__init__()
        num_levels = len(config.granularities)
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.level_bias = nn.Parameter(torch.zeros(num_levels, config.heads))
        self.norms = nn.ModuleList(make_norm(config.norm, config.width) for _ in range(num_levels))

    def forward(self, levels: Sequence[Tensor], mask: Tensor, kept: Tensor | None) -> Fused:
        share = self._shares(levels, mask, kept)
        fused = self._weigh(levels[0], share[:, :, 0])
        for g in range(1, len(levels)):  # stacking the levels would copy them several times
            fused = fused + self._weigh(levels[g], share[:, :, g])
        return fused, share

    def parts(self, levels: Sequence[Tensor], mask: Tensor) -> Tensor:
        share = self._shares(levels, mask, None)
        return torch.stack([self._weigh(level, share[:, :, g]) for g, level in enumerate(levels)], dim=2)

    def _shares(self, levels: Sequence[Tensor], mask: Tensor, kept: Tensor | None) -> Tensor:
        """-> [B, L, G, heads]."""
        normed = [norm(level, mask) for norm, level in zip(self.norms, levels, strict=True)]
        query = self._heads(self.query(normed[0]))
        products = torch.stack([(query * self._heads(self.key(level))).sum(-1) for level in normed], dim=2)
        logits = products.float() / math.sqrt(query.shape[-1]) + self.level_bias
        if kept is not None:
            logits = logits.masked_fill(~kept[:, None, :, None], -torch.inf)
        return logits.softmax(dim=2)

    def _weigh(self, level: Tensor, share: Tensor) -> Tensor:
        """level: [B, L, D], share: [B, L, heads] -> [B, L, D]."""
        return (share.unsqueeze(-1).to(level.dtype) * self._heads(level)).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, heads, D / heads]."""
        found: Tensor = x.unflatten(-1, (self.heads, -1))
        return found


Fusion = SumFusion | ConcatFusion | GateFusion | AttentionFusion


def make_fusion(config: ResolvedModelConfig) -> Fusion:
    match config.fusion:
        case "sum":
            return SumFusion()
        case "concat":
            return ConcatFusion(config)
        case "gate":
            return GateFusion(config)
        case "attention":
            return AttentionFusion(config)

"""Untrained models whose every weight is away from its neutral start, where a broken law could hide; and histories."""

from typing import TypeVar

import torch

from mgray.config import ResolvedModelConfig
from mgray.data.inputs import Inputs, InputSpec
from mgray.data.manifest import Feature
from mgray.model.ensemble import Ensemble
from mgray.model.layers import BatchNorm
from mgray.model.mgdsc import MGDSC

AnyModel = TypeVar("AnyModel", MGDSC, Ensemble)

NUM_ITEMS = 50
SPEC = InputSpec(
    event_types=("view", "buy"), features=(Feature(name="price", mean=0.0, std=1.0),), rating_mean=3.0, rating_std=1.5
)
# Equal times, the same session, another one, another day, another week.
GAPS_S = (0.0, 60.0, 1700.0, 1900.0, 9_000.0, 50_000.0, 400_000.0)


def make_model(config: ResolvedModelConfig, seed: int = 0) -> MGDSC:
    torch.manual_seed(seed)
    return perturbed(MGDSC(config, NUM_ITEMS, SPEC))


def make_ensemble(config: ResolvedModelConfig, seed: int = 0) -> Ensemble:
    torch.manual_seed(seed)
    return perturbed(Ensemble(config, NUM_ITEMS, SPEC))


def perturbed(model: AnyModel) -> AnyModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for member in model.members:
            member.embedding.weight[0] = 0
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.running_mean.add_(torch.randn_like(module.running_mean), alpha=0.1)
                module.running_variance.mul_(1 + torch.rand_like(module.running_variance))
    return model.eval()


def make_inputs(length: int, seed: int = 1, rows: int = 2) -> Inputs:
    """Random events in all columns: [rows, length]."""
    source = torch.Generator().manual_seed(seed)
    items = torch.randint(1, NUM_ITEMS + 1, (rows, length), generator=source)
    gaps = torch.tensor(GAPS_S, dtype=torch.float64)[torch.randint(0, len(GAPS_S), (rows, length), generator=source)]
    ratings = torch.randint(1, 6, (rows, length), generator=source).float()
    ratings[torch.rand(rows, length, generator=source) < 0.2] = torch.nan
    return Inputs(
        items,
        1.7e9 + gaps.cumsum(1),
        torch.randint(0, len(SPEC.event_types) + 1, (rows, length), generator=source),
        ratings,
        torch.randn(rows, length, len(SPEC.features), generator=source),
    )


def pad_left(inputs: Inputs, padding: int) -> Inputs:
    """Of [rows, length] or [rows, length, F]; what padding holds is nobody's business but the item's."""
    return inputs.map(
        lambda column: torch.cat([torch.zeros_like(column[:, :1]).expand(-1, padding, *column.shape[2:]), column], 1)
    )

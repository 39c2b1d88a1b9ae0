"""Optimizer and learning-rate schedule."""

import torch
from torch import nn

from mgray.config import TrainConfig

BETAS = (0.9, 0.98)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on norms, biases and time scales."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, fused=True)


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Linear warm-up, constant, then linear to zero over the last `decay_share`. progress: share of the run, 0 to 1."""
    rate = config.learning_rate
    if config.warmup_share:
        rate = min(rate, config.learning_rate * progress / config.warmup_share)
    if config.decay_share:
        rate = min(rate, config.learning_rate * (1 - progress) / config.decay_share)
    return max(rate, 0.0)

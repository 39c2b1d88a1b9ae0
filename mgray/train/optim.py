"""Optimizer, learning-rate schedule, and the average of weights."""

import torch
from torch import Tensor, nn

from mgray.config import TrainConfig

BETAS = (0.9, 0.98)
ADAM_EPS = 1e-8


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a weight is a matrix and no norm, bias or time scale; a bias may have a value for each level and head."""
    return tensor.dim() >= 2 and not name.endswith("bias")


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on norms, biases and time scales."""
    named = [(is_matrix(name, p), p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for is_decayed, p in named if is_decayed], "weight_decay": config.weight_decay},
        {"params": [p for is_decayed, p in named if not is_decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, eps=ADAM_EPS, fused=True)


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Linear warm-up, constant, then linear to zero over the last `decay_share`. progress: share of the run, 0 to 1."""
    rate = config.learning_rate
    if config.warmup_share:
        rate = min(rate, config.learning_rate * progress / config.warmup_share)
    if config.decay_share:
        rate = min(rate, config.learning_rate * (1 - progress) / config.decay_share)
    return max(rate, 0.0)


class WeightAverage:
    """Exponential moving average of a model's weights over the steps taken, which begins as their plain mean.

    state += share (weights - state), share = (1 - decay) / (1 - decay^step): Adam's bias correction (Kingma & Ba 2015).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """step: the steps taken, this one among them, from 1."""
        share = (1 - self.decay) / (1 - self.decay**step)
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, share)
            else:
                self.state[name].copy_(tensor)

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's average."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

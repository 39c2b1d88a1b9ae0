"""Model and loss as one module, and the arithmetic that they run in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from mgray.config import TrainConfig
from mgray.data.inputs import Inputs
from mgray.model.ensemble import Model
from mgray.schema import PAD
from mgray.train import losses
from mgray.train.negatives import Negatives, Seen, seen_items, take_hardest


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bf16 on a GPU that multiplies matrices in it, else fp32."""
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.float32


def resolve_loss_precision(config: TrainConfig, device: torch.device) -> torch.dtype:
    """`auto` is bf16 on a CPU that multiplies matrices in it too, unless `precision` asks for fp32: the loss gains by
    it, small blocks do not.
    """
    if config.loss_precision is None or (config.loss_precision == "auto" and config.precision == "fp32"):
        return resolve_precision(config.precision, device)
    if config.loss_precision == "auto" and device.type == "cpu":
        return torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16", False) else torch.float32
    return resolve_precision(config.loss_precision, device)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


class Objective(nn.Module):
    """Model and loss as one module, so that DDP sees one forward pass."""

    def __init__(self, model: Model, config: TrainConfig, device: torch.device, *, exclude_seen: bool) -> None:
        """exclude_seen: what `resolve_exclude_seen` makes of the config."""
        super().__init__()
        self.model, self.config = model, config
        self.loss_dtype = resolve_loss_precision(config, device)
        self.exclude_seen = exclude_seen

    def forward(
        self, inputs: Inputs, targets: Tensor, negatives: Negatives | None, target_ratings: Tensor | None = None
    ) -> Tensor:
        """inputs, targets: [B, L], negatives: N, or None for softmax -> sum of the loss over the targets, [].

        target_ratings: [B, L], NaN = none, for a model that rates; an unrated target adds no rating loss.
        """
        interest = self.model(inputs)
        head, config = self.model.rating_head, self.config
        if head is None:
            return self._next_item(interest, inputs, targets, negatives)
        assert target_ratings is not None, "the feed gives ratings to a model that rates"
        rating = head.loss(interest, inputs, targets, target_ratings, config.rating_l2)
        if self.model.config.outputs == "rating":
            return rating
        return self._next_item(interest, inputs, targets, negatives) + config.rating_weight * rating

    def _next_item(self, interest: Tensor, inputs: Inputs, targets: Tensor, negatives: Negatives | None) -> Tensor:
        """interest: [B, L, M D] of M members, inputs, targets: [B, L] -> the mean of the members' losses, []."""
        real = targets != PAD
        asked = targets[real]
        # As far as the batch shows them: neither what a window begins after, nor what augmentation took out or hid.
        seen = seen_items(inputs.items, real) if self.exclude_seen else None
        of_members = [
            next_item_loss(own, member.embedding.weight, asked, negatives, self.config, self.loss_dtype, seen)
            for member, own in self.model.each(interest[real])
        ]
        return torch.stack(of_members).mean()


def next_item_loss(
    interest: Tensor,
    embedding: Tensor,
    targets: Tensor,
    negatives: Negatives | None,
    config: TrainConfig,
    dtype: torch.dtype,
    seen: Seen | None = None,
) -> Tensor:
    """The config's loss, summed over the targets, [].

    interest: [T, D], embedding: [V + 1, D], targets: [T] int64 in 1..V, negatives: None for softmax alone, dtype: of
    the matrix products, seen: items that are left out of the negatives.
    """
    if config.loss == "softmax":
        return losses.softmax_loss(interest, embedding, targets, dtype, config.label_smoothing, seen)
    assert negatives is not None, "every loss but softmax draws negatives"
    if config.loss == "gbce":
        return losses.gbce_loss(interest, embedding, targets, negatives, config.gbce_calibration, dtype, seen)
    if config.hard_negatives:
        count, share = config.num_negatives, config.hard_negatives
        negatives = take_hardest(negatives, count, share, interest, embedding, targets, seen)
    return losses.sampled_softmax_loss(interest, embedding, targets, negatives, dtype, config.label_smoothing, seen)

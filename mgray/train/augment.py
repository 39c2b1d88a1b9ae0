"""Sequence augmentation of a training batch: crop, reorder, item dropout, mask (Xie et al. 2022, CL4SRec).

Legend: `B` sequences, `L` positions.

The paper contrasts augmented views of a history; here the model trains on the augmented history itself. An event is
taken out, or moved, as an input and as a target alike, so that no position sees its own target.
"""

import numpy as np
import torch
from torch import Tensor

from mgray.config import TrainConfig
from mgray.data.feed import Batch
from mgray.data.inputs import Inputs
from mgray.data.padding import PADDING
from mgray.schema import EVENT_COLUMNS, PAD

REORDERED_SHARE = 0.2  # of a history, in a row
STAY_IN_ORDER = {column.name for column in EVENT_COLUMNS if not column.moves_with_item}


def is_augmented(config: TrainConfig) -> bool:
    shares = (config.augment_crop, config.augment_reorder, config.augment_shuffle, config.augment_drop)
    return any((*shares, config.augment_mask))


def augment(batch: Batch, config: TrainConfig, random: np.random.Generator) -> Batch:
    """The batch with each history's events cropped, dropped, shuffled and masked by the config's shares.

    Timestamps stay in order where items are shuffled. A batch may end with fewer targets than it had.
    """
    is_real = batch.inputs.items != PAD
    shape = is_real.shape
    kept = is_real & _draw(random, shape, 1 - config.augment_drop)
    kept &= _begin_late(is_real, config.augment_crop, random)
    # The last input stays, and with it the last target: a history never comes out empty.
    kept[:, -1] = is_real[:, -1]
    place = torch.arange(shape[1]).expand(shape)
    moved = _shuffled(place, is_real, _moved_share(config, len(is_real), random), random)
    batch = _arranged(batch, kept, place, moved)
    hidden = (batch.inputs.items != PAD) & _draw(random, shape, config.augment_mask)
    return batch._replace(inputs=batch.inputs._replace(items=batch.inputs.items.masked_fill(hidden, PAD)))


def _draw(random: np.random.Generator, shape: tuple[int, ...], share: float) -> Tensor:
    """True with probability `share`."""
    return torch.from_numpy(random.random(shape) < share)


def _begin_late(is_real: Tensor, share: float, random: np.random.Generator) -> Tensor:
    """[B, L]: false at the events that cropping takes from a history's start, up to half of them."""
    lengths = is_real.sum(1)
    chosen = _draw(random, lengths.shape, share)
    skipped = (torch.from_numpy(random.random(lengths.shape)) * (lengths / 2)).long()
    return is_real.cumsum(1) > torch.where(chosen, skipped, 0)[:, None]


def _moved_share(config: TrainConfig, num_rows: int, random: np.random.Generator) -> Tensor:
    """[B]: the share of each history to shuffle."""
    part = torch.where(_draw(random, (num_rows,), config.augment_reorder), REORDERED_SHARE, 0.0)
    return torch.where(_draw(random, (num_rows,), config.augment_shuffle), 1.0, part)


def _shuffled(place: Tensor, is_real: Tensor, share: Tensor, random: np.random.Generator) -> Tensor:
    """[B, L]: the indices, shuffled within a run of `share` of each history, two events at least. share: [B]."""
    lengths = is_real.sum(1)
    span = torch.where(share > 0, (lengths * share).round().long().clamp(min=2).minimum(lengths), 0)
    first = is_real.shape[1] - lengths
    first = first + (torch.from_numpy(random.random(lengths.shape)) * (lengths - span + 1)).long()
    inside = (place >= first[:, None]) & (place < (first + span)[:, None])
    # Sorting by a random key inside the span, by place outside, leaves the rest where it is.
    key = torch.where(inside, first[:, None] + torch.from_numpy(random.random(place.shape)) * 0.5, place.double())
    return key.argsort(dim=1, stable=True)


def _arranged(batch: Batch, kept: Tensor, place: Tensor, moved: Tensor) -> Batch:
    """The kept events in the order of `moved`, padded on the left again.

    The target at a position is the event that follows in the new order, where it was a target before.
    """
    order = moved.gather(1, kept.gather(1, moved).long().argsort(dim=1, stable=True))
    in_place = place.gather(1, kept.long().argsort(dim=1, stable=True))
    present = kept.gather(1, order)

    def arrange(name: str, column: Tensor) -> Tensor:
        index = in_place if name in STAY_IN_ORDER else order
        index = index if column.dim() == 2 else index[:, :, None].expand(-1, -1, column.shape[2])
        is_kept = present if column.dim() == 2 else present[:, :, None]
        return torch.where(is_kept, column.gather(1, index), torch.full((), PADDING[name].value, dtype=column.dtype))

    def follow(targets: Tensor, blank: float) -> Tensor:
        as_event = torch.cat([torch.full_like(targets[:, :1], blank), targets[:, :-1]], dim=1)
        followed = torch.cat([as_event.gather(1, order)[:, 1:], targets[:, -1:]], dim=1)
        return torch.where(present, followed, torch.full((), blank, dtype=targets.dtype))

    inputs = Inputs(**{name: arrange(name, column) for name, column in batch.inputs.present().items()})
    ratings = None if batch.target_ratings is None else follow(batch.target_ratings, torch.nan)
    return Batch(inputs, follow(batch.targets, PAD), ratings)

"""Starts a model from an earlier one whose vocabulary differs: item rows are matched by raw id."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mgray.errors import InputError
from mgray.model import MGDSC
from mgray.recommend import number_map
from mgray.schema import PAD, UNKNOWN

NEW_ITEM_NOISE = 0.1  # share of the known rows' deviation that new rows scatter by


class WarmStart(NamedTuple):
    num_matched: int
    num_new: int


def warm_start_(
    model: MGDSC, item_ids: Sequence[str], source: MGDSC, source_ids: Sequence[str], keep: float = 1.0
) -> WarmStart:
    """Copy `source` into `model`, in place: every weight as it is, item rows by raw id.

    With `keep` below 1 each matrix becomes keep * source + (1 - keep) * the random start that `model` came with;
    vectors (norms, biases, time scales) are copied whole. Weights that training has settled learn less from new data
    than fresh ones; shrunk and perturbed they learn as well (Ash & Adams, "On warm-starting neural network training",
    NeurIPS 2020; a deviation: the perturbation is the random start itself, so its scale needs no tuning).

    A new item starts at the mean of the known rows with a tenth of their scatter: scored like an average item until
    it is learned, instead of at random. Draws from torch's generator. Raises InputError where the models' configs
    differ in shape.
    """
    if source.config != model.config:
        changed = [name for name, value in source.config.model_dump().items() if getattr(model.config, name) != value]
        # Dropout has no weights; anything else changes shapes or meaning.
        if changed != ["dropout"]:
            raise InputError(
                f"train.warm_start: the earlier model differs in {', '.join(f'model.{name}' for name in changed)}; "
                f"take its values, or train without warm start"
            )
    rows = torch.from_numpy(number_map(item_ids, source_ids)[1:-1]).long()
    known = rows != UNKNOWN
    # Vectors are copied whole, so only matrices are mixed with their random start.
    mixed = [name for name, tensor in model.state_dict().items() if keep < 1 and tensor.dim() >= 2]
    fresh_start = {name: model.state_dict()[name].clone() for name in mixed}
    weights = {name: tensor for name, tensor in source.state_dict().items() if name != "embedding.weight"}
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        table = source.embedding.weight[1:]
        scatter = NEW_ITEM_NOISE * table.std(0)
        fresh = table.mean(0) + scatter * torch.randn(len(item_ids), table.shape[1], device=table.device)
        matched = source.embedding.weight[rows.clamp(min=PAD).to(table.device)]
        model.embedding.weight[1:] = torch.where(known.to(table.device)[:, None], matched, fresh)
        for name, start in fresh_start.items():
            model.state_dict()[name].lerp_(start, 1 - keep)
    return WarmStart(int(known.sum()), int((~known).sum()))

"""Starts a model from an earlier one whose vocabulary differs: item rows are matched by raw id."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mgray.errors import InputError
from mgray.model import MGDSC
from mgray.schema import PAD

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
    number = {item_id: i for i, item_id in enumerate(source_ids, start=1)}
    rows = torch.tensor([number.get(item_id, PAD) for item_id in item_ids])
    known = rows != PAD
    fresh_start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = {name: tensor for name, tensor in source.state_dict().items() if name != "embedding.weight"}
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        table = source.embedding.weight[1:]
        scatter = NEW_ITEM_NOISE * table.std(0)
        fresh = table.mean(0) + scatter * torch.randn(len(item_ids), table.shape[1], device=table.device)
        matched = source.embedding.weight[rows.to(table.device)]
        model.embedding.weight[1:] = torch.where(known.to(table.device)[:, None], matched, fresh)
        for name, tensor in model.state_dict().items():
            if keep < 1 and tensor.dim() >= 2:
                tensor.lerp_(fresh_start[name].to(tensor.device), 1 - keep)
    return WarmStart(int(known.sum()), int((~known).sum()))

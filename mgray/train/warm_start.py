"""Starts a model from an earlier one whose vocabulary differs: rows of items and event types are matched by name."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mgray.config import ResolvedModelConfig
from mgray.data.inputs import InputSpec
from mgray.data.item_numbers import number_map
from mgray.errors import InputError
from mgray.model.ensemble import Model
from mgray.model.mgdsc import MGDSC
from mgray.schema import PAD, UNKNOWN
from mgray.train.optim import is_matrix
from mgray.train.resolve import FREE_TO_CHANGE

ITEM_TABLES = ("embedding.weight", "rating_head.table.weight")
EVENT_TYPE_TABLE = "input_encoder.encoders.event_type.weight"
BLOCK_ROWS = 2**14  # items that are filled at once
NEW_ITEM_NOISE = 0.1  # share of the known rows' deviation that new rows scatter by


class WarmStart(NamedTuple):
    num_matched: int
    num_new: int


def check_fits(
    config: ResolvedModelConfig, spec: InputSpec, source_config: ResolvedModelConfig, source_spec: InputSpec
) -> None:
    """Raises InputError where a model of `config` cannot start from one of `source_config`: they differ in shape, or
    their features in name.
    """
    is_other = {name for name, value in source_config.model_dump().items() if getattr(config, name) != value}
    changed = [name for name in ResolvedModelConfig.model_fields if name in is_other - FREE_TO_CHANGE]
    if changed:
        raise InputError(
            f"train.warm_start: the earlier model differs in {', '.join(f'model.{name}' for name in changed)}; "
            f"take its values, or train without warm start"
        )
    names, source_names = ([feature.name for feature in one.features] for one in (spec, source_spec))
    if names != source_names:
        raise InputError(
            f"train.warm_start: the earlier model reads the features {', '.join(source_names)}, and the dataset has "
            f"{', '.join(names)}; ingest with the same data.columns.features, or train without warm start"
        )


def warm_start_(
    model: Model, item_ids: Sequence[str], source: Model, source_ids: Sequence[str], keep: float = 1.0
) -> WarmStart:
    """Copy `source` into `model`, in place: every weight as it is, rows of items and event types by name; of an
    ensemble, member by member.

    With `keep` below 1 each matrix becomes keep * source + (1 - keep) * the random start that `model` came with;
    vectors (norms, biases, time scales) are copied whole. Weights that training has settled learn less from new data
    than fresh ones; shrunk and perturbed they learn as well (Ash & Adams, "On warm-starting neural network training",
    NeurIPS 2020; a deviation: the perturbation is the random start itself, so its scale needs no tuning).

    A new item starts at the mean of the known rows with a tenth of their scatter: scored like an average item until
    it is learned, instead of at random; a new event type starts at zero. Draws from torch's generator. Raises
    InputError as `check_fits`.
    """
    check_fits(model.config, model.spec, source.config, source.spec)
    rows = torch.from_numpy(number_map(item_ids, source_ids)[1:-1]).long()
    for member, earlier in zip(model.members, source.members, strict=True):
        _start_member(member, earlier, rows, keep)
    known = rows != UNKNOWN
    return WarmStart(int(known.sum()), int((~known).sum()))


def _start_member(model: MGDSC, source: MGDSC, rows: Tensor, keep: float) -> None:
    """rows: [V] that of each item in the source's table, or UNKNOWN."""
    # Vectors are copied whole, so only matrices are mixed with their random start; item tables by blocks, below.
    is_mixed = {name: keep < 1 and is_matrix(name, tensor) for name, tensor in model.state_dict().items()}
    mixed = [name for name, mixes in is_mixed.items() if mixes and name not in ITEM_TABLES]
    fresh_start = {name: model.state_dict()[name].clone() for name in mixed}
    by_name = (*ITEM_TABLES, EVENT_TYPE_TABLE)
    model.load_state_dict({k: tensor for k, tensor in source.state_dict().items() if k not in by_name}, strict=False)
    if EVENT_TYPE_TABLE in model.state_dict():
        _copy_event_types(model, source)
    with torch.no_grad():
        for name in ITEM_TABLES:
            if name in model.state_dict():
                own_keep = keep if is_mixed[name] else 1.0
                _copy_items(model.state_dict()[name], source.state_dict()[name], rows, own_keep)
        for name, start in fresh_start.items():
            model.state_dict()[name].lerp_(start, 1 - keep)


def _copy_items(table: Tensor, earlier: Tensor, rows: Tensor, keep: float) -> None:
    """Fill a table [V + 1, D] by `keep` parts of the source's rows and its own for the rest, in blocks of items.

    earlier: the source's; rows: [V] that of each item in the source's, or UNKNOWN.
    """
    scatter = NEW_ITEM_NOISE * earlier[1:].std(0, unbiased=False)  # a catalogue may be one item
    mean = earlier[1:].mean(0)
    for begin in range(0, len(rows), BLOCK_ROWS):
        block = rows[begin : begin + BLOCK_ROWS].to(earlier.device)
        fresh = mean + scatter * torch.randn(len(block), earlier.shape[1], device=earlier.device)
        known = (block != UNKNOWN)[:, None]
        start = torch.where(known, earlier[block.clamp(min=PAD)], fresh).to(table.device)
        own = table[1 + begin : 1 + begin + len(block)]
        own.copy_(start.lerp_(own, 1 - keep) if keep < 1 else start)


def _copy_event_types(model: MGDSC, source: MGDSC) -> None:
    rows = torch.from_numpy(number_map(model.spec.event_types, source.spec.event_types)[1:-1]).long()
    table, earlier = model.state_dict()[EVENT_TYPE_TABLE], source.state_dict()[EVENT_TYPE_TABLE]
    table[0] = earlier[0]
    table[1:][rows != UNKNOWN] = earlier[rows[rows != UNKNOWN]].to(table.device)

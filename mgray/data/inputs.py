"""What a model reads of a history: item numbers and, where it is told to, the log's other columns.

Legend: `B` sequences, `L` positions, `F` numeric features.
"""

from collections.abc import Callable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from mgray.config import Input, ModelConfig, ResolvedModelConfig, granularity
from mgray.data.columns import OptionalColumn
from mgray.data.manifest import Feature, Manifest
from mgray.errors import InputError

COLUMN_OF: dict[Input, OptionalColumn] = {
    "event_type": "event_types",
    "features": "features",
    "rating": "ratings",
    "time_gap": "times",
    "hour": "times",
    "weekday": "times",
}
AUTO_INPUTS: tuple[Input, ...] = ("event_type", "features", "rating", "time_gap")


class Inputs(NamedTuple):
    """A batch of histories, oldest event first, padded on the left. A column that the model does not read is None."""

    items: Tensor  # [B, L] int64, 0 = pad
    times: Tensor | None = None  # [B, L] float64, seconds since 1970; 0 at padding
    event_types: Tensor | None = None  # [B, L] int64, 0 = none or pad, 1.. of the model's list
    ratings: Tensor | None = None  # [B, L] float32, NaN = none or pad
    features: Tensor | None = None  # [B, L, F] float32, standardized; 0 at padding

    def map(self, function: Callable[[Tensor], Tensor]) -> "Inputs":
        """`function` of every column that there is, such as a move to a device or a slice of rows."""
        return Inputs._make(None if column is None else function(column) for column in self)


class InputSpec(BaseModel):
    """What the numbers in a model's extra inputs stand for; all from the training part of its dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_types: tuple[str, ...] = ()  # name of type number i at index i - 1
    features: tuple[Feature, ...] = ()  # in the order of the columns
    rating_mean: float = 0.0
    rating_std: float = 1.0
    rating_scale: tuple[float, ...] = ()  # the values that ratings have, rising; empty: too many to be a scale


def read_columns(config: ResolvedModelConfig) -> frozenset[OptionalColumn]:
    """The columns beside items that a model of this config reads."""
    columns = {COLUMN_OF[name] for name in config.inputs}
    if config.outputs != "next_item":
        columns.add("ratings")
    kinds = [granularity.parse(level) for level in config.granularities]
    if any(isinstance(kind, granularity.Span | granularity.Session) for kind in kinds):
        columns.add("times")
    return frozenset(columns)


def resolve_inputs(config: ModelConfig, manifest: Manifest) -> ModelConfig:
    """The config with `inputs: auto` replaced by those that the dataset has.

    Raises InputError for an input that is asked for, or ratings to train on, that the dataset does not have.
    """
    there = available_inputs(manifest)
    if config.outputs != "next_item" and not manifest.has_ratings:
        raise InputError(
            f"model.outputs {config.outputs}: the dataset has no ratings; name their column by data.columns.rating, or "
            "set model.outputs next_item"
        )
    levels = [level for level in config.granularities if granularity.reads_times(level)]
    if levels and not manifest.has_times:
        raise InputError(
            f"model.granularities: {levels[0]} spans time, and the dataset has no times (its log was read with "
            "data.columns.timestamp none); give levels in events, such as 4 or decay:1..400"
        )
    if config.inputs == "auto":
        return config.model_copy(update={"inputs": there})
    for name in config.inputs:
        if COLUMN_OF[name] == "times" and not manifest.has_times:
            raise InputError(
                f"model.inputs: {name} needs times, and the dataset has none (its log was read with "
                "data.columns.timestamp none); leave it out"
            )
        if name in AUTO_INPUTS and name not in there:
            raise InputError(
                f"model.inputs: the dataset has no {name} (it has: {', '.join(there) or 'none'}); leave it out, or "
                "ingest a log that has it (see data.columns)"
            )
    return config


def available_inputs(manifest: Manifest) -> tuple[Input, ...]:
    """Those of AUTO_INPUTS that the dataset has."""
    has = {
        "event_type": manifest.has_event_types,
        "features": bool(manifest.features),
        "rating": manifest.has_ratings,
        "time_gap": manifest.has_times,
    }
    return tuple(name for name in AUTO_INPUTS if has[name])


def named_inputs(config: ResolvedModelConfig, manifest: Manifest) -> InputSpec:
    """The names that the model's inputs stand for. `Dataset.input_spec` has the ratings' moments."""
    return InputSpec(
        event_types=tuple(kind.name for kind in manifest.event_types) if "event_type" in config.inputs else (),
        features=tuple(manifest.features) if "features" in config.inputs else (),
    )

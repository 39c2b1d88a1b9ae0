"""Inputs of a model from a history: item numbers and, by its config, event columns.

Legend: `B` sequences, `L` positions, `F` numeric features.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from mgray.config import ModelConfig, ResolvedModelConfig, granularity, memory_kernel
from mgray.data.manifest import Feature, Manifest
from mgray.errors import InputError
from mgray.record import Record
from mgray.schema import AUTO_INPUTS, EVENT_COLUMNS, Input, OptionalColumn

# Model input -> the event column that it reads.
COLUMN_OF: dict[Input, OptionalColumn] = {name: column.name for column in EVENT_COLUMNS for name in column.inputs}


class Inputs(NamedTuple):
    """A batch of histories, oldest event first, padded on the left. A column that the model does not read is None."""

    items: Tensor  # [B, L] int64, 0 = pad
    times: Tensor | None = None  # [B, L] float64, seconds since 1970; 0 at padding
    event_types: Tensor | None = None  # [B, L] int64, 0 = none or pad, 1.. of the model's list
    ratings: Tensor | None = None  # [B, L] float32, NaN = none or pad
    features: Tensor | None = None  # [B, L, F] float32, standardized; 0 at padding

    def present(self) -> dict[str, Tensor]:
        """Name -> tensor of each column that the model reads, items included."""
        return {name: column for name, column in self._asdict().items() if column is not None}

    def map(self, function: Callable[[Tensor], Tensor]) -> "Inputs":
        """Apply `function` to every column that is not None: move it to a device, take some rows."""
        return Inputs._make(None if column is None else function(column) for column in self)


class InputSpec(Record):
    """The meaning of the numbers in a model's inputs, from the training part of its dataset."""

    event_types: tuple[str, ...] = ()  # name of type number i at index i - 1
    features: tuple[Feature, ...] = ()  # in the order of the columns
    rating_mean: float = 0.0
    rating_std: float = 1.0
    rating_scale: tuple[float, ...] = ()  # the values that ratings have, rising; empty: too many to be a scale


def read_columns(config: ResolvedModelConfig) -> frozenset[OptionalColumn]:
    """The event columns that a model of this config reads."""
    columns = {COLUMN_OF[name] for name in config.inputs}
    if config.outputs != "next_item":
        columns.add("ratings")
    if any(granularity.parse(level).reads_times for level in config.granularities):
        columns.add("times")
    if config.memory and any(memory_kernel.parse(kernel).reads_times for kernel in config.memory_kernels):
        columns.add("times")
    return frozenset(columns)


def resolve_inputs(config: ModelConfig, manifest: Manifest) -> ModelConfig:
    """Replace `inputs: auto` by the inputs that the dataset has.

    Raises InputError where the config asks for an input, or for ratings to train on, that the dataset does not have.
    """
    available = available_inputs(manifest)
    if config.outputs != "next_item" and not manifest.has_ratings:
        raise InputError(
            f"model.outputs {config.outputs}: the dataset has no ratings; name their column by data.columns.rating, or "
            "set model.outputs next_item"
        )
    levels = [level for level in config.granularities if granularity.parse(level).reads_times]
    if levels and not manifest.has_times:
        raise InputError(
            f"model.granularities: {levels[0]} spans time, and the dataset has no times (its log was read with "
            "data.columns.timestamp none); give levels in events, such as 4 or decay:1..400"
        )
    kernels = [kernel for kernel in config.memory_kernels if memory_kernel.parse(kernel).reads_times]
    if kernels and config.memory not in ("none", ()) and not manifest.has_times:
        raise InputError(
            f"model.memory_kernels: {kernels[0]} is a time, and the dataset has no times (its log was read with "
            "data.columns.timestamp none); give ages in events, such as 10"
        )
    if config.inputs == "auto":
        return config.model_copy(update={"inputs": available})
    for name in config.inputs:
        if COLUMN_OF[name] == "times" and not manifest.has_times:
            raise InputError(
                f"model.inputs: {name} needs times, and the dataset has none (its log was read with "
                "data.columns.timestamp none); leave it out"
            )
        if not manifest.has(COLUMN_OF[name]):
            raise InputError(
                f"model.inputs: the dataset has no {name} (it has: {', '.join(available) or 'none'}); leave it out, or "
                "ingest a log that has it (see data.columns)"
            )
    return config


def available_inputs(manifest: Manifest) -> tuple[Input, ...]:
    """The inputs of AUTO_INPUTS that the dataset has."""
    return tuple(name for name in AUTO_INPUTS if manifest.has(COLUMN_OF[name]))


def named_inputs(config: ResolvedModelConfig, manifest: Manifest) -> InputSpec:
    """The names in a model's InputSpec. `Dataset.input_spec` adds the ratings' moments."""
    return InputSpec(
        event_types=tuple(kind.name for kind in manifest.event_types) if "event_type" in config.inputs else (),
        features=tuple(manifest.features) if "features" in config.inputs else (),
    )

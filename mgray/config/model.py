"""Configuration of the model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mgray.config import granularity, memory_kernel
from mgray.config.base import Section
from mgray.schema import AUTO_INPUTS, Input

Granularity = Annotated[int | str, AfterValidator(granularity.checked)]
MemoryKernel = Annotated[int | str, AfterValidator(memory_kernel.checked)]
MemoryKind = Literal["pairs", "repeats"]
Pooling = Literal["mean", "max", "learned", "decay"]


def _within(low: float, high: float) -> Callable[[Any], Any]:
    """Checks a number, or each of a list of one a level; none is off, and passes."""

    def check(values: Any) -> Any:
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and not low <= value <= high:
                raise ValueError(f"{value} is not between {low} and {high}")
        return values

    return check


# Keys of ModelConfig that are one value for every level, or a list of one a level.
PER_LEVEL = ("kernel", "depth", "width_multiplier", "dilation", "pooling")


@dataclass(frozen=True)
class LevelSettings:
    """Settings of one level."""

    kind: granularity.Kind
    kernel: int
    depth: int
    inner_width: int
    dilation: int
    pooling: Pooling


Outputs = Literal["next_item", "rating", "both"]


class ModelConfig(Section):
    inputs: tuple[Input, ...] | Literal["auto"] = Field(
        (),
        description="what the model reads of an event beside its item; time_gap: since the event before; hour and "
        f"weekday in UTC; auto: {', '.join(AUTO_INPUTS[:-1])} and {AUTO_INPUTS[-1]} where the dataset has them",
    )
    outputs: Outputs = Field(
        "next_item",
        description="what the model is trained to tell: the next item, the rating that the user gives it, or both; a "
        "rating model also reads the ratings so far",
    )
    width: int = Field(64, ge=1, le=8192, description="embedding and channel width D")
    members: int = Field(
        1,
        ge=1,
        le=64,
        description="models of this width that are trained side by side, in the time of as many, and recommend by the "
        "mean of their scores; for outputs: next_item alone",
    )
    granularities: tuple[Granularity, ...] = Field(
        (1, "decay:1..400"),
        min_length=1,
        max_length=16,
        description=f"levels, finest first: {granularity.OPTION_TEXT}",
    )
    kernel: Annotated[int | tuple[int, ...], AfterValidator(_within(1, 256))] = Field(
        7, description="taps K of a level's convolution, of every level or a list; a decay's filter never ends"
    )
    depth: Annotated[int | tuple[int, ...], AfterValidator(_within(1, 32))] = Field(
        1, description="blocks a level, of every level or a list"
    )
    width_multiplier: Annotated[float | tuple[float, ...], AfterValidator(_within(0.01, 16))] = Field(
        1.0, description="channels inside a level's blocks, multiple of width, of every level or a list"
    )
    dilation: Annotated[int | tuple[int, ...] | None, AfterValidator(_within(1, 65_536))] = Field(
        None,
        description="events from one tap to the next, of every level or a list; none: a stride level's stride, else 1",
    )
    pooling: Pooling | tuple[Pooling, ...] = Field(
        "mean",
        description="what a level makes of the level below over its span, of every level or a list; learned: a mean "
        "with a learned weight for each event; decay: the span is the first time scale of a learned decay, and has no "
        "border; a level that spans one event, or is a decay itself, pools nothing",
    )
    conv: Literal["separable", "dense"] = Field(
        "separable",
        description="dense: one convolution over all channels in place of depthwise and pointwise, as a baseline",
    )
    norm: Literal["layer", "batch", "auto"] = Field(
        "auto",
        description="normalization over the channels of a position, or of a channel over the batch; auto: layer, or "
        "what the model has that training starts from",
    )
    feedforward: int = Field(2, ge=0, le=16, description="width multiple of each level's feed-forward; 0: none")
    fusion: Literal["attention", "gate", "concat", "sum"] = Field(
        "attention", description="how the levels' outputs become one"
    )
    heads: int = Field(4, ge=1, description="heads of the attention fusion")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | Literal["auto"] = Field(
        "auto",
        description="dropout rate of embeddings and blocks; auto: 0.5 - 0.25 log10(E / 100000) of E training events, "
        "within 0.1 and 0.5",
    )
    level_dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,  # of 1 the last level would never be read in training
        description="share of the training histories that are read by the first levels alone, as many as is drawn for "
        "each, so that the trained model can be cut to fewer levels",
    )

    memory: Literal["auto", "none"] | tuple[MemoryKind, ...] = Field(
        "auto",
        description="what a model looks up beside what it learns, as a part of its scores; pairs: what followed the "
        "user's items in other histories; repeats: what the user had; how much each adds is fitted to the validation "
        "part, and memory is off where it does not help; auto: pairs, and repeats where evaluate.remove_seen is "
        "false, but none in a random split and in a model that only rates",
    )
    memory_kernels: tuple[MemoryKernel, ...] = Field(
        (2, 10, 50, 300),
        min_length=1,
        max_length=16,
        description=f"granularities of memory, each {memory_kernel.OPTION_TEXT}",
    )

    @model_validator(mode="after")
    def _inputs_are_distinct(self) -> "ModelConfig":
        if self.inputs != "auto" and len(set(self.inputs)) < len(self.inputs):
            raise ValueError("inputs names one twice")
        return self

    @model_validator(mode="after")
    def _levels_fit(self) -> "ModelConfig":
        kinds = [granularity.parse(value) for value in self.granularities]
        strides = [kind.events for kind in kinds if isinstance(kind, granularity.Stride)]
        spans = [kind.seconds for kind in kinds if isinstance(kind, granularity.Span)]
        if strides != sorted(set(strides)):
            raise ValueError(f"granularities: strides must grow from level to level, not {strides}")
        if spans != sorted(set(spans)):
            raise ValueError(f"granularities: spans of time must grow from level to level, not {spans} seconds")
        for key in PER_LEVEL:
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != len(kinds):
                raise ValueError(f"{key} lists {len(value)} values for {len(kinds)} granularities; give one for each")
        if self.fusion == "attention" and self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return self

    @model_validator(mode="after")
    def _members_recommend(self) -> "ModelConfig":
        if self.members > 1 and self.outputs != "next_item":
            raise ValueError(f"members ({self.members}) needs outputs: next_item; give 1 to a model that rates")
        return self

    @model_validator(mode="after")
    def _memory_recommends(self) -> "ModelConfig":
        if self.memory not in ("auto", "none") and self.memory and self.outputs == "rating":
            raise ValueError("memory needs outputs: next_item or both; a model that only rates ranks no items")
        return self

    @property
    def member(self) -> Self:
        """The config of one of the members."""
        return self.model_copy(update={"members": 1})

    @property
    def levels(self) -> tuple[LevelSettings, ...]:
        """Finest first."""
        found: list[LevelSettings] = []
        for number, value in enumerate(self.granularities):
            kind = granularity.parse(value)
            own = {key: one[number] if isinstance(one := getattr(self, key), tuple) else one for key in PER_LEVEL}
            found.append(
                LevelSettings(
                    kind=kind,
                    kernel=own["kernel"],
                    depth=own["depth"],
                    inner_width=max(1, round(self.width * own["width_multiplier"])),
                    dilation=own["dilation"] or (kind.events if isinstance(kind, granularity.Stride) else 1),
                    pooling=own["pooling"],
                )
            )
        return tuple(found)

    def cut(self, num_levels: int) -> Self:
        """The config of the first `num_levels` levels. Raises ValueError where there are not so many."""
        if not 1 <= num_levels <= len(self.granularities):
            raise ValueError(f"cannot keep {num_levels} of {len(self.granularities)} levels; give 1 or more, not above")
        first = {"granularities": self.granularities[:num_levels]}
        first |= {key: value[:num_levels] for key in PER_LEVEL if isinstance(value := getattr(self, key), tuple)}
        return self.model_copy(update=first)


class ResolvedModelConfig(ModelConfig):
    """ModelConfig in which the data has decided each `auto`: what a model is made from, and what `model.json` holds.

    `mgray.train.resolve` makes it, once a job.
    """

    inputs: tuple[Input, ...] = ()
    memory: tuple[MemoryKind, ...] = ()  # models of an earlier version have none
    norm: Literal["layer", "batch"] = "layer"  # the only one there was in models that do not name it
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]

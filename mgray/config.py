"""Typed, frozen configuration; `mgray/arguments.py` reads it from a command line.

Every field states its meaning and unit; an unknown key is an error that lists the valid ones; `None` is off.
"""

import codecs
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from mgray import granularity
from mgray.errors import InputError

MOVIELENS_100K = "movielens-100k"
HOME_VARIABLE = "MGRAY_HOME"
PSEUDONYM_KEY_VARIABLE = "MGRAY_PSEUDONYM_KEY"


MAX_NAME_BYTES = 255  # of a file or folder, by Linux
MODEL_NAME = r"^[^/:@']+$"  # what models:/NAME@ALIAS and MLflow's filters can tell apart


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ColumnsConfig(Section):
    user_id: str = Field("user_id", description="log column that holds the user's id")
    item_id: str = Field("item_id", description="log column that holds the item's id")
    timestamp: str | None = Field(
        "timestamp",
        description="log column that holds the time: seconds since 1970, or ISO 8601; none: the log has no times, and "
        "its order (files by name, then rows) is the order of events",
    )
    rating: str | None = Field(None, description="log column that holds the rating; none: `rating` if the log has it")
    event_type: str | None = Field(
        None, description="log column that holds the kind of event; none: `event_type` if the log has it"
    )
    features: tuple[str, ...] = Field((), max_length=256, description="log columns of numbers, to be standardized")
    timestamp_unit: Literal["s", "ms", "us"] = Field(
        "s", description="unit of timestamps that are numbers; text in ISO 8601 and Parquet's own times need none"
    )
    timestamp_format: str | None = Field(
        None,
        description="format of times that are text or whole numbers, as strptime has it: %Y%m%d, %Y%m%d%H%M%S, "
        "'%d/%m/%Y %H:%M'; without an offset they are UTC; none: as timestamp and timestamp_unit say",
    )
    header: tuple[str, ...] | None = Field(
        None, min_length=2, description="names of the columns of a text log without a header line, in order"
    )

    separator: str | None = Field(
        None,
        min_length=1,
        description="what separates the columns of a text log: one character or more (\\t is a tab), or a blank for "
        "one or more spaces or tabs; none: what its name says, or guessed from its first lines where only one fits",
    )
    encoding: str | None = Field(
        None,
        description="encoding of a text log, such as latin-1, cp1252 or utf-16; none: UTF-8, or what its byte order "
        "mark says",
    )
    format: Literal["csv", "tsv", "jsonl", "parquet", "text"] | None = Field(
        None,
        description="what the files of the log are, whatever their names; text: columns by separator; none: as the "
        "names say",
    )
    rows: Literal["events", "histories"] | None = Field(
        None,
        description="histories: a row is a user with a list of items, oldest first (in Parquet and JSON a list, or a "
        "list of structs; in text a line of user, item, item, ..., which has no times); none: histories where the "
        "column of items is a list, else events",
    )

    @field_validator("separator")
    @classmethod
    def _separator_is_no_line(cls, text: str | None) -> str | None:
        if text is not None and re.search(r"[\r\n\"]", text):
            raise ValueError("a newline or a quote separates no columns; give what stands between two fields")
        return text

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str | None) -> str | None:
        try:
            if name is not None and not codecs.lookup(name)._is_text_encoding:
                raise LookupError
        except (LookupError, ValueError) as error:
            raise ValueError(
                f"unknown encoding {name!r}; give a name that Python knows, such as latin-1, cp1252 or utf-16"
            ) from error
        return name

    @model_validator(mode="after")
    def _features_are_distinct(self) -> "ColumnsConfig":
        if len(set(self.features)) < len(self.features):
            raise ValueError("features names a column twice")
        return self

    @model_validator(mode="after")
    def _ids_and_time_are_distinct(self) -> "ColumnsConfig":
        roles: dict[str, str] = {}
        for role in ("user_id", "item_id", "timestamp"):
            name = getattr(self, role)
            other = role if name is None else roles.setdefault(name, role)
            if other != role:
                raise ValueError(f"{other} and {role} name one column, {getattr(self, role)!r}; give each its own")
        return self


class CleanConfig(Section):
    """Rules that drop events, in this order; each has its count in the manifest as rows.dropped_RULE."""

    min_timestamp: float | None = Field(None, description="events before it are dropped, seconds since 1970; none: off")
    max_timestamp: float | None = Field(None, description="events after it are dropped, seconds since 1970; none: off")
    min_rating: float | None = Field(None, description="events rated lower are dropped; none: off")
    max_rating: float | None = Field(None, description="events rated higher are dropped; none: off")
    duplicates: bool = Field(
        True,
        description="of events equal in every column the first stays; off in a log without times, where a repeat "
        "cannot be told from a copy",
    )
    max_user_events_per_day: int | None = Field(
        None, ge=1, description="users with more events than this within any 24 hours are dropped as bots; none: off"
    )
    repeat_window_s: float | None = Field(
        None,
        gt=0,
        description="an event on an item that its user had within this many seconds before is dropped; none: off",
    )
    min_item_events: int = Field(
        1,
        ge=1,
        description="items with fewer events are dropped, and with data.min_user_events for users this repeats until "
        "nothing changes (the k-core)",
    )

    @model_validator(mode="after")
    def _bounds_leave_something(self) -> "CleanConfig":
        for name in ("timestamp", "rating"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{name} ({low}) must not be above max_{name} ({high}): no event is left")
        return self


class PrivacyConfig(Section):
    pseudonymize: bool = Field(
        False, description=f"user ids become HMAC-SHA-256 under the key of ${PSEUDONYM_KEY_VARIABLE} or of key_file"
    )
    key_file: str | None = Field(
        None, description="file that holds that key, its whole content without the last newline"
    )
    forget: str | None = Field(
        None,
        description="text file of user ids, one a line, as the log spells them (white space, quotes and .0 aside): "
        "their events are dropped unread; ids that match no user are told",
    )


def _no_empty_path(source: str | tuple[str, ...]) -> str | tuple[str, ...]:
    # an empty path is the working folder to the operating system
    if "" in ((source,) if isinstance(source, str) else source):
        raise ValueError("an empty path; give a log's, or . for the working folder")
    return source


class DataConfig(Section):
    source: Annotated[str | tuple[str, ...], AfterValidator(_no_empty_path)] = Field(
        MOVIELENS_100K,
        description="raw log: a file of text with columns, JSON Lines or Parquet, a folder, a glob, or a list of "
        f"these, on a mounted disk, s3:// or gs://; or `{MOVIELENS_100K}`",
    )
    items: str | None = Field(
        None,
        description="CSV, TSV, JSON Lines or Parquet of item titles (item_id, title); none: item ids stand for titles",
    )
    dataset: str | None = Field(
        None, description="a committed dataset version (folder with manifest.json) to use instead of data.source"
    )
    out: str | None = Field(None, description="folder that holds dataset versions; none: HOME/datasets")
    columns: ColumnsConfig = ColumnsConfig()
    clean: CleanConfig = CleanConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    min_user_events: int = Field(
        3,
        ge=1,
        description="users with fewer events neither train nor are measured, events; jobs/predict.py scores them too",
    )
    min_item_count: int = Field(
        1, ge=1, description="items with fewer training events stay out of the vocabulary, as cold items, events"
    )
    max_quarantined_share: float = Field(
        0.0, ge=0.0, le=1.0, description="largest share of unreadable rows that ingest sets aside instead of failing"
    )
    split: Literal["leave_one_out", "temporal", "random"] = Field(
        "leave_one_out",
        description="leave_one_out: last event tests, last but one validates (of two events the last one tests, a "
        "single one trains); temporal: global cut times; random: 80% "
        "of the events train, 10% validate, 10% test (for ratings)",
    )
    valid_from: float | None = Field(
        None, description="temporal split: validation starts here, seconds since 1970; none: the 80% quantile"
    )
    test_from: float | None = Field(
        None, description="temporal split: test starts here, seconds since 1970; none: the 90% quantile"
    )
    num_shards: int | None = Field(
        None, ge=1, le=65_535, description="Parquet shards of the dataset; none: by the size of the log, at least 4"
    )
    keep_staged: bool = Field(
        True, description="keep the log's parsed events beside the versions, so that --append reads new files only"
    )

    @property
    def is_named(self) -> bool:
        """Whether a log or a dataset was asked for, be it the default one."""
        return self.dataset is not None or "source" in self.model_fields_set

    @model_validator(mode="after")
    def _cuts_belong_to_the_temporal_split(self) -> "DataConfig":
        if self.split != "temporal" and (self.valid_from is not None or self.test_from is not None):
            raise ValueError("valid_from and test_from need split: temporal")
        if self.valid_from is not None and self.test_from is not None and self.valid_from >= self.test_from:
            raise ValueError(f"valid_from ({self.valid_from}) must be before test_from ({self.test_from})")
        return self


Granularity = Annotated[int | str, AfterValidator(granularity.checked)]
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
    """What ModelConfig says of one level."""

    kind: granularity.Kind
    kernel: int
    depth: int
    inner_width: int
    dilation: int
    pooling: Pooling


Input = Literal["event_type", "features", "rating", "time_gap", "hour", "weekday"]


Outputs = Literal["next_item", "rating", "both"]


class ModelConfig(Section):
    inputs: tuple[Input, ...] | Literal["auto"] = Field(
        (),
        description="what the model reads of an event beside its item; time_gap: since the event before; hour and "
        "weekday in UTC; auto: event_type, features, rating and time_gap where the dataset has them",
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
        description="levels, finest first: a stride in events (4); a span of time aligned to 1970-01-01 UTC (7d) or "
        "a session that a longer gap ends (session:30m), both of the log's timestamps; or decay:A..B, a learned decay "
        "of A to B events",
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

    @property
    def member(self) -> "ModelConfig":
        """The config of one of the members."""
        return self.model_copy(update={"members": 1})

    @property
    def dropout_rate(self) -> float:
        assert self.dropout != "auto", "mgray.data_rules resolves it by a dataset before a model is made"
        return self.dropout

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

    def cut(self, num_levels: int) -> "ModelConfig":
        """The config of the first `num_levels` levels. Raises ValueError where there are not so many."""
        if not 1 <= num_levels <= len(self.granularities):
            raise ValueError(f"cannot keep {num_levels} of {len(self.granularities)} levels; give 1 or more, not above")
        first = {"granularities": self.granularities[:num_levels]}
        first |= {key: value[:num_levels] for key in PER_LEVEL if isinstance(value := getattr(self, key), tuple)}
        return self.model_copy(update=first)


class TrainConfig(Section):
    seed: int = Field(0, ge=0, lt=2**31, description="seed of weights, order, dropout and negatives")
    epochs: int = Field(40, ge=1, description="passes over the training part")
    max_time_s: float | None = Field(
        330.0, gt=0, description="training time that the schedule is shortened to fit, seconds; none: no limit"
    )
    learning_rate: float = Field(4e-3, gt=0, description="peak learning rate of AdamW")
    warmup_share: float = Field(0.02, ge=0, le=1, description="share of steps in which the rate rises linearly from 0")
    decay_share: float = Field(
        0.5, ge=0, le=1, description="last share of steps, in which the rate falls linearly to 0"
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay, on matrices only")
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are clipped to this norm; none: not clipped")
    global_batch_events: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="events in a batch over all workers; auto: a two-hundredth of the training events, within 1024 and "
        "4096",
    )
    max_length: int = Field(1024, ge=2, description="longer histories are cut into overlapping windows, events")
    loss: Literal["softmax", "sampled_softmax", "gbce"] = Field(
        "sampled_softmax",
        description="cross-entropy over all items, or over the target and drawn negatives; gbce: binary cross-entropy "
        "of each, calibrated as gSASRec's",
    )
    num_negatives: int = Field(
        2048,
        ge=1,
        description="negatives a batch draws uniformly for sampled_softmax and gbce, shared by its events; as many as "
        "there are items make sampled_softmax the full softmax",
    )
    popular_negatives: int = Field(
        0, ge=0, description="more negatives drawn by training popularity, for sampled_softmax; repeats count once"
    )
    in_batch_negatives: bool = Field(
        False, description="a batch's own targets are negatives too, for sampled_softmax; each worker its own"
    )
    hard_negatives: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="share of num_negatives that are the model's current mistakes, the likeliest of a uniform pool of "
        "four times as many, for sampled_softmax; each worker its own",
    )
    gbce_calibration: float = Field(
        0.75, ge=0.0, le=1.0, description="t of gbce: 0 is plain binary cross-entropy, 1 undoes what sampling inflates"
    )
    label_smoothing: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="share of a target's probability spread over its candidates, in softmax losses; above 0 it turns "
        "exclude_seen: auto off",
    )
    exclude_seen: Literal["auto"] | bool = Field(
        "auto",
        description="items that the user has by then (in the same window, max_length) are no negatives, so that the "
        "model need not learn to rank them low; auto: where evaluate.remove_seen takes them out of the ranking, and "
        "label_smoothing is 0",
    )
    rating_weight: float = Field(
        1.0, gt=0, description="weight of the rating's squared error beside the next item's loss, of model.outputs both"
    )
    rating_l2: float = Field(
        0.2, ge=0, description="penalty on the squared rating factors of an item each time it is a target"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of matrix products; auto: bf16 on a GPU that computes in it, else fp32"
    )
    loss_precision: Literal["auto", "fp32", "bf16"] | None = Field(
        "auto",
        description="arithmetic of the loss's matrix products; auto: bf16 where GPU or CPU multiplies in it and "
        "precision does not say fp32; none: as precision",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="the weights that are evaluated and saved are an average that keeps this share of itself each "
        "step; none: off",
    )
    augment_crop: float = Field(
        0.0, ge=0.0, le=1.0, description="share of training histories that begin late, at a place in the first half"
    )
    augment_reorder: float = Field(
        0.0, ge=0.0, le=1.0, description="share of training histories of which a fifth, in a row, is shuffled"
    )
    augment_shuffle: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="share of training histories that are shuffled whole; 1 where order says nothing, as in a random "
        "split",
    )
    augment_drop: float = Field(0.0, ge=0.0, lt=1.0, description="share of training events taken out")
    augment_mask: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="share of training events that the model is not shown, as if they were padding; still targets",
    )
    item_init: Literal["cooccurrence", "random"] = Field(
        "cooccurrence",
        description="how the item vectors of a model that recommends start: from what stands near what in the training "
        "part, or at random; a warm start has the earlier model's",
    )
    warm_start: str | None = Field(
        None, description="model to start from: models:/NAME@ALIAS or a model folder; items are matched by raw id"
    )
    warm_start_keep: float = Field(
        1.0,
        ge=0.0,
        le=1.0,
        description="share of the earlier model's matrices that a warm start keeps; the rest is a random start",
    )
    validate_every_epochs: int = Field(3, ge=1, description="epochs from one validation and checkpoint to the next")
    include_valid: bool = Field(
        False,
        description="train on the validation part too, once settings are chosen: nothing is validated, and the last "
        "weights are kept; validation says little of such a model, nor of a warm start from it on the same data",
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> "TrainConfig":
        if self.warmup_share + self.decay_share > 1:
            raise ValueError("warmup_share + decay_share must be at most 1")
        return self

    @model_validator(mode="after")
    def _negatives_fit(self) -> "TrainConfig":
        mixed = {"popular_negatives": self.popular_negatives, "in_batch_negatives": self.in_batch_negatives}
        chosen = [name for name, value in (mixed | {"hard_negatives": self.hard_negatives}).items() if value]
        if chosen and self.loss != "sampled_softmax":
            raise ValueError(f"{chosen[0]} needs loss: sampled_softmax, which knows how often an item is drawn")
        if self.hard_negatives and len(chosen) > 1:
            raise ValueError(f"hard_negatives are drawn from a uniform pool; turn {chosen[0]} off")
        if self.label_smoothing and self.exclude_seen is True:
            raise ValueError("label_smoothing spreads over all candidates; turn it or exclude_seen off")
        if self.label_smoothing and self.loss == "gbce":
            raise ValueError("label_smoothing needs a softmax loss; turn it off, or choose another loss")
        return self


class ScaleConfig(Section):
    num_workers: int = Field(2, ge=1, description="DDP workers")
    cpus_per_worker: int = Field(1, ge=1, description="CPU cores of each worker")
    use_gpu: Literal["auto"] | bool = Field("auto", description="one GPU a worker; auto: where the cluster has enough")
    max_failures: int = Field(2, ge=0, description="worker failures after which training goes on from its checkpoint")
    collective_timeout_s: int = Field(600, ge=10, description="longest wait of a worker for the others, seconds")


class TrackingConfig(Section):
    uri: str | None = Field(
        None, description="MLflow tracking server; none: MLFLOW_TRACKING_URI, else SQLite in HOME/mlflow.db"
    )
    experiment: str = Field("mgray", min_length=1, description="MLflow experiment")
    model_name: str = Field("mgray-interest", pattern=MODEL_NAME, description="registered model")
    register_model: bool = Field(True, description="register the trained model")
    log_every_steps: int = Field(10, ge=1, description="steps from one logged training loss to the next")
    system_metrics: bool = Field(True, description="log CPU, memory, disk and network use of the driver's machine")


class EvaluateConfig(Section):
    k: int = Field(10, ge=1, le=1000, description="length of the ranked list that metrics look at, items")
    remove_seen: bool = Field(
        True,
        description="take items that the user already has out of the ranking; jobs/eval.py and jobs/promote.py: where "
        "it is not given, as the model was measured when it was trained",
    )
    batch_events: int = Field(16384, ge=1, description="events of a scoring batch")
    max_valid_users: int | None = Field(
        50_000,
        ge=1,
        description="validation during training is by about this many users at most, drawn by a hash of their ids; the "
        "test part is by all; none: by all",
    )


class GateConfig(Section):
    min_improvement: float | None = Field(
        0.0,
        description="the lower end of the confidence interval of ndcg@k's gain over champion must be above this "
        "(absolute; below 0: may lose that much); none: off",
    )
    confidence: float = Field(0.9, gt=0, lt=1, description="of that two-sided interval, 0 to 1")
    num_resamples: int = Field(2000, ge=100, le=100_000, description="bootstrap resamples of users")
    max_slice_drop: float | None = Field(
        0.02, ge=0, description="largest fall of ndcg@k in any slice of the report (absolute); none: off"
    )
    min_slice_queries: int = Field(200, ge=1, description="smaller slices are not judged, queries")
    max_parameters: int | None = Field(None, ge=1, description="largest model, parameters; none: off")
    max_latency_ms: float | None = Field(
        None, gt=0, description="one history scored by the model in one process, milliseconds; none: off"
    )


class RetrainConfig(Section):
    dry_run: bool = Field(False, description="do all but change anything: no registry, no dataset, no lock is touched")
    start: Literal["champion", "scratch"] = Field(
        "champion", description="champion: its model section and weights; scratch: this config's model section, anew"
    )
    warm_epochs: int = Field(24, ge=1, description="train.epochs of a start from champion")
    warm_learning_rate: float = Field(4e-3, gt=0, description="train.learning_rate of a start from champion")
    warm_batch_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of train.global_batch_events in a batch of a start from champion, where that leaves 1024: "
        "fewer epochs, but each of more steps",
    )
    warm_validate_every_epochs: int = Field(
        12,
        ge=1,
        description="train.validate_every_epochs of a start from champion: its end is its best, so one half-way and "
        "one at the end choose as well as many, and cost less",
    )
    warm_keep: float = Field(
        0.5, ge=0, le=1, description="train.warm_start_keep of a start from champion: 1 settles sooner and lower"
    )
    lock_timeout_s: float = Field(
        6 * 3600.0, gt=0, description="a lock of another retraining that is older counts as left behind, seconds"
    )


class JobConfig(Section):
    home: str | None = Field(
        None, description=f"folder for datasets, runs and mlflow.db (HOME); none: ${HOME_VARIABLE}, else ./var"
    )


class IngestJobConfig(JobConfig):
    """Read a raw interaction log and commit it as a dataset version: Parquet shards and a manifest."""

    data: DataConfig = DataConfig()
    append: bool = Field(
        False,
        description="read only files that the newest version in data.out was not made from, and keep its item numbers",
    )


class TrainJobConfig(JobConfig):
    """Ingest the log (or reuse the dataset), train MG-DSC by DDP, evaluate, log to MLflow and register the model."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    scale: ScaleConfig = ScaleConfig()
    tracking: TrackingConfig = TrackingConfig()


class EvalJobConfig(JobConfig):
    """Evaluate a registered model on a dataset, beside the baselines; by default on the one it was trained on."""

    model: str = Field(
        "models:/mgray-interest@champion", description="MLflow model: models:/NAME@ALIAS or models:/NAME/VERSION"
    )
    split: Literal["valid", "test"] = Field("test", description="part of the dataset to evaluate on")
    data: DataConfig = DataConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()


class PredictConfig(Section):
    k: int = Field(10, ge=1, le=1000, description="items of each user's list; shorter where the catalogue has no more")
    remove_seen: bool | None = Field(
        None, description="take items that the user already has out of the list; none: as the model was measured"
    )
    blocked: str | None = Field(
        None,
        description="items to recommend to nobody: a text file of ids, one a line, or a CSV, TSV, JSON Lines or "
        "Parquet file with the column item_id; none: nothing is blocked",
    )
    allow_unknown_blocked: bool = Field(
        False, description="let the blocked file hold ids that neither model nor dataset knows, instead of failing"
    )
    out: str | None = Field(None, description="folder that holds prediction versions; none: HOME/predictions")
    overwrite: bool = Field(False, description="score again where this model, dataset and settings have a version")
    num_workers: int | None = Field(
        None, ge=1, description="scoring workers; none: one a GPU of the cluster, or as many as its CPUs hold"
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPU cores of each worker, which are its torch threads")
    use_gpu: Literal["auto"] | bool = Field("auto", description="one GPU a worker; auto: where the cluster has enough")
    batch_events: int = Field(8192, ge=1, description="padded events of a scoring batch")
    part_users: int = Field(
        16_384, ge=1, description="users of a Parquet part, about (a shard's row groups are not split): a worker's task"
    )


class PredictJobConfig(JobConfig):
    """Score every user of a dataset with a registered model: each user's best items, as Parquet.

    By default of the dataset that it was trained on.
    """

    model: str = Field(
        "models:/mgray-interest@champion", description="MLflow model: models:/NAME@ALIAS or models:/NAME/VERSION"
    )
    data: DataConfig = DataConfig()
    predict: PredictConfig = PredictConfig()
    tracking: TrackingConfig = TrackingConfig()


class RetrainDataConfig(DataConfig):
    split: Literal["leave_one_out", "temporal"] = Field(
        "temporal",
        description="temporal: models are compared on the newest events of the log; leave_one_out: on last events",
    )


def _check_ranks(model: ModelConfig) -> None:
    if model.outputs == "rating":
        raise ValueError("model.outputs rating trains no ranking, which this job compares by; choose both or next_item")


class RetrainJobConfig(JobConfig):
    """New log files: train from champion, compare on the newest events, promote or keep. --dry-run changes nothing."""

    data: RetrainDataConfig = RetrainDataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    retrain: RetrainConfig = RetrainConfig()
    gate: GateConfig = GateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    scale: ScaleConfig = ScaleConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _models_rank(self) -> "RetrainJobConfig":
        _check_ranks(self.model)
        return self


class PromoteJobConfig(JobConfig):
    """Make a registered version champion, if it passes the gate on the newest events."""

    version: int | None = Field(None, ge=1, description="registered version to promote")
    skip_gate: bool = Field(False, description="promote whatever the gate would say; needs --reason")
    reason: str | None = Field(None, description="why, for the registry")
    data: RetrainDataConfig = RetrainDataConfig()
    gate: GateConfig = GateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()


class RollbackJobConfig(JobConfig):
    """Put the former champion back."""

    reason: str | None = Field(None, description="why, for the registry")
    tracking: TrackingConfig = TrackingConfig()


class ExportJobConfig(JobConfig):
    """Cut a model to its first levels, without training: to a model folder, and to the registry if asked.

    Train with model.level_dropout above 0 for it: the first levels are then trained to do without the others. Or
    register the folder of a model that a run could not register, as it is.
    """

    model: str = Field(
        "models:/mgray-interest@champion",
        description="MLflow model: models:/NAME@ALIAS or models:/NAME/VERSION; or the folder of a model, such as "
        "HOME/runs/RUN/model",
    )
    levels: int | None = Field(
        None, ge=1, description="levels to keep, the finest first; none: all, to register a folder as it is"
    )
    out: str | None = Field(
        None, description="folder to write, not there yet or the same; none: HOME/exports/NAME-VERSION-levels-N"
    )
    register_as: str | None = Field(
        None,
        pattern=MODEL_NAME,
        description="registered model that it becomes a version of: its challenger, and its champion where it "
        "has none; none: it is written and not registered",
    )
    tracking: TrackingConfig = TrackingConfig()


def _folder_name(name: str | None) -> str | None:
    if name is None:
        return None
    if name in (".", ".."):
        raise ValueError(f"{name} is no folder of its own; give a name with letters or digits")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"longer than the {MAX_NAME_BYTES} bytes that a folder's name may have")
    return name


class SearchConfig(Section):
    space: str | None = Field(
        None, description="YAML of the values to search, dotted keys of model and train; none: jobs/configs/space.yaml"
    )
    name: Annotated[str | None, AfterValidator(_folder_name)] = Field(
        None, pattern=r"^[\w.-]+$", description="the search's folder in HOME/searches; none: named by time and settings"
    )
    algorithm: Literal["tpe", "random"] = Field(
        "tpe", description="tpe: Optuna's model of what did well proposes; random: drawn from the space alike"
    )
    scheduler: Literal["asha"] | None = Field(
        "asha", description="asha: trials behind the others at the same epoch are stopped; none: all train to the end"
    )
    metric: Literal["ndcg", "hr", "mrr"] = Field(
        "ndcg", description="validation metric to search for, at evaluate.k, where the trial's ndcg was best"
    )
    num_trials: int = Field(24, ge=1, description="trials, the failed and the stopped among them")
    trial_epochs: int | None = Field(
        None, ge=1, description="epochs of a trial that nothing stops, and of its schedule; none: train.epochs"
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="trials at a time; none: as many as the cluster's CPUs or GPUs hold"
    )
    max_time_s: float | None = Field(
        None, gt=0, description="time after which no trial goes on, seconds; none: no limit"
    )
    grace_epochs: int = Field(3, ge=1, description="asha: epochs that every trial is given")
    reduction_factor: float = Field(
        3.0, gt=1, description="asha: about one trial in so many goes on past each rung; rungs are this factor apart"
    )
    num_random: int = Field(8, ge=1, description="tpe: trials drawn at random before its model proposes")
    start_from_config: bool = Field(
        True, description="the first trial is the configuration given, where the space holds it"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the draws")
    train_best: bool = Field(True, description="train the best configuration in full and register it")
    best_num_workers: int | None = Field(
        None, ge=1, description="DDP workers of that full run; none: scale.num_workers"
    )


class TrialScaleConfig(ScaleConfig):
    num_workers: int = Field(1, ge=1, description="workers of a trial: 1 trains inside it, more by DDP")


class TuneJobConfig(TrainJobConfig):
    """Search granularities and their settings on Ray Tune; train the best in full and register it as challenger."""

    scale: TrialScaleConfig = TrialScaleConfig()
    search: SearchConfig = SearchConfig()
    resume: bool = Field(False, description="go on with the newest search that these settings agree with")

    @property
    def trial_epochs(self) -> int:
        return self.search.trial_epochs or self.train.epochs

    @model_validator(mode="after")
    def _rungs_fit(self) -> "TuneJobConfig":
        if self.search.scheduler == "asha" and self.search.grace_epochs > self.trial_epochs:
            raise ValueError(
                f"search.grace_epochs ({self.search.grace_epochs}) is more than a trial's {self.trial_epochs} epochs"
            )
        return self

    @model_validator(mode="after")
    def _trials_rank(self) -> "TuneJobConfig":
        _check_ranks(self.model)
        return self

    @model_validator(mode="after")
    def _trials_validate(self) -> "TuneJobConfig":
        if self.train.include_valid:
            raise ValueError(
                "train.include_valid leaves a search nothing to choose by; turn it off, and train the found settings "
                "with it by jobs/train.py"
            )
        return self


# Every job: jobs/NAME.py. A file of settings may hold what any of them reads.
JOB_CONFIGS: dict[str, type[JobConfig]] = {
    "eval": EvalJobConfig,
    "export": ExportJobConfig,
    "ingest": IngestJobConfig,
    "predict": PredictJobConfig,
    "promote": PromoteJobConfig,
    "retrain": RetrainJobConfig,
    "rollback": RollbackJobConfig,
    "train": TrainJobConfig,
    "tune": TuneJobConfig,
}


def resolve_home(config: JobConfig) -> Path:
    """The folder for datasets, runs and mlflow.db: `home`, else $MGRAY_HOME, else ./var."""
    if config.home:
        return local_folder(config.home, "--home")
    return local_folder(os.environ.get(HOME_VARIABLE) or "var", f"${HOME_VARIABLE}")


def resolve_out(data: DataConfig, home: Path) -> Path:
    """The folder of dataset versions: `data.out`, else HOME/datasets."""
    return local_folder(data.out, "--data.out") if data.out else home / "datasets"


def local_folder(path: str, option: str) -> Path:
    """The absolute path. Raises InputError for SCHEME://..., which would be taken for a folder of that name."""
    remote = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path)
    if remote:  # shown without the rest, which may hold a secret
        raise InputError(
            f"{option} {remote[0]}...: versions are written to a file system that all nodes mount, never to a URI; "
            "give a folder's path"
        )
    return Path(path).expanduser().absolute()

"""Configuration of training, its workers and the evaluation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mgray.config.base import Section


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
        "weights are kept; validation says little of such a model, nor of a warm start from it on the same data; with "
        "model.memory, whose numbers are fitted to it, about a tenth of the users' validation events do not train",
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


class ResolvedTrainConfig(TrainConfig):
    """TrainConfig in which the data has decided the batch size. `mgray.train.resolve` makes it, once a job.

    What the data does not decide is still as asked: `exclude_seen`, which follows `evaluate.remove_seen` (`ModelInfo`
    says what it came to), and the two precisions, which follow the device of each rank.
    """

    global_batch_events: Annotated[int, Field(ge=1)]


class ScaleConfig(Section):
    num_workers: int = Field(2, ge=1, description="DDP workers")
    cpus_per_worker: int = Field(1, ge=1, description="CPU cores of each worker")
    use_gpu: Literal["auto"] | bool = Field("auto", description="one GPU a worker; auto: where the cluster has enough")
    max_failures: int = Field(2, ge=0, description="worker failures after which training goes on from its checkpoint")
    collective_timeout_s: int = Field(600, ge=10, description="longest wait of a worker for the others, seconds")


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
        description="validation during training is by about this many users at most, drawn by a hash of their ids, "
        "halved until it costs at most a tenth of the training; the test part is by all; none: by all",
    )

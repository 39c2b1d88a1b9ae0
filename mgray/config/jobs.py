"""Configuration of each job: its sections."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from mgray.config.base import HOME_VARIABLE, MAX_NAME_BYTES, MODEL_NAME, Section, TrackingConfig, local_folder
from mgray.config.data import DataConfig
from mgray.config.model import ModelConfig, ResolvedModelConfig
from mgray.config.train import EvaluateConfig, ResolvedTrainConfig, ScaleConfig, TrainConfig


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


class ResolvedTrainJobConfig(TrainJobConfig):
    """TrainJobConfig in which the data has decided each `auto`. `mgray.train.resolve` makes it, once a job."""

    model: ResolvedModelConfig
    train: ResolvedTrainConfig


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

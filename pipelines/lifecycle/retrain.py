"""The retraining job: new log files -> dataset -> drift -> training from champion -> gate -> promoted or kept.

Every step can be run again: files are known by their digests, datasets by their fingerprint, models by their training
key. So a run that finds nothing new says so, and one that was killed is finished by the next: a challenger that was
registered and not decided upon is decided upon, not trained again. The alias moves last.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient
from rich.console import Console

from mgray.config import (
    ModelConfig,
    ResolvedModelConfig,
    ResolvedTrainConfig,
    ResolvedTrainJobConfig,
    RetrainConfig,
    RetrainJobConfig,
    TrainJobConfig,
    resolve_out,
)
from mgray.data.dataset import Dataset
from mgray.data.manifest import Manifest
from mgray.errors import InputError
from mgray.eval import gate
from mgray.eval.compare_models import Comparison, compare
from mgray.eval.drift import Drift, describe, known_share, measure_drift, summarize
from mgray.serve.recommender import Recommender
from mgray.train.resolve import BATCH_RANGE, FREE_TO_CHANGE, resolve_job
from pipelines import tracking
from pipelines.ingest.job import obtain_dataset
from pipelines.ingest.source.digests import Files, Log, digest_log, sort_files
from pipelines.runtime import cluster
from pipelines.runtime.console import Timer, console, say
from pipelines.runtime.lock import Lock, retrain_lock
from pipelines.runtime.redact import shown_uri
from pipelines.runtime.versions import staging_folder
from pipelines.tracking.registry import (
    DECISION_TAG,
    KEPT,
    PROMOTED,
    REASONS_TAG,
    Registry,
    Version,
    dataset_folder,
    training_key,
)
from pipelines.tracking.store import sqlite_file, sqlite_uri
from pipelines.train.job import run_training

MIN_KNOWN_SHARE = 0.01  # of the log's events on the champion's items: less means that the ids are others
NOTHING_NEW, FIRST = "nothing_new", "first"


def run_retrain(config: RetrainJobConfig) -> dict[str, Any]:
    """One retraining; gives the result line's fields. Raises InputError where the user's input is wrong.

    `action`: promoted, kept, first (there was no champion) or nothing_new; a dry run says would_* of the first three.
    """
    if config.train.warm_start is not None:
        raise InputError("train.warm_start: retraining starts from champion; leave it out, or use jobs/train.py")
    if not config.tracking.register_model and not config.retrain.dry_run:
        raise InputError("tracking.register_model: false: retraining registers its challenger; use --dry-run")
    home = cluster.job_home(config)
    if config.retrain.dry_run:
        with staging_folder(home, "dry-run", "--home") as scratch:
            return _Retraining(config, home, scratch, None).run()
    with (
        retrain_lock(home, config.retrain.lock_timeout_s) as lock,
        staging_folder(home, "retrain", "--home") as scratch,
    ):
        return _Retraining(config, home, scratch, lock).run()


@dataclass(frozen=True)
class _Champion:
    version: Version
    manifest: Manifest | None
    folder: Path
    model: Recommender


class _Retraining:
    """One run. `scratch`: a folder that is removed at the end and that every node sees; no lock: a dry run."""

    def __init__(self, config: RetrainJobConfig, home: Path, scratch: Path, lock: Lock | None) -> None:
        self.config, self.home, self.scratch, self.lock = config, home, scratch, lock
        self.out: Console = console()
        self.timer = Timer()
        self.dry = lock is None
        self.uri = tracking.resolve_uri(config.tracking, home)
        self.datasets = resolve_out(config.data, home)

    def say(self, text: str) -> None:
        say(self.out, text)

    def run(self) -> dict[str, Any]:
        registry = self._open()
        with self.timer.phase("find"):
            champion = self._champion(registry) if registry else None
            log = digest_log(self.config.data, self.home) if self.config.data.dataset is None else None
            files = self._files(champion, log)
        base = {
            "dry_run": self.dry,
            "tracking_uri": shown_uri(self.uri),
            "champion": champion.version.label if champion else None,
            "files": files.summary(),
        }
        if champion and not files.new:
            self._finish_promotion(registry, champion.version)
            reason = f"all {len(files.known)} files of the log are in the data of version {champion.version.version}"
            return base | self._nothing_new([reason])
        if files.missing:
            self.say(f"{len(files.missing)} files of the champion's data are no longer in the log: {files.missing[:5]}")
        with self.timer.phase("ray_start"):
            cluster.connect()
        dataset, drift, reused = self._data(champion, files.missing, log)
        is_temporary = self.dry and self.config.data.dataset is None
        base |= {
            "dataset": {
                "path": None if is_temporary else str(dataset.folder),
                "fingerprint": dataset.manifest.fingerprint,
                "reused": reused,
            },
            "rows": dataset.manifest.result_rows(),
            "drift": drift.summary() if drift else None,
        }
        if champion is None:
            return base | self._first(registry, dataset)
        assert registry is not None
        training = self._training(dataset, champion)
        key = training_key(training, dataset.manifest.fingerprint)
        found = registry.trained_as(key)
        if found is not None and self._is_decided(found, champion):
            then = found.tags.get(REASONS_TAG, "").splitlines()
            reason = f"version {found.version} was trained on these files and {found.tags[DECISION_TAG]}"
            return base | self._nothing_new([reason, *then])
        if found is not None:
            self.say(f"version {found.version} was trained on these files and not decided upon: deciding now")
            trained: dict[str, Any] = {"run_id": found.run_id}
            folder = tracking.fetch_model(found.uri, registry.uri, self.scratch / "challenger")[0]
        else:
            trained = self._train(training, champion)
            folder = Path(trained["checkpoint"])
        with self.timer.phase("compare"):
            challenger = Recommender(folder)
            compared = compare(
                dataset, champion.model, challenger, self.config.evaluate, self.config.gate, [champion.manifest]
            )
        if not self.dry:
            found = found or registry.find(trained["model"]["version"])
        self._show(compared)
        action = self._decide(registry, found, champion, compared, drift, trained.get("run_id"))
        return (
            base
            | {
                "action": action,
                "reasons": compared.reasons,
                "challenger": found.label if found else None,
                "metrics": {"champion": compared.champion, "challenger": compared.challenger},
                "window": compared.window,
                "cost": compared.cost._asdict(),
                "run_id": trained.get("run_id"),
                "report": trained.get("report"),
            }
            | {"seconds": self.timer.seconds}
        )

    def _open(self) -> Registry | None:
        """The registry; None for a dry run where there is none yet and looking would make one."""
        database = sqlite_file(self.uri)
        if self.dry and database is not None and not database.exists():
            return None
        tracking.open_tracking(self.config.tracking, self.home, runs=not self.dry, writes=not self.dry)
        return Registry(self.uri, self.config.tracking.model_name)

    def _champion(self, registry: Registry) -> _Champion | None:
        version = registry.champion()
        if version is None:
            return None
        folder, _, _ = tracking.fetch_model(version.uri, registry.uri, self.scratch / "champion")
        return _Champion(version, registry.manifest(version), folder, Recommender(folder))

    def _files(self, champion: _Champion | None, log: Log | None) -> Files:
        manifest = champion.manifest if champion else None
        if log is not None:
            return sort_files(log, manifest)
        assert self.config.data.dataset is not None
        given = Dataset(self.config.data.dataset).manifest
        names = [source.path for source in given.sources]
        is_new = manifest is None or manifest.fingerprint != given.fingerprint
        return Files(names if is_new else [], [] if is_new else names, [])

    def _data(
        self, champion: _Champion | None, missing: list[str], log: Log | None
    ) -> tuple[Dataset, Drift | None, bool]:
        """The dataset of all files, and how far its new events are from the champion's data.

        Files that the champion's data was made from are not read again where its staged events are still there.
        """
        data = self.config.data.model_copy(update={"out": str(self.scratch / "datasets")} if self.dry else {})
        past = dataset_folder(champion.manifest, self.datasets) if champion and champion.manifest else None
        # Without a file that the champion knew, or with that file changed, the log is another: all of it is read.
        base = past if past and not missing else False
        dataset, reused = obtain_dataset(data, self.home, self.out, self.timer, base, log)
        if champion is None:
            return dataset, None, reused
        with self.timer.phase("drift"):
            current, before = summarize(dataset), summarize(Dataset(past)) if past else None
            share = known_share(champion.model.vocabulary.item_ids, current, before if base else None)
            if share < MIN_KNOWN_SHARE:
                raise InputError(
                    f"{self.config.data.source}: only {share:.1%} of the new events are on items that "
                    f"{champion.version.name} version {champion.version.version} knows, so its item ids are others; "
                    "set data.columns.item_id right, or give another --tracking.model_name"
                )
            drift = measure_drift(before, current) if before else None
        self.say(describe(drift))
        return dataset, drift, reused

    def _training(self, dataset: Dataset, champion: _Champion | None) -> ResolvedTrainJobConfig:
        """The training run's config: with a start from champion, its model section and the shorter schedule."""
        config = self.config
        start = champion if config.retrain.start == "champion" else None
        asked = TrainJobConfig(
            home=str(self.home),
            data=config.data.model_copy(update={"dataset": str(dataset.folder)}),
            model=config.model if start is None else _model_to_go_on_with(config.model, start.model.info.config),
            train=config.train,
            evaluate=config.evaluate,
            scale=config.scale,
            tracking=config.tracking,
        )
        resolved = resolve_job(asked, dataset.manifest)
        if start is None:
            return resolved
        train = warm_training(resolved.train, config.retrain).model_copy(update={"warm_start": start.version.uri})
        return resolved.model_copy(update={"train": train})

    def _train(self, training: ResolvedTrainJobConfig, champion: _Champion | None) -> dict[str, Any]:
        """Train and register; a dry run trains in its own HOME, with its own MLflow, and registers nothing."""
        if self.dry:
            warm_start = str(champion.folder) if champion and training.train.warm_start else None
            own = {"uri": sqlite_uri(self.scratch / "mlflow.db"), "register_model": False}
            training = training.model_copy(
                update={
                    "home": str(self.scratch),
                    "train": training.train.model_copy(update={"warm_start": warm_start}),
                    "tracking": training.tracking.model_copy(update=own),
                }
            )
        with self.timer.phase("train"):
            result = run_training(training)
        if self.dry:
            result |= {"run_id": None, "report": None}
            tracking.aim(self.uri)
        return result

    def _first(self, registry: Registry | None, dataset: Dataset) -> dict[str, Any]:
        """No champion: from scratch; its version becomes champion as it is registered."""
        trained = self._train(self._training(dataset, None), None)
        reasons = ["no champion yet: the first version becomes champion"]
        version = None
        if not self.dry:
            assert registry is not None
            version = registry.find(trained["model"]["version"])
            registry.record(version, PROMOTED, reasons, {})
        return {
            "action": f"would_be_{FIRST}" if self.dry else FIRST,
            "reasons": reasons,
            "challenger": version.label if version else None,
            "metrics": {"champion": None, "challenger": trained["metrics"]},
            "run_id": trained["run_id"],
            "report": trained["report"],
            "seconds": self.timer.seconds,
        }

    def _nothing_new(self, reasons: list[str]) -> dict[str, Any]:
        self.say(f"nothing new: {reasons[0]}")
        return {"action": NOTHING_NEW, "reasons": reasons, "seconds": self.timer.seconds}

    def _decision_tags(self, champion: _Champion) -> dict[str, str]:
        """What a decision depends on beside the version itself: the same tags, the same decision."""
        return {"decision_champion": champion.version.version, "decision_gate": self.config.gate.model_dump_json()}

    def _is_decided(self, found: Version, champion: _Champion) -> bool:
        """A version that was rolled back, or kept by this gate against this champion, is not asked about again."""
        decision = found.tags.get(DECISION_TAG)
        same = all(found.tags.get(key) == value for key, value in self._decision_tags(champion).items())
        return decision is not None and (decision != KEPT or same)

    def _decide(
        self,
        registry: Registry,
        challenger: Version | None,
        champion: _Champion,
        compared: Comparison,
        drift: Drift | None,
        run_id: str | None,
    ) -> str:
        passed = compared.decision.passed
        if challenger is None:
            return "would_promote" if passed else "would_keep"
        assert self.lock is not None
        with self.timer.phase("decide"):
            tags = self._decision_tags(champion)
            tags |= {f"drift_{key}": str(value) for key, value in (drift.summary() if drift else {}).items()}
            for who, metrics in (("champion", compared.champion or {}), ("challenger", compared.challenger)):
                tags |= {tracking.metric_key(f"window/{who}/{name}"): f"{value:.6f}" for name, value in metrics.items()}
            if run_id is not None:
                client = MlflowClient(self.uri)
                decided = {"window": compared.window, **gate.summary(compared.decision)}
                client.log_dict(run_id, decided, "gate.json")
                client.log_dict(run_id, drift.summary() if drift else {}, "drift.json")
            # Before the alias moves, so that a champion always says why; the decision itself comes after.
            registry.tag(challenger, tags | {REASONS_TAG: "\n".join(compared.reasons)})
            if passed:
                if not self.lock.is_held():
                    raise InputError(
                        f"{self.lock.path}: another retraining took the lock over meanwhile, so nothing was promoted; "
                        "raise --retrain.lock_timeout_s, and run again"
                    )
                registry.promote(challenger, expected=champion.version)
            registry.record(challenger, PROMOTED if passed else KEPT, compared.reasons, {})
        return PROMOTED if passed else KEPT

    def _finish_promotion(self, registry: Registry | None, version: Version) -> None:
        """Of a run that was killed between moving the alias and writing the decision."""
        reasons = version.tags.get(REASONS_TAG)
        if registry is not None and not self.dry and reasons is not None and DECISION_TAG not in version.tags:
            registry.record(version, PROMOTED, reasons.splitlines(), {})

    def _show(self, compared: Comparison) -> None:
        for reason in compared.reasons:
            self.say(f"gate: {reason}")


def _model_to_go_on_with(asked: ModelConfig, champion: ResolvedModelConfig) -> ModelConfig:
    """Champion's model section, with what may change (FREE_TO_CHANGE) as `asked` says.

    Raises InputError where the user asks for another value of what may not. An `auto` asks for nothing: what the data
    decides, champion has decided.
    """
    given = asked.model_fields_set
    for name in given - FREE_TO_CHANGE:
        wanted, has = getattr(asked, name), getattr(champion, name)
        if wanted not in ("auto", has):
            raise InputError(
                f"model.{name}: {wanted}, but champion, from which training starts, has {has}; "
                "leave it out, or set --retrain.start scratch"
            )
    return ModelConfig(**(dict(champion) | {name: getattr(asked, name) for name in given & FREE_TO_CHANGE}))


def warm_training(train: ResolvedTrainConfig, retrain: RetrainConfig) -> ResolvedTrainConfig:
    """The training that starts from champion: its own schedule and share of champion's weights, else as from scratch.

    From scratch many epochs over the same events find the weights; from champion few will do, as long as they take
    enough steps, which smaller batches give at nearly the same cost: down to the smallest that a small log gets.
    """
    whole, smallest = train.global_batch_events, BATCH_RANGE[0]
    settings = {
        "epochs": retrain.warm_epochs,
        "learning_rate": retrain.warm_learning_rate,
        "global_batch_events": max(min(whole, smallest), round(whole * retrain.warm_batch_share)),
        "validate_every_epochs": retrain.warm_validate_every_epochs,
        "warm_start_keep": retrain.warm_keep,
    }
    return train.model_copy(update=settings)

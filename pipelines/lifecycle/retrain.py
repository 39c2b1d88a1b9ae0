"""The retraining job: new log files -> dataset -> drift -> training from champion -> gate -> promoted or kept.

Every step can be run again: files are known by their digests, datasets by their fingerprint, models by their training
key. So a run that finds nothing new says so, and one that was killed is finished by the next: a registered challenger
without a decision is judged, not trained again. The reasons are written first, then the alias moves, then the decision
is recorded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.tracking import MlflowClient
from rich.console import Console

from mgray.config import (
    ResolvedTrainJobConfig,
    RetrainJobConfig,
    resolve_out,
)
from mgray.data.dataset import Dataset
from mgray.data.manifest import Manifest
from mgray.errors import InputError
from mgray.eval.compare_models import Comparison, compare
from mgray.eval.drift import Drift, drift_line, known_share, measure_drift, summarize
from mgray.eval.gate import decision_json
from mgray.serve.recommender import Recommender
from pipelines import tracking
from pipelines.ingest.job import obtain_dataset
from pipelines.ingest.source.digests import Files, Log, digest_log, sort_files
from pipelines.lifecycle.training import Start, training_config
from pipelines.runtime import cluster
from pipelines.runtime.console import Timer, console, say
from pipelines.runtime.lock import Lock, retrain_lock
from pipelines.runtime.redact import shown_uri
from pipelines.runtime.result import ComparedMetrics, DatasetLabel, JobResult, VersionLabel
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
from pipelines.train.job import train_model
from pipelines.train.publish import TrainResult

MIN_KNOWN_SHARE = 0.01  # of the events are on items that champion knows; below it, the item ids are not its own
NOTHING_NEW, FIRST = "nothing_new", "first"


class RetrainResult(JobResult):
    """Result of the retrain job."""

    dry_run: bool
    tracking_uri: str
    champion: VersionLabel | None  # as the job began
    files: dict[str, Any]  # Files.summary
    dataset: DatasetLabel | None = None
    rows: dict[str, int] = {}
    drift: dict[str, float | int | str | None] | None = None  # Drift.as_json
    # promoted, kept, first (there was no champion) or nothing_new; a dry run: would_promote, would_keep, would_be_first
    action: str = ""
    reasons: list[str] = []
    challenger: VersionLabel | None = None
    metrics: ComparedMetrics | None = None
    window: dict[str, str | int | None] = {}  # the test period: TestPeriod.as_json. An older name, kept for readers
    cost: dict[str, int | float] = {}  # the challenger's: parameters, latency_ms
    run_id: str | None = None
    report: str | None = None
    seconds: dict[str, float] = {}


def run_retrain(config: RetrainJobConfig) -> dict[str, Any]:
    """The retrain job -> its result line. Raises InputError where the user's input is wrong."""
    return retrain(config).line()


def retrain(config: RetrainJobConfig) -> RetrainResult:
    """One retraining. Raises InputError where the user's input is wrong."""
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


class _Data(NamedTuple):
    """The dataset of all files of the log."""

    dataset: Dataset
    drift: Drift | None  # of its new events from the champion's data; None: there is nothing to compare with
    reused: bool


class _Challenger(NamedTuple):
    """The model to be judged."""

    version: Version | None  # None: a dry run registers nothing
    folder: Path
    run_id: str | None
    report: str | None


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

    def run(self) -> RetrainResult:
        registry = self._open()
        with self.timer.phase("find"):
            champion = self._champion(registry) if registry else None
            log = digest_log(self.config.data, self.home) if self.config.data.dataset is None else None
            files = self._files(champion, log)
        result = RetrainResult(
            dry_run=self.dry,
            tracking_uri=shown_uri(self.uri),
            champion=champion.version.label if champion else None,
            files=files.summary(),
        )
        if champion and not files.new:
            self._finish_promotion(registry, champion.version)
            reason = f"all {len(files.known)} files of the log are in the data of version {champion.version.version}"
            return self._nothing_new(result, [reason])
        if files.missing:
            self.say(f"{len(files.missing)} files of the champion's data are no longer in the log: {files.missing[:5]}")
        with self.timer.phase("ray_start"):
            cluster.connect()
        data = self._data(champion, files.missing, log)
        result = self._with_data(result, data)
        if champion is None:
            return self._first(result, registry, data.dataset)
        assert registry is not None
        return self._judge(result, registry, champion, data)

    def _with_data(self, result: RetrainResult, data: _Data) -> RetrainResult:
        manifest = data.dataset.manifest
        is_temporary = self.dry and self.config.data.dataset is None
        path = None if is_temporary else str(data.dataset.folder)
        return result.more(
            dataset=DatasetLabel(path=path, fingerprint=manifest.fingerprint, reused=data.reused),
            rows=manifest.result_rows(),
            drift=data.drift.as_json() if data.drift else None,
        )

    def _judge(self, result: RetrainResult, registry: Registry, champion: _Champion, data: _Data) -> RetrainResult:
        """Train a challenger, unless there is one already, compare it with champion and decide."""
        training = training_config(self.config, self.home, data.dataset, self._start(champion))
        found = registry.trained_as(training_key(training, data.dataset.manifest.fingerprint))
        if found is not None and self._is_decided(found, champion):
            then = found.tags.get(REASONS_TAG, "").splitlines()
            reason = f"version {found.version} was trained on these files and {found.tags[DECISION_TAG]}"
            return self._nothing_new(result, [reason, *then])
        challenger = self._challenger(registry, found, training, champion)
        with self.timer.phase("compare"):
            compared = compare(
                data.dataset,
                champion.model,
                Recommender(challenger.folder),
                self.config.evaluate,
                self.config.gate,
                [champion.manifest],
            )
        for reason in compared.reasons:
            self.say(f"gate: {reason}")
        return result.more(
            action=self._decide(registry, challenger, champion, compared, data.drift),
            reasons=compared.reasons,
            challenger=challenger.version.label if challenger.version else None,
            metrics=ComparedMetrics(champion=compared.champion, challenger=compared.challenger),
            window=compared.period.as_json(),
            cost=compared.cost._asdict(),
            run_id=challenger.run_id,
            report=challenger.report,
            seconds=self.timer.seconds,
        )

    def _start(self, champion: _Champion) -> Start | None:
        """Model that training starts from; None: from scratch."""
        if self.config.retrain.start != "champion":
            return None
        return Start(champion.version.uri, champion.model.info.config)

    def _challenger(
        self, registry: Registry, found: Version | None, training: ResolvedTrainJobConfig, champion: _Champion
    ) -> _Challenger:
        """`found`, a version that was trained as `training` says and not decided upon; else one trained now."""
        if found is not None:
            self.say(f"version {found.version} was trained on these files and not decided upon: deciding now")
            folder = tracking.fetch_model(found.uri, registry.uri, self.scratch / "challenger")[0]
            return _Challenger(None if self.dry else found, folder, found.run_id, None)
        return self._train(registry, training, champion)[0]

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

    def _data(self, champion: _Champion | None, missing: list[str], log: Log | None) -> _Data:
        """Ingest all files, and measure how far the new events are from the champion's data.

        Files that the champion's data was made from are not read again where its staged events are still there.
        """
        data = self.config.data.model_copy(update={"out": str(self.scratch / "datasets")} if self.dry else {})
        past = dataset_folder(champion.manifest, self.datasets) if champion and champion.manifest else None
        # Without a file that the champion knew, or with that file changed, the log is another: all of it is read.
        base = past if past and not missing else False
        dataset, reused = obtain_dataset(data, self.home, self.out, self.timer, base, log)
        if champion is None:
            return _Data(dataset, None, reused)
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
        self.say(drift_line(drift))
        return _Data(dataset, drift, reused)

    def _train(
        self, registry: Registry | None, training: ResolvedTrainJobConfig, champion: _Champion | None
    ) -> tuple[_Challenger, TrainResult]:
        """Train and register. A dry run trains in its own HOME, with its own MLflow, and registers nothing."""
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
            result = train_model(training)
        folder = Path(result.checkpoint)
        if self.dry:
            tracking.aim(self.uri)
            return _Challenger(None, folder, None, None), result
        assert registry is not None
        assert result.model is not None, "a run that could not register has failed"
        return _Challenger(registry.find(result.model.version), folder, result.run_id, result.report), result

    def _first(self, result: RetrainResult, registry: Registry | None, dataset: Dataset) -> RetrainResult:
        """Train from scratch where there is no champion; the version becomes champion as it is registered."""
        first, trained = self._train(registry, training_config(self.config, self.home, dataset), None)
        reasons = ["no champion yet: the first version becomes champion"]
        if first.version is not None:
            assert registry is not None
            registry.record(first.version, PROMOTED, reasons, {})
        return result.more(
            action=f"would_be_{FIRST}" if self.dry else FIRST,
            reasons=reasons,
            challenger=first.version.label if first.version else None,
            metrics=ComparedMetrics(champion=None, challenger=trained.metrics),
            run_id=first.run_id,
            report=first.report,
            seconds=self.timer.seconds,
        )

    def _nothing_new(self, result: RetrainResult, reasons: list[str]) -> RetrainResult:
        self.say(f"nothing new: {reasons[0]}")
        return result.more(action=NOTHING_NEW, reasons=reasons, seconds=self.timer.seconds)

    def _decision_tags(self, champion: _Champion) -> dict[str, str]:
        """Tags of what a decision depends on beside the version itself: the same tags, the same decision."""
        return {"decision_champion": champion.version.version, "decision_gate": self.config.gate.model_dump_json()}

    def _is_decided(self, found: Version, champion: _Champion) -> bool:
        """A version that was rolled back, or kept by this gate against this champion, is not asked about again."""
        decision = found.tags.get(DECISION_TAG)
        same = all(found.tags.get(key) == value for key, value in self._decision_tags(champion).items())
        return decision is not None and (decision != KEPT or same)

    def _decide(
        self,
        registry: Registry,
        challenger: _Challenger,
        champion: _Champion,
        compared: Comparison,
        drift: Drift | None,
    ) -> str:
        """Write the decision into the registry, and promote the challenger if it passed. Returns the action."""
        passed, version = compared.decision.passed, challenger.version
        if version is None:
            return "would_promote" if passed else "would_keep"
        assert self.lock is not None
        with self.timer.phase("decide"):
            tags = self._decision_tags(champion)
            tags |= {f"drift_{key}": str(value) for key, value in (drift.as_json() if drift else {}).items()}
            for who, metrics in (("champion", compared.champion or {}), ("challenger", compared.challenger)):
                tags |= {tracking.metric_key(f"window/{who}/{name}"): f"{value:.6f}" for name, value in metrics.items()}
            if challenger.run_id is not None:
                client = MlflowClient(self.uri)
                decided = {"window": compared.period.as_json(), **decision_json(compared.decision)}
                client.log_dict(challenger.run_id, decided, "gate.json")
                client.log_dict(challenger.run_id, drift.as_json() if drift else {}, "drift.json")
            # Before the alias moves, so that a champion always says why; the decision itself comes after.
            registry.tag(version, tags | {REASONS_TAG: "\n".join(compared.reasons)})
            if passed:
                if not self.lock.is_held():
                    raise InputError(
                        f"{self.lock.path}: another retraining took the lock over meanwhile, so nothing was promoted; "
                        "raise --retrain.lock_timeout_s, and run again"
                    )
                registry.promote(version, expected=champion.version)
            registry.record(version, PROMOTED if passed else KEPT, compared.reasons, {})
        return PROMOTED if passed else KEPT

    def _finish_promotion(self, registry: Registry | None, version: Version) -> None:
        """Write the decision that a killed run did not: it had moved the alias already."""
        reasons = version.tags.get(REASONS_TAG)
        if registry is not None and not self.dry and reasons is not None and DECISION_TAG not in version.tags:
            registry.record(version, PROMOTED, reasons.splitlines(), {})

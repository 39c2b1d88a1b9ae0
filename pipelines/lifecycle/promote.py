"""A person's moves of the alias: promote a version through the gate, and put the former champion back."""

from pathlib import Path
from typing import Any

from mgray.config import PromoteJobConfig, RollbackJobConfig, resolve_out
from mgray.data.dataset import Dataset
from mgray.data.manifest import Manifest
from mgray.errors import InputError
from mgray.eval.compare_models import Comparison, compare
from mgray.serve.recommender import Recommender
from pipelines import tracking
from pipelines.ingest.job import obtain_dataset
from pipelines.runtime import cluster
from pipelines.runtime.console import Timer, console, say
from pipelines.runtime.redact import shown_uri
from pipelines.runtime.result import ComparedMetrics, DatasetLabel, JobResult, VersionLabel
from pipelines.runtime.versions import staging_folder
from pipelines.tracking.registry import KEPT, PROMOTED, Registry, Version, dataset_folder


class PromoteResult(JobResult):
    """Result of the promote job."""

    tracking_uri: str
    champion: VersionLabel | None
    challenger: VersionLabel
    action: str = ""  # promoted, kept (refused), already_champion
    reasons: list[str] = []
    metrics: ComparedMetrics | None = None
    window: dict[str, str | int | None] = {}  # TestPeriod.as_json
    cost: dict[str, int | float] = {}  # the challenger's: parameters, latency_ms
    dataset: DatasetLabel | None = None
    seconds: dict[str, float] = {}


class RollbackResult(JobResult):
    """Result of the rollback job."""

    action: str
    tracking_uri: str
    champion: VersionLabel
    former: VersionLabel
    history: list[str]  # versions that were champion, the present one last


def run_promote(config: PromoteJobConfig) -> dict[str, Any]:
    """The promote job -> its result line.

    Raises InputError where the version does not exist or there is no data to compare on.
    """
    return promote_version(config).line()


def promote_version(config: PromoteJobConfig) -> PromoteResult:
    """Promote a version, if the gate lets it pass or is skipped."""
    if config.version is None:
        raise InputError("--version: which one to promote is not said; give --version N, a number of MLflow's registry")
    if config.skip_gate and not config.reason:
        raise InputError("--skip_gate true needs --reason TEXT, which the registry keeps")
    home, out, timer = cluster.job_home(config), console(), Timer()
    uri = tracking.open_tracking(config.tracking, home, runs=False)
    registry = Registry(uri, config.tracking.model_name)
    version, champion = registry.find(config.version), registry.champion()
    result = PromoteResult(
        tracking_uri=shown_uri(uri), champion=champion.label if champion else None, challenger=version.label
    )
    given = [config.reason] if config.reason else []
    if champion is not None and champion.version == version.version:
        return result.more(action="already_champion", reasons=[f"version {version.version} is champion already"])
    if config.skip_gate:
        reasons, passed = [*given, "the gate was skipped"], True
    else:
        models = [version] if champion is None else [version, champion]
        known = [manifest for one in models if (manifest := registry.manifest(one)) is not None]
        dataset = _period_dataset(config, home, version, known, timer)
        with timer.phase("compare"), staging_folder(home, "promote", "--home") as scratch:
            compared = _compare(config, dataset, registry, version, champion, known, scratch)
        passed, reasons = compared.decision.passed, [*given, *compared.reasons]
        result = result.more(
            metrics=ComparedMetrics(champion=compared.champion, challenger=compared.challenger),
            window=compared.period.as_json(),
            cost=compared.cost._asdict(),
            dataset=DatasetLabel(path=str(dataset.folder), fingerprint=dataset.manifest.fingerprint),
        )
    for reason in reasons:
        say(out, reason)
    if passed:
        registry.promote(version, expected=champion)
    tags = {"decision_champion": champion.version if champion else "", "decision_gate": config.gate.model_dump_json()}
    registry.record(version, PROMOTED if passed else KEPT, reasons, tags)
    return result.more(action=PROMOTED if passed else KEPT, reasons=reasons, seconds=timer.seconds)


def _compare(
    config: PromoteJobConfig,
    dataset: Dataset,
    registry: Registry,
    version: Version,
    champion: Version | None,
    trained_on: list[Manifest],
    scratch: Path,
) -> Comparison:
    def fetch(wanted: Version, name: str) -> Recommender:
        return Recommender(tracking.fetch_model(wanted.uri, registry.uri, scratch / name)[0])

    challenger = fetch(version, "challenger")
    return compare(
        dataset,
        fetch(champion, "champion") if champion else None,
        challenger,
        challenger.info.as_measured(config.evaluate),
        config.gate,
        trained_on,
    )


def _period_dataset(
    config: PromoteJobConfig, home: Path, version: Version, known: list[Manifest], timer: Timer
) -> Dataset:
    """The dataset whose test part is the test period.

    The dataset or log that the config names; else that of the two models' own datasets whose log ends later: the test
    part of the newer one is behind what either was trained on.
    """
    if config.data.is_named:
        cluster.connect()
        return obtain_dataset(config.data, home, console(), timer)[0]
    # logs without times all end at 0: of these the one ingested later
    newest = max(known, key=lambda manifest: (manifest.last_timestamp, manifest.created), default=None)
    out = resolve_out(config.data, home)
    folder = dataset_folder(newest, out) if newest else None
    if folder is None:
        raise InputError(
            f"version {version.version}: its dataset and champion's are not in {out}; "
            "give the newest log with --data.source, or a dataset with --data.dataset"
        )
    return Dataset(folder)


def run_rollback(config: RollbackJobConfig) -> dict[str, Any]:
    """The rollback job -> its result line. Raises InputError where no former champion is on record."""
    return roll_back(config).line()


def roll_back(config: RollbackJobConfig) -> RollbackResult:
    """Put the former champion back."""
    home = cluster.job_home(config)
    uri = tracking.open_tracking(config.tracking, home, runs=False)
    registry = Registry(uri, config.tracking.model_name)
    was, now = registry.rollback(config.reason or "asked for with jobs/rollback.py")
    console().print(f"{now.name}: champion was version {was.version}, is version {now.version}", highlight=False)
    return RollbackResult(
        action="rolled_back",
        tracking_uri=shown_uri(uri),
        champion=now.label,
        former=was.label,
        history=registry.history(),
    )

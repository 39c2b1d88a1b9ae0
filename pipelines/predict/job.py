"""Batch scoring on Ray Data: every user of a dataset to a committed version of top-k lists (Parquet and a manifest).

One row of the Ray Dataset is a part of a shard, one actor a loaded model. An actor reads its part, scores it and
writes it; what comes back is a line of the manifest, so neither driver nor object store ever holds a user.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import ray.data
from pydantic import TypeAdapter
from ray.data import ActorPoolStrategy
from rich.console import Console

from mgray import __version__
from mgray.config import DataConfig, PredictConfig, PredictJobConfig, ScaleConfig, local_folder
from mgray.data.dataset import Dataset
from mgray.data.manifest import (
    PredictionManifest,
    PredictionModel,
    PredictionPart,
    commit,
    digest,
    file_sha256,
    read_predictions,
    short_key,
)
from mgray.errors import InputError, NotTrainableError
from mgray.ingest.spelling import id_spelling
from mgray.schema import SCHEMA_VERSION, SCHEMA_WITHOUT_OUTSIDE
from mgray.serve.model_folder import WEIGHTS_FILE, ModelInfo, Vocabulary, load_info
from mgray.serve.translation import check_items_known
from pipelines import tracking
from pipelines.ingest.job import IngestResult, dataset_line, ingest
from pipelines.ingest.runner import Progress
from pipelines.ingest.source.titles import read_item_ids
from pipelines.predict.tasks import Mistake, PartScorer, PredictJob, ScoredPart, peak_rss_bytes, plan_parts
from pipelines.runtime import cluster
from pipelines.runtime.console import PhaseProgress, Timer, console, say
from pipelines.runtime.redact import shown_uri
from pipelines.runtime.result import DatasetLabel, JobResult
from pipelines.runtime.versions import committed, put_in_place, staging_folder
from pipelines.tracking.registry import Registry, own_data

# Rules of data.clean that take events out of a history that is scored.
HISTORY_RULES = ("timestamps", "ratings", "duplicates", "bots", "repeats")
COUNTED = ("users", "users_fallback", "users_short", "users_empty", "predictions")
ANSWER: TypeAdapter[ScoredPart | Mistake] = TypeAdapter(ScoredPart | Mistake)  # of an actor, of a part
TASKS_QUEUED_PER_ACTOR = 2  # the next part waits at its actor, so none idles while the driver wakes up


class FetchedModel(NamedTuple):
    folder: Path
    record: PredictionModel
    item_ids: Sequence[str]


class Scored(NamedTuple):
    parts: list[PredictionPart]
    started: float  # when the first part began, seconds since 1970
    peak_rss_bytes: dict[int, int]  # by worker process


def plan_scoring(config: PredictConfig) -> cluster.WorkerPlan:
    """How many workers, and on what. Raises InputError where the cluster cannot hold them."""
    needs: dict[str, float] = {"CPU": config.cpus_per_worker}
    if config.use_gpu is True or (config.use_gpu == "auto" and cluster.room(needs | {"GPU": 1})):
        needs["GPU"] = 1
    scale = ScaleConfig(
        num_workers=config.num_workers or max(1, cluster.room(needs)),
        cpus_per_worker=config.cpus_per_worker,
        use_gpu=config.use_gpu,
    )
    return cluster.plan_workers(scale, "predict")


def fetch(config: PredictJobConfig, uri: str, target: Path) -> FetchedModel:
    """The registered model in a folder below `target`. Raises InputError where there is no such model."""
    folder, name, version = tracking.fetch_model(config.model, uri, target)
    load_info(folder)  # says so where files are missing
    record = PredictionModel(
        name=name,
        version=version,
        run_id=tracking.run_of_version(uri, name, version),
        weights_sha256=file_sha256(folder / WEIGHTS_FILE),
    )
    return FetchedModel(folder, record, Vocabulary.read(folder).item_ids)


def block(
    config: PredictConfig, ids: Sequence[str], model_ids: Sequence[str], dataset_ids: Sequence[str]
) -> npt.NDArray[np.int64] | None:
    """The model's item numbers of the blocked `ids` (as id_spelling has them), None where there are none.

    Raises InputError for an id that neither model nor dataset knows (a typing error would recommend the item), and
    where nothing would be left to recommend.
    """
    if not ids:
        return None
    spelled = [id_spelling(item) for item in model_ids]  # those of a model of an earlier rule may be in another way
    unknown = set(ids).difference(spelled, map(id_spelling, dataset_ids))
    if unknown and not config.allow_unknown_blocked:
        shown = ", ".join(sorted(unknown)[:3])
        raise InputError(
            f"--predict.blocked {config.blocked}: {len(unknown)} of {len(ids)} item ids are in neither model nor "
            f"dataset ({shown}); mend them, or set --predict.allow_unknown_blocked true"
        )
    asked = set(ids)
    numbers = np.asarray([number for number, item in enumerate(spelled, start=1) if item in asked], np.int64)
    if len(numbers) == len(model_ids):
        raise InputError(f"--predict.blocked {config.blocked}: blocks every item of the model; nothing is left")
    return numbers if len(numbers) else None


def score_parts(job: PredictJob, plan: cluster.WorkerPlan, users: int, out: Console) -> Scored:
    """Runs every part on a pool of actors. Raises the first InputError met."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"index": index} for index in range(len(job.parts))]
    # from_items and not range: its blocks need no read task, which would wait for a CPU that the actors hold
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        PartScorer,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ActorPoolStrategy(
            size=min(plan.num_workers, len(rows)), max_tasks_in_flight_per_actor=TASKS_QUEUED_PER_ACTOR
        ),
        num_cpus=plan.resources_per_worker["CPU"],
        num_gpus=plan.resources_per_worker.get("GPU"),
    )
    parts: dict[int, PredictionPart] = {}
    started, done, peaks = time.time(), 0, dict[int, int]()
    with PhaseProgress(out) as progress:
        for row in dataset.iter_rows():
            scored = ANSWER.validate_json(row["result"])
            if isinstance(scored, Mistake):
                raise InputError(scored.error)
            started = min(started, scored.started) if parts else scored.started
            parts[row["index"]] = scored.part
            peaks[scored.pid] = max(peaks.get(scored.pid, 0), scored.peak_rss_bytes or 0)
            done += scored.part.users
            speed = done / max(1e-9, time.time() - started)
            progress.update("score: users", done, users, f"{speed:,.0f} users/s")
    return Scored([parts[index] for index in range(len(job.parts))], started, peaks)


def ingest_to_score(data: DataConfig, home: Path, progress: Progress) -> IngestResult:
    """The dataset version of a log whose every user is to get a list.

    Histories are whole: no k-core is asked for, nor that exact duplicates go, unless data.clean.duplicates says so.
    Where the log is too small to train on or to split, each event trains, for nothing but scoring comes of it. Raises
    InputError as ingest does.
    """
    if data.dataset is None:
        whole = {"min_item_events": 1} | ({} if "duplicates" in data.clean.model_fields_set else {"duplicates": False})
        data = data.model_copy(update={"clean": data.clean.model_copy(update=whole)})
    try:
        return ingest(data, home, progress)
    except NotTrainableError:
        smallest = {"min_user_events": 1, "split": "leave_one_out", "valid_from": None, "test_from": None}
        return ingest(data.model_copy(update=smallest), home, progress)


def lost_events(dataset: Dataset, info: ModelInfo) -> list[str]:
    """Notes on events that the model may know and the dataset does not hold."""
    manifest = dataset.manifest
    if manifest.fingerprint == info.dataset_fingerprint:
        return []
    notes = []
    dropped = {rule: manifest.rows.get(f"dropped_{rule}", 0) for rule in HISTORY_RULES}
    if any(dropped.values()):
        told = ", ".join(f"{count:,} by {rule}" for rule, count in dropped.items() if count)
        notes.append(f"data.clean took events out of the histories that are scored: {told}")
    rarest = manifest.config.get("clean", {}).get("min_item_events", 1)
    if rarest > 1:
        notes.append(
            f"{dataset.folder} was made with data.clean.min_item_events {rarest}: events on items with fewer than "
            f"{rarest} are not in it, though the model may know them; give the log by --data.source for whole histories"
        )
    if manifest.schema_version == SCHEMA_WITHOUT_OUTSIDE:
        notes.append(
            f"{dataset.folder} was made by an older mgray: events on items outside its vocabulary, and users with "
            "too few events, are not in it; ingest its log again for whole histories"
        )
    return notes


class PredictedModel(JobResult):
    """The registered model that made the lists."""

    name: str
    version: str
    run_id: str | None


class PeakMemory(JobResult):
    """The most resident memory of the driver, and of each worker process."""

    driver: int | None
    workers: list[int]


class PredictionResult(JobResult):
    """Result of the predict job."""

    model: PredictedModel
    tracking_uri: str
    dataset: DatasetLabel
    path: str
    reused: bool
    rows: dict[str, int]
    workers: str = ""  # this and the next two: of lists that were made now
    users_s: float = 0.0
    peak_rss_bytes: PeakMemory | None = None
    seconds: dict[str, float] = {}


class _Speed(NamedTuple):
    """Time and memory that a scoring took."""

    workers: str
    users_s: float
    peak_rss_bytes: PeakMemory


class _Given(NamedTuple):
    """Model, dataset and settings that the lists are made from."""

    settings: PredictConfig  # remove_seen as it is to be
    model: FetchedModel
    ingested: IngestResult
    dataset: Dataset
    blocked: npt.NDArray[np.int64] | None  # the model's numbers of `blocked_ids`
    blocked_ids: list[str]

    def identity(self) -> dict[str, Any]:
        """Fields of the manifest that, with the dataset, decide the lists."""
        shaping = {
            "k": self.settings.k,
            "remove_seen": self.settings.remove_seen,
            "blocked_items": 0 if self.blocked is None else len(self.blocked),
            "blocked_sha256": digest(sorted(set(self.blocked_ids))) if self.blocked_ids else None,
        }
        return {"model": self.model.record.model_dump(), "settings": shaping, "schema_version": SCHEMA_VERSION}

    def key(self) -> str:
        return digest(self.identity() | {"dataset": self.dataset.manifest.fingerprint})


def run_prediction(config: PredictJobConfig) -> dict[str, Any]:
    """The predict job -> its result line. Raises InputError where the user's input is wrong.

    Then nothing is committed, what was written is removed, and versions committed before are as they were.
    """
    return predict(config).line()


def predict(config: PredictJobConfig) -> PredictionResult:
    """Score every user of the dataset, or find the lists that were made before."""
    out, timer, settings = console(), Timer(), config.predict
    home = cluster.job_home(config)
    target = local_folder(settings.out, "--predict.out") if settings.out else home / "predictions"
    cluster.check_writable(target, "--predict.out")
    blocked_ids = read_item_ids(Path(settings.blocked).expanduser(), "--predict.blocked") if settings.blocked else []
    uri = tracking.open_tracking(config.tracking, home, runs=False, writes=False)
    with tempfile.TemporaryDirectory() as temporary:
        with timer.phase("fetch_model"):
            model = fetch(config, uri, Path(temporary))
        given = _prepare(config, model, blocked_ids, Registry(uri, model.record.name), home, timer, out)
        folder = target / short_key(given.key())
        manifest = None if settings.overwrite else committed(folder, given.key(), read_predictions)
        reused, speed = manifest is not None, None
        if manifest is None:
            with staging_folder(target, given.key(), "--predict.out") as staging:
                manifest, speed = _build(given, staging, timer, out)
                manifest = put_in_place(staging, folder, manifest, read_predictions, settings.overwrite)
    say(out, _made_line(folder, manifest, reused))
    result = PredictionResult(
        model=PredictedModel(**model.record.model_dump(exclude={"weights_sha256"})),
        tracking_uri=shown_uri(uri),
        dataset=DatasetLabel(
            path=str(given.ingested.path),
            fingerprint=given.dataset.manifest.fingerprint,
            reused=given.ingested.reused,
        ),
        path=str(folder),
        reused=reused,
        rows=manifest.rows,
        seconds=timer.seconds,
    )
    return result if speed is None else result.more(**speed._asdict())


def _prepare(
    config: PredictJobConfig,
    model: FetchedModel,
    blocked_ids: list[str],
    registry: Registry,
    home: Path,
    timer: Timer,
    out: Console,
) -> _Given:
    """Ingest the log to be scored, and say what the lists will leave out.

    Raises InputError where model, dataset and blocked items do not fit.
    """
    info, settings = load_info(model.folder), config.predict
    if settings.remove_seen is None:
        settings = settings.model_copy(update={"remove_seen": info.remove_seen})
    elif caution := info.caution(settings.remove_seen):
        out.print(f"[yellow]{config.model}: {caution}[/]")
    data = own_data(config.data, home, registry, registry.find(model.record.version))
    if data.dataset is None:
        with timer.phase("ray_start"):
            cluster.connect()
    with timer.phase("dataset"), PhaseProgress(out) as progress:
        found = ingest_to_score(data, home, progress.update)
    say(out, dataset_line(found))
    dataset = Dataset(found.path.absolute())
    check_items_known(dataset, model.item_ids, f"--model {config.model}")
    for note in lost_events(dataset, info):
        out.print(f"[yellow]{note}[/]", soft_wrap=True)
    blocked = block(settings, blocked_ids, model.item_ids, dataset.all_item_ids)
    return _Given(settings, model, found, dataset, blocked, blocked_ids)


def _made_line(folder: Path, manifest: PredictionManifest, reused: bool) -> str:
    verb = "reusing the predictions already committed at" if reused else "predictions committed at"
    rows, model = manifest.rows, manifest.model
    return (
        f"{verb} {folder} ({rows['users']:,} users, {rows['users_fallback']:,} of them by popularity, "
        f"{rows['predictions']:,} rows, {model.name} version {model.version})"
    )


def _build(given: _Given, staging: Path, timer: Timer, out: Console) -> tuple[PredictionManifest, _Speed]:
    """Score into the staging folder, and write its manifest."""
    if not ray.is_initialized():
        with timer.phase("ray_start"):
            cluster.connect()
    settings, dataset = given.settings, given.dataset
    plan = plan_scoring(settings)
    shared_model = staging / "work" / "model"
    shutil.copytree(given.model.folder, shared_model)
    users = dataset.manifest.users + dataset.manifest.short_users
    job = PredictJob(
        dataset=dataset.folder,
        model=shared_model,
        folder=staging,
        parts=plan_parts(dataset.manifest, settings.part_users),
        k=settings.k,
        remove_seen=bool(settings.remove_seen),  # resolved before
        blocked=given.blocked,
        batch_events=settings.batch_events,
        threads=settings.cpus_per_worker,
        use_gpu=plan.use_gpu,
    )
    launched = time.time()
    scored = score_parts(job, plan, users, out)
    ended = time.time()
    timer.seconds["actors_start"] = round(max(0.0, scored.started - launched), 2)
    timer.seconds["score"] = round(ended - max(launched, scored.started), 2)
    with timer.phase("commit"):
        shutil.rmtree(staging / "work")
        rows = {name: sum(getattr(part, name) for part in scored.parts) for name in COUNTED}
        rows = {"users": rows["users"], "users_by_history": rows["users"] - rows["users_fallback"]} | rows
        manifest = PredictionManifest(
            **given.identity(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            mgray_version=__version__,
            prediction_key=given.key(),
            dataset_path=str(dataset.folder),
            dataset_fingerprint=dataset.manifest.fingerprint,
            rows=rows,
            parts=scored.parts,
        )
        manifest.check_conservation(users)
        commit(manifest, staging)
    memory = PeakMemory(driver=peak_rss_bytes(), workers=sorted(scored.peak_rss_bytes.values()))
    return manifest, _Speed(plan.label, round(users / max(0.01, ended - max(launched, scored.started)), 1), memory)

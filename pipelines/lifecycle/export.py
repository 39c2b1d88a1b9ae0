"""The export job: a model as it is or cut to fewer levels, as a model folder and, if asked for, a registered version.

The model is a registered one, or a folder that a training left: that of a run whose registration failed, above all.
"""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
from mlflow.entities import LifecycleStage, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mgray.config import ExportJobConfig, local_folder
from mgray.data.manifest import MANIFEST_FILE, Manifest
from mgray.errors import InputError
from mgray.serve.cut import Exported, export_cut, measure
from mgray.serve.model_folder import load_info
from mgray.serve.recommender import Recommender
from pipelines import tracking
from pipelines.runtime import cluster
from pipelines.runtime.console import console, say
from pipelines.runtime.redact import shown_uri
from pipelines.runtime.result import JobResult, VersionLabel
from pipelines.tracking.registry import Registry
from pipelines.train.job import SPOOL_FILE
from pipelines.train.publish import REPORT_FILE
from pipelines.train.unregistered import find_manifest, kept_registration

REGISTRY_SCHEME = "models:/"


class _Source(NamedTuple):
    """The model that the job starts from."""

    folder: Path
    label: str  # what folders and runs that come from it are named by
    shown: str  # models:/NAME/VERSION, or the folder
    version: VersionLabel | None  # None: a folder
    manifest: Manifest | None  # of the dataset that it was trained on


class FolderLabel(JobResult):
    """A model that is in no registry."""

    path: str


class ExportResult(JobResult):
    """Result of the export job."""

    model: VersionLabel | FolderLabel
    registered: VersionLabel | None
    tracking_uri: str
    path: str
    was: dict[str, int]  # fields of Size
    now: dict[str, int]


def run_export(config: ExportJobConfig) -> dict[str, Any]:
    """The export job -> its result line. Raises InputError where the user's input is wrong."""
    return export_model(config).line()


def export_model(config: ExportJobConfig) -> ExportResult:
    """Fetch the model, cut it, write the folder, register it.

    The same again changes nothing but a registered version more, so a registration that failed is asked for again.
    """
    given = None if config.model.startswith(REGISTRY_SCHEME) else _given_folder(config.model)
    if config.levels is None and (given is None or config.register_as is None):
        raise InputError(
            "--levels: how many of the model's levels to keep is not said; give a number, such as 2 (without it, "
            "--model FOLDER --register_as NAME registers the folder as it is)"
        )
    home = cluster.job_home(config)
    registers = config.register_as is not None
    uri = tracking.open_tracking(config.tracking, home, runs=registers, writes=registers)
    screen = console()
    with ExitStack() as stack:
        if given is None:
            source = _registered(config.model, uri, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        else:
            source = _left(given, home)
        out = source.folder
        exported = Exported(measure(out), measure(out))
        if config.levels is not None:
            default = home / "exports" / f"{source.label}-levels-{config.levels}"
            out = local_folder(config.out, "--out") if config.out else default
            cluster.check_writable(out.parent, "--out PATH")
            exported = export_cut(source.folder, config.levels, out)
    was, now = exported
    say(
        screen,
        f"{source.shown}: {was.levels} levels, {was.parameters:,} parameters -> {now.levels} levels, "
        f"{now.parameters:,} parameters in {out}",
    )
    registered = None
    if config.register_as is not None:
        registered = _registered_as(config, config.register_as, uri, source, exported, out)
        say(screen, f"registered as {registered.name} version {registered.version}")
    return ExportResult(
        model=source.version or FolderLabel(path=str(source.folder)),
        registered=registered,
        tracking_uri=shown_uri(uri),
        path=str(out),
        was=was._asdict(),
        now=now._asdict(),
    )


def _given_folder(model: str) -> Path:
    folder = local_folder(model, "--model")
    if not folder.is_dir():
        raise InputError(
            f"--model {model}: no such folder, and no registry URI; give a model's folder, models:/NAME@ALIAS or "
            "models:/NAME/VERSION"
        )
    info = load_info(folder)
    if info.config.outputs == "rating":
        raise InputError(f"--model {model}: a model that only rates recommends nothing, and is not registered or cut")
    return folder


def _registered(model: str, uri: str, target: Path) -> _Source:
    folder, name, number = tracking.fetch_model(model, uri, target)
    registry = Registry(uri, name)
    version = registry.find(number)
    return _Source(folder, f"{name}-{number}", version.uri, version.label, registry.manifest(version))


def _left(folder: Path, home: Path) -> _Source:
    kept = kept_registration(folder.parent)
    manifest = kept.manifest if kept else find_manifest(load_info(folder).dataset_fingerprint, home / "datasets")
    label = folder.parent.name if folder.name == "model" else folder.name
    return _Source(folder, label, str(folder), None, manifest)


def _registered_as(
    config: ExportJobConfig, name: str, uri: str, source: _Source, exported: Exported, out: Path
) -> VersionLabel:
    try:
        if config.levels is None:
            return _register_whole(config, name, uri, source)
        return _register_cut(config, name, uri, source, exported, out)
    except MlflowException as error:
        raise InputError(
            f"--register_as {name}: {out} is written, but not registered: {error.message}; see to "
            f"MLflow at {shown_uri(uri)}, and run the same again"
        ) from error


def _register_cut(
    config: ExportJobConfig, name: str, uri: str, source: _Source, exported: Exported, folder: Path
) -> VersionLabel:
    """The version, in a run of its own that knows the dataset too: a cut model may become champion and be retrained."""
    target = config.tracking.model_copy(update={"model_name": name, "register_model": True})
    recommender, (was, now) = Recommender(folder), exported
    info = recommender.info
    tags = {"cut_from": source.shown, "dataset_fingerprint": info.dataset_fingerprint}
    run_tags = tracking.run_tags(info.config.granularities, info.dataset_fingerprint, "none") | tags
    caution = info.caution(remove_seen=False)
    card = (
        f"# The first {now.levels} of {was.levels} granularities of {source.shown}\n\n"
        f"{now.parameters:,} of {was.parameters:,} parameters; cut, not trained again. Its figures are what "
        f"`jobs/eval.py` says of it.{f' {caution}.' if caution else ''}\n"
    )
    params = tracking.run_params(config.model_copy(update={"tracking": target}), uri)
    label = f"{source.label}-levels-{now.levels}"
    with tempfile.TemporaryDirectory() as temporary, tracking.start_run(target, params, run_tags, label) as run:
        if source.manifest is not None:
            mlflow.log_dict(source.manifest.model_dump(mode="json"), MANIFEST_FILE)
        tags["run_id"] = run.info.run_id
        # MLflow keeps the folder under its own name, and a registered model's is `model`.
        named = shutil.copytree(folder, Path(temporary) / "model")
        version = tracking.register(target, named, recommender.empty_request(), tags, card)
    assert version is not None, "registering is on"
    return VersionLabel(name=name, version=version)


def _register_whole(config: ExportJobConfig, name: str, uri: str, source: _Source) -> VersionLabel:
    """The folder as it is, in the run that trained it where MLflow has that run, with all that it would have had."""
    target = config.tracking.model_copy(update={"model_name": name, "register_model": True})
    recommender, run_folder = Recommender(source.folder), source.folder.parent
    info, kept = recommender.info, kept_registration(run_folder)
    tags = {"dataset_fingerprint": info.dataset_fingerprint, "registered_from": source.shown}
    request, card = recommender.empty_request(), f"# {source.shown}\n\nRegistered by `jobs/export.py`, as it is.\n"
    if kept is not None:
        tags, request, card = tags | kept.tags, kept.request, kept.card
    earlier = _run_of(source.folder, uri)
    if earlier is None:
        params = tracking.run_params(config.model_copy(update={"tracking": target}), uri)
        run_tags = tracking.run_tags(info.config.granularities, info.dataset_fingerprint, "none") | tags
        started = tracking.start_run(target, params, run_tags, source.label)
    else:
        experiment = MlflowClient(uri).get_experiment(earlier.info.experiment_id).name
        target = target.model_copy(update={"experiment": experiment})
        started = tracking.start_run(target, {}, {}, earlier.info.run_name, earlier.info.run_id)
    with tempfile.TemporaryDirectory() as temporary, started as run:
        run_id = run.info.run_id
        if source.manifest is not None:
            mlflow.log_dict(source.manifest.model_dump(mode="json"), MANIFEST_FILE)
        if earlier is not None:
            tracking.Tracker(uri, run_id, run_folder / SPOOL_FILE).replay()
            if (run_folder / REPORT_FILE).is_file():
                mlflow.log_artifact(str(run_folder / REPORT_FILE))
        named = source.folder
        if named.name != "model":
            named = shutil.copytree(named, Path(temporary) / "model")
        version = tracking.register(target, named, request, tags | {"run_id": run_id}, card)
    assert version is not None, "registering is on"
    return VersionLabel(name=name, version=version)


def _run_of(folder: Path, uri: str) -> Run | None:
    """The run of HOME/runs/RUN/model; None where the folder lies elsewhere, or MLflow does not have the run."""
    if folder.parent.parent.name != "runs":
        return None
    try:
        found = MlflowClient(uri).get_run(folder.parent.name)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return found if found.info.lifecycle_stage == LifecycleStage.ACTIVE else None

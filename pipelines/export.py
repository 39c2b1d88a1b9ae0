"""A registered model, cut to fewer levels: as a model folder, and as a registered version where that is asked for."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from mgray.config import ExportJobConfig, local_folder
from mgray.errors import InputError
from mgray.export import Exported, export_cut
from mgray.manifest import MANIFEST_FILE
from mgray.recommend import Recommender
from pipelines import cluster, tracking
from pipelines.progress import console, say
from pipelines.registry import Registry
from pipelines.shown import shown_uri


def run_export(config: ExportJobConfig) -> dict[str, Any]:
    """Fetch the model, cut it, write the folder; gives the result line's fields. Raises InputError.

    The same again changes nothing but a registered version more, so a registration that failed is asked for again.
    """
    if config.levels is None:
        raise InputError("--levels: how many of the model's levels to keep is not said; give a number, such as 2")
    home = cluster.job_home(config)
    uri = tracking.open_tracking(config.tracking, home)
    screen = console()
    with tempfile.TemporaryDirectory() as temporary:
        folder, name, version = tracking.fetch_model(config.model, uri, Path(temporary))
        default = home / "exports" / f"{name}-{version}-levels-{config.levels}"
        out = local_folder(config.out, "--out") if config.out else default
        cluster.check_writable(out.parent, "--out PATH")
        exported = export_cut(folder, config.levels, out)
    was, now = exported
    say(
        screen,
        f"{name} version {version}: {was.levels} levels, {was.parameters:,} parameters -> {now.levels} levels, "
        f"{now.parameters:,} parameters in {out}",
    )
    registered = None
    if config.register_as is not None:
        try:
            registered = _register(config, config.register_as, Registry(uri, name), version, exported, out)
        except MlflowException as error:
            raise InputError(
                f"--register_as {config.register_as}: {out} is written, but not registered: {error.message}; see to "
                f"MLflow at {shown_uri(uri)}, and run the same again"
            ) from error
        say(screen, "registered as {name} version {version}".format(**registered))
    return {
        "model": {"name": name, "version": version},
        "registered": registered,
        "tracking_uri": shown_uri(uri),
        "path": str(out),
        "was": was._asdict(),
        "now": now._asdict(),
    }


def _register(
    config: ExportJobConfig, name: str, registry: Registry, source_version: str, exported: Exported, folder: Path
) -> dict[str, str]:
    """The version, in a run of its own that knows the dataset too: a cut model may become champion and be retrained."""
    target = config.tracking.model_copy(update={"model_name": name, "register_model": True})
    recommender, (was, now), source = Recommender(folder), exported, registry.find(source_version)
    info, manifest = recommender.info, registry.manifest(source)
    tags = {"cut_from": source.uri, "dataset_fingerprint": info.dataset_fingerprint}
    run_tags = tracking.run_tags(info.config.granularities, info.dataset_fingerprint, "none") | tags
    caution = info.caution(remove_seen=False)
    card = (
        f"# The first {now.levels} of {was.levels} granularities of {source.uri}\n\n"
        f"{now.parameters:,} of {was.parameters:,} parameters; cut, not trained again. Its figures are what "
        f"`jobs/eval.py` says of it.{f' {caution}.' if caution else ''}\n"
    )
    params = tracking.run_params(config.model_copy(update={"tracking": target}), registry.uri)
    label = f"{source.name}-{source.version}-levels-{now.levels}"
    with tempfile.TemporaryDirectory() as temporary, tracking.start_run(target, params, run_tags, label) as run:
        if manifest is not None:
            mlflow.log_dict(manifest.model_dump(mode="json"), MANIFEST_FILE)
        tags["run_id"] = run.info.run_id
        # MLflow keeps the folder under its own name, and a registered model's is `model`.
        named = shutil.copytree(folder, Path(temporary) / "model")
        version = tracking.register(target, named, recommender.empty_request(), tags, card)
    assert version is not None, "registering is on"
    return {"name": name, "version": version}

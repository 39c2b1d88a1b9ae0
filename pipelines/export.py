"""A registered model, cut to fewer levels, as a model folder."""

import tempfile
from pathlib import Path
from typing import Any

from mgray.config import ExportJobConfig, local_folder
from mgray.errors import InputError
from mgray.export import export_cut
from pipelines import cluster, tracking
from pipelines.progress import console
from pipelines.shown import shown_uri


def run_export(config: ExportJobConfig) -> dict[str, Any]:
    """Fetch the model, cut it, write the folder; gives the result line's fields. Raises InputError."""
    if config.levels is None:
        raise InputError("--levels: how many of the model's levels to keep is not said; give a number, such as 2")
    home = cluster.job_home(config)
    uri = tracking.open_tracking(config.tracking, home)
    out = local_folder(config.out, "--out") if config.out else home / "exports" / f"levels-{config.levels}"
    cluster.check_writable(out.parent, "--out PATH")
    with tempfile.TemporaryDirectory() as temporary:
        folder, name, version = tracking.fetch_model(config.model, uri, Path(temporary))
        exported = export_cut(folder, config.levels, out)
    was, now = exported
    console().print(
        f"{name} version {version}: {was.levels} levels, {was.parameters:,} parameters -> {now.levels} levels, "
        f"{now.parameters:,} parameters in {out}",
        highlight=False,
        markup=False,
    )
    return {
        "model": {"name": name, "version": version},
        "tracking_uri": shown_uri(uri),
        "path": str(out),
        "was": was._asdict(),
        "now": now._asdict(),
    }

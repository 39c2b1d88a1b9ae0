"""A trained model that MLflow did not take: what its run's folder keeps, so that jobs/export.py registers it later."""

import logging
import shlex
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mgray.config import TrainJobConfig
from mgray.config.command_line import job_words
from mgray.data.manifest import MANIFEST_FILE, Manifest, read_manifest
from mgray.errors import InputError
from pipelines.runtime.redact import shown_uri

REGISTRATION_FILE = "registration.json"  # in a run's folder

logger = logging.getLogger(__name__)


class Registration(BaseModel):
    """All that goes into the registry with a model folder."""

    model_config = ConfigDict(frozen=True)

    request: dict[str, list[list[Any]]]  # the input example
    tags: dict[str, str]
    card: str
    manifest: Manifest  # of the dataset that the model was trained on

    def keep(self, run_folder: Path) -> None:
        """Write it for later. The model itself lies there already: that this fails is told, and ends nothing."""
        try:
            (run_folder / REGISTRATION_FILE).write_text(self.model_dump_json(indent=1))
        except OSError as error:
            logger.warning("%s: what goes to the registry beside the model cannot be kept: %s", run_folder, error)


def kept_registration(run_folder: Path) -> Registration | None:
    """Files that a failed registration left; None where nothing is left that this version reads."""
    try:
        return Registration.model_validate_json((run_folder / REGISTRATION_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def find_manifest(fingerprint: str, datasets: Path) -> Manifest | None:
    """The manifest of the dataset version of that fingerprint, where `datasets` has it."""
    for file in sorted(datasets.glob(f"*/{MANIFEST_FILE}")):
        try:
            found = read_manifest(file.parent)
        except InputError:  # of another version of mgray
            continue
        if found.fingerprint == fingerprint:
            return found
    return None


def register_command(config: TrainJobConfig, model_folder: Path) -> str:
    """The command line that registers the model of a run of `config`."""
    words = job_words("export")
    if config.home:
        words += ["--home", config.home]
    if config.tracking.uri:
        words += ["--tracking.uri", shown_uri(config.tracking.uri)]
    return shlex.join([*words, "--model", str(model_folder), "--register_as", config.tracking.model_name])

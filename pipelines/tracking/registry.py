"""The registered model: who is champion, who was, what was decided about a version and why.

The alias `champion` is the truth, whoever moved it: these jobs, or a hand in MLflow's UI. Beside it the registered
model's tag `champion_history` lists the champions in order, so that one step goes back. A champion that the history
does not end with was set by hand: if the history holds it, what came after it is forgotten, as a rollback would; if
not, it counts as promoted after the last one.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mgray.config import DataConfig, TrainJobConfig, resolve_out
from mgray.data.manifest import MANIFEST_FILE, Manifest, digest, short_key
from mgray.errors import InputError
from pipelines.runtime.redact import shown_uri
from pipelines.runtime.result import VersionLabel
from pipelines.tracking import CHAMPION

HISTORY_TAG = "champion_history"
MAX_HISTORY = 200  # versions kept in the tag
DECISION_TAG, REASONS_TAG, DECIDED_TAG = "decision", "decision_reasons", "decided_at"
PROMOTED, KEPT, ROLLED_BACK = "promoted", "kept", "rolled_back"
TRAINING_KEY_TAG = "training_key"
DESCRIPTION_CHARS = 5000  # the column's width in MLflow's database
DECISION_HEADING = "## Decision"


class Version(NamedTuple):
    name: str
    version: str
    run_id: str | None
    tags: dict[str, str]
    description: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def label(self) -> VersionLabel:
        """The version as a result line names it."""
        return VersionLabel(name=self.name, version=self.version)


def _version(found: ModelVersion) -> Version:
    return Version(
        found.name, str(found.version), found.run_id or None, dict(found.tags or {}), found.description or ""
    )


def training_key(config: TrainJobConfig, fingerprint: str) -> str:
    """Digest of what a trained model is made from: the same key, the same model."""
    settings = config.model_dump(include={"model", "train"}, mode="json")
    # Of evaluation, what training follows: the best epoch is by a metric at k of some users, train.exclude_seen may be
    # auto.
    evaluation = config.evaluate.model_dump(include={"k", "remove_seen", "max_valid_users"})
    return digest({**settings, **evaluation, "dataset": fingerprint})


class Registry:
    """One registered model in one MLflow. Methods raise MlflowException where the server fails."""

    def __init__(self, uri: str, name: str) -> None:
        self.uri, self.name = uri, name
        self.client = MlflowClient(uri, registry_uri=uri)

    def champion(self) -> Version | None:
        """Version that the alias names now; None: there is no such model or alias."""
        try:
            return _version(self.client.get_model_version_by_alias(self.name, CHAMPION))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def find(self, version: str | int) -> Version:
        """Raises InputError, listing what there is, where the version does not exist."""
        try:
            return _version(self.client.get_model_version(self.name, str(version)))
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            there = ", ".join(sorted((v.version for v in self.versions()), key=int)) or "none"
            raise InputError(
                f"version {version}: {self.name} at {shown_uri(self.uri)} has no such version (there are: {there})"
            ) from error

    def versions(self) -> list[Version]:
        found: list[Version] = []
        token: str | None = None
        while True:
            page = self.client.search_model_versions(f"name='{self.name}'", page_token=token)
            found += [_version(row) for row in page]
            token = page.token
            if not token:
                return found

    def trained_as(self, key: str) -> Version | None:
        """The newest version with this training key."""
        found = [version for version in self.versions() if version.tags.get(TRAINING_KEY_TAG) == key]
        return max(found, key=lambda version: int(version.version), default=None)

    def manifest(self, version: Version) -> Manifest | None:
        """Manifest of the version's dataset; None: its run is gone, or kept none that can be read."""
        if version.run_id is None:
            return None
        try:
            names = {file.path for file in self.client.list_artifacts(version.run_id)}
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if MANIFEST_FILE not in names:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download_artifacts(version.run_id, MANIFEST_FILE, folder)
            try:
                return Manifest.model_validate_json(Path(path).read_bytes())
            except ValueError:  # of another version of mgray
                return None

    def history(self) -> list[str]:
        """Champions in order, the present one last, hand-made moves included as the module says."""
        tags = self.client.get_registered_model(self.name).tags or {}
        stack = [str(version) for version in json.loads(tags.get(HISTORY_TAG, "[]"))]
        now = self.champion()
        if now is None:
            return stack
        if now.version in stack:
            return stack[: len(stack) - stack[::-1].index(now.version)]
        return [*stack, now.version]

    def _set_champion(self, version: str, history: Sequence[str]) -> None:
        self.client.set_registered_model_alias(self.name, CHAMPION, version)
        kept = json.dumps(list(history)[-MAX_HISTORY:])
        self.client.set_registered_model_tag(self.name, HISTORY_TAG, kept)

    def tag(self, version: Version, tags: Mapping[str, Any]) -> None:
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, version.version, key, str(value))

    def record(self, version: Version, decision: str, reasons: Sequence[str], tags: Mapping[str, Any]) -> None:
        """Write what was decided into the version's tags and description; the `decision` tag comes last."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        card = self.find(version.version).description.split(DECISION_HEADING)[0].rstrip()
        lines = "".join(f"\n- {reason}" for reason in reasons)
        section = f"{DECISION_HEADING}\n{decision.replace('_', ' ')} at {now}\n{lines}"[:DESCRIPTION_CHARS]
        room = DESCRIPTION_CHARS - len(section) - 2
        text = f"{card[:room]}\n\n{section}" if card and room > 0 else section
        self.client.update_model_version(self.name, version.version, description=text)
        self.tag(version, {**tags, REASONS_TAG: "\n".join(reasons), DECIDED_TAG: now, DECISION_TAG: decision})

    def promote(self, version: Version, expected: Version | None) -> None:
        """Move the alias to `version`. Raises InputError where the champion is no longer the `expected` one."""
        now = self.champion()
        if (now and now.version) != (expected and expected.version):
            raise InputError(
                f"{self.name}: champion was {expected and expected.version} when the gate decided and is "
                f"{now and now.version} now, so nothing was promoted; run again"
            )
        history = self.history()
        if not history or history[-1] != version.version:
            history.append(version.version)
        self._set_champion(version.version, history)

    def rollback(self, reason: str) -> tuple[Version, Version]:
        """Put the former champion back -> (the one that was, the one that is). Raises InputError where none is known.

        Versions that were deleted since are passed over.
        """
        now = self.champion()
        if now is None:
            raise InputError(
                f"{self.name} at {shown_uri(self.uri)}: no champion, so nothing to roll back; promote a version"
            )
        history = self.history()[:-1]
        while history:
            try:
                former = self.find(history[-1])
            except InputError:
                history.pop()
                continue
            self._set_champion(former.version, history)
            before = now.tags.get(REASONS_TAG, "").splitlines()
            self.record(now, ROLLED_BACK, [f"rolled back to version {former.version}: {reason}", *before], {})
            return now, former
        raise InputError(
            f"{self.name}: version {now.version} is the first champion on record, so there is none to go back to; "
            "promote a version with jobs/promote.py --version N"
        )


def own_data(data: DataConfig, home: Path, registry: Registry, version: Version) -> DataConfig:
    """Complete `data`: where it names neither a log nor a dataset, with the one that the version was trained on.

    Raises InputError where that is not on record, or no longer there, and for options of reading a log without one.
    """
    if data.is_named:
        return data
    idle = sorted(data.model_fields_set - {"out"})
    if idle:
        raise InputError(
            f"data.{idle[0]}: says how a log is read, and none is named; give it with --data.source, or leave the "
            "option out for the dataset that the model was trained on"
        )
    manifest, out = registry.manifest(version), resolve_out(data, home)
    folder = dataset_folder(manifest, out) if manifest else None
    if folder is None:
        raise InputError(
            f"{version.uri}: the dataset that it was trained on is not in {out}; give a log with --data.source, or a "
            "dataset with --data.dataset"
        )
    return data.model_copy(update={"dataset": str(folder)})


def dataset_folder(manifest: Manifest, out: Path) -> Path | None:
    """Folder of that dataset version below `out`; None: it is no longer there."""
    folder = out / short_key(manifest.ingest_key)
    return folder if (folder / MANIFEST_FILE).is_file() else None

"""Models as MLflow logs, registers and fetches them."""

import re
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array

from mgray.config import TrackingConfig
from mgray.errors import InputError
from mgray.serve.model_folder import MODEL_FILE, ModelInfo, load_info, parse_info
from pipelines.runtime.redact import shown_uri

CHALLENGER, CHAMPION = "challenger", "champion"


def signature(columns: Iterable[str], info: ModelInfo) -> ModelSignature:
    """Signature of the pyfunc, what it takes and gives; columns: `history`, and what the model reads beside it.

    Columns are of any type. MLflow's typed lists refuse what JSON clients send (4 where a number is 4.0, 50 where an id
    is `50`, null, lists of different lengths); the model's own checks take it, and name row and column of what is
    wrong. All but `history` are optional to MLflow, for the model's own error says what belongs in them.
    """
    rates = info.config.outputs != "next_item"
    names = [*columns, *(["targets"] if rates else []), "candidates", "blocked"]
    inputs = [ColSpec(AnyType(), name, required=name == "history") for name in names]
    outputs = [ColSpec(Array(DataType.string), "items"), ColSpec(Array(DataType.double), "scores")]
    if rates:
        outputs.append(ColSpec(Array(DataType.double), "ratings", required=False))
    params = [
        ParamSpec("k", DataType.long, 10),
        ParamSpec("remove_seen", DataType.boolean, info.remove_seen),
        ParamSpec("explain", DataType.boolean, False),
        ParamSpec("candidates", DataType.string, [], shape=(-1,)),
        ParamSpec("blocked", DataType.string, [], shape=(-1,)),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))


def register(
    config: TrackingConfig,
    folder: Path,
    example: Mapping[str, list[list[Any]]],
    tags: Mapping[str, str],
    card: str = "",
) -> str | None:
    """Log the model folder to the active run as a pyfunc; gives the registered version, None where not registered.

    example: `history`, and the lists of the event columns that the model reads (EVENT_COLUMNS), each one list per row.
    The new version becomes `challenger`, and `champion` too where there is none; `card`, markdown, describes it.
    """
    requirements = [f"{name}=={version}" for name, version in _serving_versions().items()]
    package = Path(__file__).parent.parent.parent / "mgray"
    logged = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(__file__).parent / "served_model.py"),
        artifacts={"model": folder.absolute().as_uri()},  # a path with a % in it would be taken for a URI's
        code_paths=[str(package)],
        signature=signature(example, load_info(folder)),
        input_example=pd.DataFrame(dict(example)),
        pip_requirements=requirements,
        registered_model_name=config.model_name if config.register_model else None,
    )
    version = logged.registered_model_version
    if version is None:
        return None
    client = MlflowClient()
    client.update_model_version(config.model_name, version, description=card)
    for key, value in tags.items():
        client.set_model_version_tag(config.model_name, version, key, value)
    client.set_registered_model_alias(config.model_name, CHALLENGER, version)
    if CHAMPION not in client.get_registered_model(config.model_name).aliases:
        client.set_registered_model_alias(config.model_name, CHAMPION, version)
    return str(version)


def describe_version(config: TrackingConfig, version: str, card: str) -> None:
    """Put `card`, markdown, in place of a registered version's description."""
    MlflowClient().update_model_version(config.model_name, version, description=card)


def _serving_versions() -> dict[str, str]:
    """Packages that the pyfunc imports, at the versions that trained it; no Ray."""
    names = ("mlflow", "torch", "safetensors", "numpy", "pandas", "pyarrow", "pydantic", "scipy")
    return {name: installed_version(name).split("+")[0] for name in names}


def run_of_version(tracking_uri: str, name: str, version: str) -> str | None:
    """The run that made a registered version; None where it came from elsewhere."""
    return MlflowClient(tracking_uri).get_model_version(name, version).run_id or None


def find_version(uri: str, tracking_uri: str, option: str = "--model") -> ModelVersion:
    """The registered version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` names.

    Raises InputError, naming the option, where the URI is malformed or names nothing that exists.
    """
    # MLflow's own message for a version such as `newest` does not tell what a URI looks like.
    if not re.fullmatch(r"models:/[^/:@]+(@[\w-]+|/\d+)", uri):
        raise InputError(f"{option} {uri}: not a registry URI; give models:/NAME@ALIAS or models:/NAME/VERSION")
    client = MlflowClient(tracking_uri)
    name, _, alias = uri.removeprefix("models:/").partition("@")
    name, _, number = name.partition("/")
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        raise InputError(
            f"{option} {uri}: not in the registry at {shown_uri(tracking_uri)}: {error.message}; "
            "list what there is in MLflow's UI, or train one with jobs/train.py"
        ) from error


def fetch_model(uri: str, tracking_uri: str, target: Path) -> tuple[Path, str, str]:
    """Download a registered model -> (its model folder, registered name, version). Raises InputError as above."""
    found = find_version(uri, tracking_uri)
    # By its number: an alias may have moved since.
    folder = _download(f"models:/{found.name}/{found.version}", tracking_uri, target)
    return folder / "artifacts" / "model", found.name, str(found.version)


def fetch_info(version_uri: str, tracking_uri: str) -> ModelInfo:
    """Description of a registered model, without its weights. version_uri: models:/NAME/VERSION, of one that is there.

    Raises InputError where its files are not.
    """
    with tempfile.TemporaryDirectory() as target:
        file = _download(f"{version_uri}/artifacts/model/{MODEL_FILE}", tracking_uri, Path(target))
        content = file.read_bytes()
        return parse_info(content, version_uri)


def _download(source: str, tracking_uri: str, target: Path) -> Path:
    try:
        # By name: a worker on another node has nothing of the driver's environment.
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=source, dst_path=str(target), tracking_uri=tracking_uri, registry_uri=tracking_uri
            )
        )
    except MlflowException as error:
        raise InputError(f"{source}: its files cannot be fetched: {error.message}; register it anew") from error

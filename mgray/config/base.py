"""Base of every section of the configuration: constants, names, tracking."""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mgray.errors import InputError

MOVIELENS_100K = "movielens-100k"
HOME_VARIABLE = "MGRAY_HOME"
PSEUDONYM_KEY_VARIABLE = "MGRAY_PSEUDONYM_KEY"

MAX_NAME_BYTES = 255  # of a file or folder, by Linux
MODEL_NAME = r"^[^/:@']+$"  # what models:/NAME@ALIAS and MLflow's filters can tell apart


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TrackingConfig(Section):
    uri: str | None = Field(
        None, description="MLflow tracking server; none: MLFLOW_TRACKING_URI, else SQLite in HOME/mlflow.db"
    )
    experiment: str = Field("mgray", min_length=1, description="MLflow experiment")
    model_name: str = Field("mgray-interest", pattern=MODEL_NAME, description="registered model")
    register_model: bool = Field(True, description="register the trained model")
    log_every_steps: int = Field(10, ge=1, description="steps from one logged training loss to the next")
    system_metrics: bool = Field(True, description="log CPU, memory, disk and network use of the driver's machine")


def local_folder(path: str, option: str) -> Path:
    """The absolute path. Raises InputError for SCHEME://..., which would be taken for a folder of that name."""
    remote = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path)
    if remote:  # shown without the rest, which may hold a secret
        raise InputError(
            f"{option} {remote[0]}...: versions are written to a file system that all nodes mount, never to a URI; "
            "give a folder's path"
        )
    return Path(path).expanduser().absolute()

"""MLflow's tables, made once a process and copied: MLflow takes seconds of CPU to make them."""

import functools
import tempfile
from pathlib import Path


@functools.cache
def _first_opening() -> bytes:
    from pipelines.tracking.store import opening, sqlite_uri

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        with opening(sqlite_uri(path)):
            return path.read_bytes()


def give_store(home: Path) -> None:
    """The database file of a HOME that has none yet, as a job's first opening makes it."""
    path = home / "mlflow.db"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_first_opening())

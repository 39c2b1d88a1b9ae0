"""Put the former champion back."""

import sys
from typing import Any

from mgray.config import RollbackJobConfig
from pipelines.runtime.job import run_job


def run(config: RollbackJobConfig) -> dict[str, Any]:
    """The pipeline, loaded here, so that a Ctrl-C meanwhile ends the job like one later."""
    from pipelines.lifecycle.promote import run_rollback

    return run_rollback(config)


if __name__ == "__main__":
    sys.exit(run_job("rollback", RollbackJobConfig, run))

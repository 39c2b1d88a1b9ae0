"""New log files to a challenger, and to champion if it passes the gate. `--dry-run` changes nothing."""

import sys
from typing import Any

from mgray.config import RetrainJobConfig
from pipelines.runtime.job import run_job


def run(config: RetrainJobConfig) -> dict[str, Any]:
    """The pipeline, loaded here, so that a Ctrl-C meanwhile ends the job like one later."""
    from pipelines.lifecycle.retrain import run_retrain

    return run_retrain(config)


if __name__ == "__main__":
    arguments = ["--retrain.dry_run=true" if argument == "--dry-run" else argument for argument in sys.argv[1:]]
    sys.exit(run_job("retrain", RetrainJobConfig, run, arguments))

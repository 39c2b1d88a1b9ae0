"""New log files to a challenger, and to champion if it passes the gate. `--dry-run` changes nothing."""

import sys

from mgray.config import RetrainJobConfig
from pipelines.job import run_job

if __name__ == "__main__":
    from pipelines.retrain import run_retrain

    arguments = ["--retrain.dry_run=true" if argument == "--dry-run" else argument for argument in sys.argv[1:]]
    sys.exit(run_job("retrain", RetrainJobConfig, run_retrain, arguments))

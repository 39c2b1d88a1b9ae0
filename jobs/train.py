"""Log to registered model: ingest, DDP training, evaluation, MLflow."""

import sys
from typing import Any

from mgray.config import TrainJobConfig
from pipelines.runtime.job import run_job


def run(config: TrainJobConfig) -> dict[str, Any]:
    """Import the pipeline here, not at the top: a Ctrl-C during the import then ends the job like any other."""
    from pipelines.train.job import run_training

    return run_training(config)


def main(argv: list[str] | None = None) -> int:
    """Run the job with these options (none given: the process's) and give the exit code."""
    return run_job("train", TrainJobConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())

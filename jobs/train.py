"""Log to registered model: ingest, DDP training, evaluation, MLflow."""

import sys
from typing import Any

from mgray.config import TrainJobConfig
from pipelines.runtime.job import run_job


def run(config: TrainJobConfig) -> dict[str, Any]:
    """The pipeline, loaded here, so that a Ctrl-C meanwhile ends the job like one later."""
    from pipelines.train.job import run_training

    return run_training(config)


if __name__ == "__main__":
    sys.exit(run_job("train", TrainJobConfig, run))

"""Log to registered model: ingest, DDP training, evaluation, MLflow."""

import sys

from mgray.config import TrainJobConfig
from pipelines.job import run_job

if __name__ == "__main__":
    from pipelines.train import run_training

    sys.exit(run_job("train", TrainJobConfig, run_training))

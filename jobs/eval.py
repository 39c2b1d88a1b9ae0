"""Figures of a registered model on a dataset, beside the baselines."""

import sys

from mgray.config import EvalJobConfig
from pipelines.job import run_job

if __name__ == "__main__":
    from pipelines.evaluate import run_evaluation

    sys.exit(run_job("eval", EvalJobConfig, run_evaluation))

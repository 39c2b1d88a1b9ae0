"""Every user of a dataset scored by a registered model: a committed version of top-k lists."""

import sys

from mgray.config import PredictJobConfig
from pipelines.job import run_job

if __name__ == "__main__":
    from pipelines.predict import run_prediction

    sys.exit(run_job("predict", PredictJobConfig, run_prediction))

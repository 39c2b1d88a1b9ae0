"""Every user of a dataset scored by a registered model: a committed version of top-k lists."""

import sys
from typing import Any

from mgray.config import PredictJobConfig
from pipelines.runtime.job import run_job


def run(config: PredictJobConfig) -> dict[str, Any]:
    """The pipeline, loaded here, so that a Ctrl-C meanwhile ends the job like one later."""
    from pipelines.predict.job import run_prediction

    return run_prediction(config)


if __name__ == "__main__":
    sys.exit(run_job("predict", PredictJobConfig, run))

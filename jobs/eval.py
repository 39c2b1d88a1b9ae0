"""Figures of a registered model on a dataset, beside the baselines."""

import sys
from typing import Any

from mgray.config import EvalJobConfig
from pipelines.runtime.job import run_job


def run(config: EvalJobConfig) -> dict[str, Any]:
    """The pipeline, loaded here, so that a Ctrl-C meanwhile ends the job like one later."""
    from pipelines.evaluate.job import run_evaluation

    return run_evaluation(config)


if __name__ == "__main__":
    sys.exit(run_job("eval", EvalJobConfig, run))

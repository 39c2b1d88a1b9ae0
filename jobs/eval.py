"""Figures of a registered model on a dataset, beside the baselines."""

import sys
from typing import Any

from mgray.config import EvalJobConfig
from pipelines.runtime.job import run_job


def run(config: EvalJobConfig) -> dict[str, Any]:
    """Import the pipeline here, not at the top: a Ctrl-C during the import then ends the job like any other."""
    from pipelines.evaluate.job import run_evaluation

    return run_evaluation(config)


def main(argv: list[str] | None = None) -> int:
    """Run the job with these options (none given: the process's) and give the exit code."""
    return run_job("eval", EvalJobConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())

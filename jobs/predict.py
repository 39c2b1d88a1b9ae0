"""Every user of a dataset scored by a registered model: a committed version of top-k lists."""

import sys
from typing import Any

from mgray.config import PredictJobConfig
from pipelines.runtime.job import run_job


def run(config: PredictJobConfig) -> dict[str, Any]:
    """Import the pipeline here, not at the top: a Ctrl-C during the import then ends the job like any other."""
    from pipelines.predict.job import run_prediction

    return run_prediction(config)


def main(argv: list[str] | None = None) -> int:
    """Run the job with these options (none given: the process's) and give the exit code."""
    return run_job("predict", PredictJobConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())

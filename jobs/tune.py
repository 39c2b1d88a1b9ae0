"""Search granularities and their settings; the best is trained in full and registered. --resume goes on."""

import sys
from typing import Any

from mgray.config import TuneJobConfig
from pipelines.runtime.job import run_job


def run(config: TuneJobConfig) -> dict[str, Any]:
    """The pipeline, loaded here, so that a Ctrl-C meanwhile ends the job like one later."""
    from pipelines.tune.job import run_search

    return run_search(config)


if __name__ == "__main__":
    sys.exit(run_job("tune", TuneJobConfig, run))

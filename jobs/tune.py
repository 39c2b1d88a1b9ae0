"""Search granularities and their settings; the best is trained in full and registered. --resume goes on."""

import sys
from typing import Any

from mgray.config import TuneJobConfig
from pipelines.runtime.job import run_job


def run(config: TuneJobConfig) -> dict[str, Any]:
    """Import the pipeline here, not at the top: a Ctrl-C during the import then ends the job like any other."""
    from pipelines.tune.job import run_search

    return run_search(config)


def main(argv: list[str] | None = None) -> int:
    """Run the job with these options (none given: the process's) and give the exit code."""
    return run_job("tune", TuneJobConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())

"""Raw log to a committed dataset version."""

import sys
from typing import Any

from mgray.config import IngestJobConfig
from pipelines.runtime.job import run_job


def run(config: IngestJobConfig) -> dict[str, Any]:
    """Import the pipeline here, not at the top: a Ctrl-C during the import then ends the job like any other."""
    from pipelines.ingest.job import run_ingest

    return run_ingest(config)


def main(argv: list[str] | None = None) -> int:
    """Run the job with these options (none given: the process's) and give the exit code."""
    return run_job("ingest", IngestJobConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())

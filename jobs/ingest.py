"""Raw log to a committed dataset version."""

import sys
from typing import Any

from mgray.config import IngestJobConfig
from pipelines.runtime.job import run_job


def run(config: IngestJobConfig) -> dict[str, Any]:
    """The pipeline, loaded here, so that a Ctrl-C meanwhile ends the job like one later."""
    from pipelines.ingest.job import run_ingest

    return run_ingest(config)


if __name__ == "__main__":
    sys.exit(run_job("ingest", IngestJobConfig, run))

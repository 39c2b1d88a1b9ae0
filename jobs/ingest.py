"""Raw log to a committed dataset version."""

import sys

from mgray.config import IngestJobConfig
from pipelines.job import run_job

if __name__ == "__main__":
    from pipelines.ingest import run_ingest

    sys.exit(run_job("ingest", IngestJobConfig, run_ingest))

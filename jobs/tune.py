"""Search granularities and their settings; the best is trained in full and registered. --resume goes on."""

import sys

from mgray.config import TuneJobConfig
from pipelines.job import run_job

if __name__ == "__main__":
    from pipelines.tune import run_search

    sys.exit(run_job("tune", TuneJobConfig, run_search))

"""Put the former champion back."""

import sys

from mgray.config import RollbackJobConfig
from pipelines.job import run_job

if __name__ == "__main__":
    from pipelines.promote import run_rollback

    sys.exit(run_job("rollback", RollbackJobConfig, run_rollback))

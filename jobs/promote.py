"""Make a registered version champion, if it passes the gate: `python jobs/promote.py --version 7`."""

import sys

from mgray.config import PromoteJobConfig
from pipelines.job import run_job

if __name__ == "__main__":
    from pipelines.promote import run_promote

    sys.exit(run_job("promote", PromoteJobConfig, run_promote))

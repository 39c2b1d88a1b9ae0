"""Make a registered version champion, if it passes the gate: `python jobs/promote.py --version 7`."""

import sys
from typing import Any

from mgray.config import PromoteJobConfig
from pipelines.runtime.job import run_job


def run(config: PromoteJobConfig) -> dict[str, Any]:
    """The pipeline, loaded here, so that a Ctrl-C meanwhile ends the job like one later."""
    from pipelines.lifecycle.promote import run_promote

    return run_promote(config)


if __name__ == "__main__":
    sys.exit(run_job("promote", PromoteJobConfig, run))

"""Make a registered version champion, if it passes the gate: `python jobs/promote.py --version 7`."""

import sys
from typing import Any

from mgray.config import PromoteJobConfig
from pipelines.runtime.job import run_job


def run(config: PromoteJobConfig) -> dict[str, Any]:
    """Import the pipeline here, not at the top: a Ctrl-C during the import then ends the job like any other."""
    from pipelines.lifecycle.promote import run_promote

    return run_promote(config)


def main(argv: list[str] | None = None) -> int:
    """Run the job with these options (none given: the process's) and give the exit code."""
    return run_job("promote", PromoteJobConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())

"""Put the former champion back."""

import sys
from typing import Any

from mgray.config import RollbackJobConfig
from pipelines.runtime.job import run_job


def run(config: RollbackJobConfig) -> dict[str, Any]:
    """Import the pipeline here, not at the top: a Ctrl-C during the import then ends the job like any other."""
    from pipelines.lifecycle.promote import run_rollback

    return run_rollback(config)


def main(argv: list[str] | None = None) -> int:
    """Run the job with these options (none given: the process's) and give the exit code."""
    return run_job("rollback", RollbackJobConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())

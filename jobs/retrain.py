"""New log files to a challenger, and to champion if it passes the gate. `--dry-run` changes nothing."""

import sys
from typing import Any

from mgray.config import RetrainJobConfig
from pipelines.runtime.job import run_job


def run(config: RetrainJobConfig) -> dict[str, Any]:
    """Import the pipeline here, not at the top: a Ctrl-C during the import then ends the job like any other."""
    from pipelines.lifecycle.retrain import run_retrain

    return run_retrain(config)


def main(argv: list[str] | None = None) -> int:
    """Run the job with these options (none given: the process's) and give the exit code."""
    given = sys.argv[1:] if argv is None else argv
    options = ["--retrain.dry_run=true" if option == "--dry-run" else option for option in given]
    return run_job("retrain", RetrainJobConfig, run, options)


if __name__ == "__main__":
    sys.exit(main())

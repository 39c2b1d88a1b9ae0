"""A registered model cut to its first levels, as a model folder and, with --register_as, a registered model."""

import sys
from typing import Any

from mgray.config import ExportJobConfig
from pipelines.runtime.job import run_job


def run(config: ExportJobConfig) -> dict[str, Any]:
    """Import the pipeline here, not at the top: a Ctrl-C during the import then ends the job like any other."""
    from pipelines.lifecycle.export import run_export

    return run_export(config)


def main(argv: list[str] | None = None) -> int:
    """Run the job with these options (none given: the process's) and give the exit code."""
    return run_job("export", ExportJobConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())

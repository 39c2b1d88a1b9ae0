"""A registered model cut to its first levels, as a model folder and, with --register_as, a registered model."""

import sys
from typing import Any

from mgray.config import ExportJobConfig
from pipelines.runtime.job import run_job


def run(config: ExportJobConfig) -> dict[str, Any]:
    """The pipeline, loaded here, so that a Ctrl-C meanwhile ends the job like one later."""
    from pipelines.lifecycle.export import run_export

    return run_export(config)


if __name__ == "__main__":
    sys.exit(run_job("export", ExportJobConfig, run))

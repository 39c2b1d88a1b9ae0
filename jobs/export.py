"""A registered model cut to its first levels, as a model folder and, with --register_as, a registered model."""

import sys

from mgray.config import ExportJobConfig
from pipelines.job import run_job

if __name__ == "__main__":
    from pipelines.export import run_export

    sys.exit(run_job("export", ExportJobConfig, run_export))

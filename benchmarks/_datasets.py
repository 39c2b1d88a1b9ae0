"""Dataset versions for benchmarks, made by jobs/ingest.py as a user makes them."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def ingest(home: Path, *options: str) -> Path:
    """The folder of the version that jobs/ingest.py commits in `home` with these options; none: MovieLens-100K's."""
    command = [sys.executable, "jobs/ingest.py", "--home", str(home.absolute()), *options]
    # RAY_ADDRESS=local: a Ray of its own, whatever else runs on this machine
    surroundings = os.environ | {"RAY_ADDRESS": "local"}
    done = subprocess.run(command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True, check=True)
    return Path(json.loads(done.stdout.splitlines()[-1])["dataset"]["path"])

"""Jobs as a user starts them: processes of their own, in an environment without this session's Ray and MLflow."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
KEPT = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",)  # aims at nothing: tests/conftest.py says what it is for
PROGRESS = re.compile(r"^(\w+ \d+/\d+( .*)?|reusing the dataset already ingested at .*)$")


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


def environment(**extra: str) -> dict[str, str]:
    """This process's, less what aims Ray, MLflow or mgray at anything; the interpreter's folder leads PATH."""
    aims = ("RAY_", "MLFLOW_", "MGRAY_")
    kept = {key: value for key, value in os.environ.items() if key in KEPT or not key.startswith(aims)}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | extra


def run(command: list[str], cwd: Path = ROOT, timeout_s: float = 200, **extra: str) -> Done:
    done = subprocess.run(
        command, cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_job_process(name: str, *argv: str, **extra: str) -> Done:
    return run([sys.executable, f"jobs/{name}.py", *argv], **extra)


def result_line(text: str) -> dict[str, Any]:
    """The last line of a job's stdout, or of its log."""
    return json.loads(text.rstrip().splitlines()[-1])


def error_of(done: Done) -> str:
    """The one line that wrong input must give, with exit code 2, silence on stdout and no traceback."""
    assert done.code == 2, done
    assert done.stdout == "", done
    assert "Traceback" not in done.stderr, done
    lines = [line for line in done.stderr.splitlines() if not PROGRESS.match(line)]
    assert len(lines) == 1, done
    assert lines[0].startswith("error: "), done
    return lines[0].removeprefix("error: ")

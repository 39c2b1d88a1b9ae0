"""Results of a benchmark: benchmarks/results/NAME.json with machine, date, commit, versions, raw figures, checks.

from _results import check, write
write("predict", raw={"runs": [...]}, checks=[check("users_s_per_core_vs_plain", 0.95, 0.9, ">=")])
"""

import json
import math
import operator
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("mgray", "torch", "ray", "mlflow", "numpy", "pyarrow", "polars", "optuna")
OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Origin of a figure: `machine`, `date` (ISO 8601, UTC), `git_commit`, `versions`, `command`.

    `git_commit` ends in "+changes" where tracked files differ from it; `load_average` tells of neighbours.
    """
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": {
            "system": platform.platform(),
            "cpu": _cpu_model(),
            "cpus": len(os.sched_getaffinity(0)),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "gpu": gpu,
            "load_average": [round(value, 2) for value in os.getloadavg()],
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": (commit + "+changes" if changes else commit) or None,
        "versions": {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES},
        # of a path, its last part: where things are on this machine belongs in no results
        "command": " ".join(["python", *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv)]),
    }


def check(name: str, value: float, target: float, op: str) -> dict[str, Any]:
    """One figure that was asked for: {name, value, target, op, holds}. `op`: >=, <=, >, <, ==. NaN never holds."""
    if op not in OPERATORS:
        raise ValueError(f"check {name}: op {op!r} is none of {', '.join(OPERATORS)}")
    return {"name": name, "value": value, "target": target, "op": op, "holds": bool(OPERATORS[op](value, target))}


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read(name: str) -> dict[str, Any] | None:
    """Results of an earlier run; None: there is none. For a benchmark whose parts are run one by one."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def write(name: str, raw: dict[str, Any], checks: Sequence[dict[str, Any]]) -> Path:
    """Write results/NAME.json (a GPU's figures: pass NAME-DEVICE) in one step, and say on stderr which checks hold.

    raw: the figures of every run, JSON values; checks: from `check`, failures included.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"benchmark": name, **environment(), "raw": raw, "checks": list(checks)}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(_jsonable(content), indent=1, allow_nan=False) + "\n")
    draft.replace(path)
    for one in checks:
        verdict = "holds" if one["holds"] else "FAILS"
        print(f"{verdict}: {one['name']} = {one['value']:.4g} (asked: {one['op']} {one['target']:g})", file=sys.stderr)
    print(f"written: {path}", file=sys.stderr)
    return path

"""Imports point one way: jobs -> pipelines -> mgray; and nothing happens at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "mgray": {"ray", "mlflow", "optuna", "pipelines", "jobs", "tests", "infra", "benchmarks"},
    "pipelines": {"jobs", "tests", "infra", "benchmarks"},
    "jobs": {"jobs", "tests", "infra", "benchmarks", "ray", "mlflow", "torch"},
}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_imports_point_one_way(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files, f"{layer} has no files: the test would hold of nothing"
    found = {str(path.relative_to(ROOT)): imports(path) & FORBIDDEN[layer] for path in files}
    assert {path: names for path, names in found.items() if names} == {}


def test_jobs_are_thin() -> None:
    for path in (ROOT / "jobs").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, f"{path.name}: a job is argv, config, one pipeline call"


def test_import_touches_nothing(tmp_path: Path) -> None:
    """Importing every module makes no folder, sets no environment variable and starts no Ray."""
    modules = [
        f"{path.parent.name}.{path.stem}"
        for layer in ("mgray", "pipelines")
        for path in (ROOT / layer).glob("*.py")
        if path.stem not in ("__init__", "served_model")  # that one is loaded by MLflow, which wants it so
    ]
    code = (
        "import os, sys\n"
        # Third-party packages may set what they like at import; only ours are under test.
        "import torch, ray, ray.data, ray.train, ray.train.torch, ray.tune, mlflow, polars, matplotlib, scipy.sparse\n"
        "import mlflow.pyfunc, mlflow.models, mlflow.types.schema, optuna, sklearn\n"
        "before = dict(os.environ)\n"
        f"import {', '.join(modules)}\n"
        "assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())\n"
        "assert not ray.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


def test_mgray_runs_without_ray() -> None:
    code = (
        "import sys\n"
        "sys.modules['ray'] = sys.modules['mlflow'] = None\n"
        "import mgray.engine, mgray.recommend, mgray.report, mgray.baselines, mgray.features, mgray.synthetic\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

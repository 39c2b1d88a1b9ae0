"""Imports point one way: jobs -> pipelines -> mgray, and down the list of packages; nothing happens at import."""

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
CODE = ("mgray", "pipelines", "jobs", "tests", "benchmarks", "infra", "docs")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
# A package imports itself and those after it.
ORDER = {
    "mgray": [
        "report",
        "train",
        "eval",
        "serve",
        "model",
        "data",
        "ingest",
        "config",
        "schema",
        "record",
        "errors",
        "distributed",
    ],
    "pipelines": ["lifecycle", "tune", "predict", "train", "evaluate", "ingest", "tracking", "runtime"],
}
# These may import any; none of ORDER imports them. raw_history and recommend are what old models name.
BESIDE = {"mgray": {"testing", "raw_history", "recommend"}, "pipelines": set[str]()}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(layer: str) -> dict[str, Path]:
    """Every module of a layer, at any depth."""
    return {module_name(path): path for path in sorted((ROOT / layer).rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, wherever in it: `mgray.schema.PAD` of `from mgray.schema import PAD`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def package(layer: str, dotted: str) -> str | None:
    """The package of a layer that a dotted name is in; None outside the layer, and for the layer itself."""
    parts = dotted.split(".")
    if parts[0] != layer or len(parts) == 1 or parts[1] == "__version__":
        return None
    return parts[1]


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_imports_point_one_way(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files, f"{layer} has no files: the test would hold of nothing"
    found = {
        str(path.relative_to(ROOT)): {name.split(".")[0] for name in imports(path)} & FORBIDDEN[layer] for path in files
    }
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("layer", ORDER)
def test_packages_import_downwards(layer: str) -> None:
    order, beside = ORDER[layer], BESIDE[layer]
    packages = {name: package(layer, name) for name in modules(layer)}
    strangers = {name for name, own in packages.items() if own is not None and own not in {*order, *beside}}
    assert not strangers, f"in no package of {layer}: {strangers}"
    upwards = [
        f"{name} ({own}) imports {target} ({other})"
        for name, path in modules(layer).items()
        if (own := packages[name]) in order
        for target in sorted(imports(path))
        if (other := package(layer, target)) is not None and (other in beside or order.index(other) < order.index(own))
    ]
    assert upwards == []


def test_serving_loads_no_training() -> None:
    code = "import sys, mgray.serve.recommender\nprint(*(name for name in sys.modules if name.startswith('mgray.')))\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = {package("mgray", name) for name in done.stdout.split()}
    assert "serve" in loaded
    assert not loaded & {"train", "eval", "report"}


def test_files_and_functions_are_short() -> None:
    long = []
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        text, name = path.read_text(), path.relative_to(ROOT)
        if (num_lines := len(text.splitlines())) > MAX_FILE_LINES:
            long.append(f"{name}: {num_lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                num_lines = node.end_lineno - node.lineno + 1
                if num_lines > MAX_FUNCTION_LINES:
                    long.append(f"{name}: {node.name} has {num_lines} lines")
    limits = f"a file has at most {MAX_FILE_LINES} lines, a function {MAX_FUNCTION_LINES}"
    assert not long, "\n".join([f"too long ({limits}):", *long])


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports test files by their bare names: of two that are alike one would not be collected."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_jobs_are_thin() -> None:
    for path in (ROOT / "jobs").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, f"{path.name}: a job is argv, config, one pipeline call"


def test_import_touches_nothing(tmp_path: Path) -> None:
    """Importing every module makes no folder, sets no environment variable and starts no Ray."""
    # served_model is loaded by MLflow, which wants it so
    names = [name for layer in ORDER for name in modules(layer) if not name.endswith(".served_model")]
    code = (
        "import os, sys\n"
        # Third-party packages may set what they like at import; only ours are under test.
        "import torch, ray, ray.data, ray.train, ray.train.torch, ray.tune, mlflow, polars, matplotlib, scipy.sparse\n"
        "import mlflow.pyfunc, mlflow.models, mlflow.types.schema, optuna, sklearn\n"
        "before = dict(os.environ)\n"
        f"import {', '.join(names)}\n"
        "assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())\n"
        "assert not ray.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


def test_mgray_runs_without_ray() -> None:
    code = (
        "import sys\n"
        "sys.modules['ray'] = sys.modules['mlflow'] = None\n"
        "import mgray.train.trainer, mgray.serve.recommender, mgray.report.run_report, mgray.eval.baselines, "
        "mgray.ingest.parse, mgray.testing.synthetic\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

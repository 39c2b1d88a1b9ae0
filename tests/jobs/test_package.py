"""The wheel in an environment of its own: the command `mgray`, from another folder than the sources."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from mgray import __version__
from mgray.config.jobs import JOB_CONFIGS
from mgray.testing.synthetic import make_log
from tests.jobs.processes import ROOT, Done, error_of, result_line, run

EXTRAS = ("ray", "mlflow", "pandas", "psutil", "optuna")
USE_OF_THE_CORE = """
import sys
from pathlib import Path
import torch
from mgray.config import ResolvedModelConfig
from mgray.data.columns import Columns
from mgray.model.ensemble import make_model
from mgray.serve.model_folder import ModelInfo, Vocabulary, save_model
from mgray.serve.recommender import Recommender
import mgray.eval.part_metrics, mgray.eval.baselines, mgray.report.run_report, mgray.train.trainer

config = ResolvedModelConfig(width=8, heads=2, dropout=0.1, norm="layer")
info = ModelInfo(config=config, num_items=5, max_length=20, dataset_fingerprint="0" * 64)
model = make_model(config, 5, info.inputs)
names = [f"item-{number}" for number in range(1, 6)]
save_model(Path(sys.argv[1]) / "model", model.state_dict(), info, Vocabulary(names, names, [5, 4, 3, 2, 1]))
lists = Recommender(sys.argv[1] + "/model").recommend([["item-1", "item-2"]], k=3)
print(len(lists.items[0]), "lists", any(name in sys.modules for name in ("ray", "mlflow", "pandas")))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the sources and nothing old in the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in files.rstrip("\0").split("\0"):
        if name.startswith(("mgray/", "pipelines/", "jobs/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", str(folder), str(source)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def environment(folder: Path, wheel: Path, packages: Path) -> Path:
    """The bin folder of a new environment with the wheel, which finds all other packages in the folder `packages`."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    # A path in a .pth file is searched, but its own .pth files, such as the editable mgray's, are not read.
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "others.pth").write_text(f"{packages}\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mgray[pipelines]."""
    return environment(tmp_path_factory.mktemp("full"), wheel, Path(sysconfig.get_path("purelib")))


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mgray alone: what the extra `pipelines` brings is not there."""
    packages = tmp_path_factory.mktemp("packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(EXTRAS):
            (packages / path.name).symlink_to(path)
    return environment(tmp_path_factory.mktemp("core"), wheel, packages)


def mgray(installed: Path, cwd: Path, *argv: str, **extra: str) -> Done:
    path = f"{installed}:/usr/bin:/bin"
    return run([str(installed / "mgray"), *argv], cwd=cwd, **{"PATH": path, "PYTHONPATH": "", **extra})


def test_the_wheel_holds_all_that_jobs_read(wheel: Path) -> None:
    with ZipFile(wheel) as file:
        names = set(file.namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in ("mgray", "pipelines", "jobs")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted - names == set()
    assert {name.split("/")[0] for name in names} == {"mgray", "pipelines", "jobs", f"mgray-{__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_jobs_are_sub_commands(installed: Path, tmp_path: Path) -> None:
    shown = mgray(installed, tmp_path, "--help")
    assert shown.code == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()[2:]] == list(JOB_CONFIGS)
    assert mgray(installed, tmp_path, "--version").stdout == f"mgray {__version__}\n"
    assert "no job is called 'trian'" in error_of(mgray(installed, tmp_path, "trian"))
    assert "no job given" in error_of(mgray(installed, tmp_path))
    for job in JOB_CONFIGS:
        help_text = mgray(installed, tmp_path, job, "--help")
        assert help_text.code == 0
        assert help_text.stdout.startswith(f"usage: mgray {job} ")
    assert "model.widht" in error_of(mgray(installed, tmp_path, "train", "--model.widht", "3"))


def test_it_trains_from_another_folder(installed: Path, tmp_path: Path) -> None:
    make_log(60, 40).write_csv(tmp_path / "log.csv")
    quick = ["--data.source", "log.csv", "--train.epochs", "1", "--scale.num_workers", "1"]
    trained = mgray(installed, tmp_path, "train", *quick)
    assert trained.code == 0, trained
    line = result_line(trained.stdout)
    assert line["job"] == "train"
    assert Path(line["report"]).is_relative_to(tmp_path / "var")


def test_a_search_finds_its_default_space(installed: Path, tmp_path: Path) -> None:
    code = (
        "from mgray.config import TrainJobConfig\n"
        "from mgray.config.search_space import DEFAULT_SPACE, read_space\n"
        "print(DEFAULT_SPACE, len(read_space(None, TrainJobConfig())))\n"
    )
    done = run([str(installed / "python"), "-c", code], cwd=tmp_path, PYTHONPATH="")
    assert done.code == 0, done
    path, size = done.stdout.split()
    assert Path(path).is_relative_to(installed.parent)
    assert int(size) > 5


def test_the_core_does_without_engines(core: Path, tmp_path: Path) -> None:
    """A job says what to install; a model is made, kept, loaded, asked and evaluated."""
    assert (
        error_of(mgray(core, tmp_path, "train")) == "mgray train needs ray and mlflow: pip install 'mgray[pipelines]'"
    )
    done = run([str(core / "python"), "-c", USE_OF_THE_CORE, str(tmp_path)], cwd=tmp_path, PYTHONPATH="")
    assert done.code == 0, done
    assert done.stdout.split() == ["3", "lists", "False"]

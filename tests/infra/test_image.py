"""The Dockerfile and the compose file. No Docker daemon runs here: what they say is tested, their shell is run."""

import fnmatch
import re
import shutil
import sys
from pathlib import Path

import click
import pytest
import ray.scripts.scripts
import yaml

from mgray import __version__
from tests.infra.rendered import DOCKERFILE, INFRA, LOCK, Document, containers, nodes
from tests.jobs.processes import BIN, ROOT, run


def instructions() -> list[tuple[str, str]]:
    lines = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in lines.splitlines() if line.strip()]


def copied() -> list[str]:
    """Sources of COPY from the build context."""
    return [
        word for name, rest in instructions() if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    ]


def test_the_dockerfile_is_clean() -> None:
    done = run([str(BIN / "hadolint"), str(INFRA / "docker" / "Dockerfile")])
    assert (done.code, done.stdout + done.stderr) == (0, "")


def test_what_the_image_copies_exists_and_suffices(tmp_path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert kept == set(copied())
    assert ignored[1] == "*"
    skip = [line.removeprefix("**/") for line in ignored if line.startswith("**/")]
    for source in copied():
        target = tmp_path / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns(*skip))
        else:
            shutil.copy(ROOT / source, target)
    for script in ("jobs/train.py", "infra/schedules/submit.py"):
        done = run([sys.executable, script, "--help"], cwd=tmp_path, PYTHONPATH=str(tmp_path))
        assert done.code == 0, done
    done = run([sys.executable, "-c", "import mgray; print(mgray.__file__)"], tmp_path, PYTHONPATH=str(tmp_path))
    assert done.stdout.startswith(str(tmp_path)), "the repository's own code was tested"


def test_the_image_is_of_the_lock_and_not_of_root() -> None:
    found = instructions()
    commands = [rest for name, rest in found if name == "RUN"]
    assert any("pip install --no-deps --require-hashes -r requirements.lock" in command for command in commands)
    users = [rest for name, rest in found if name == "USER"]
    assert users == ["1000:1000"]
    assert [name for name, _ in found][-3:] == ["USER", "HEALTHCHECK", "CMD"]
    assert ("HEALTHCHECK", "NONE") in found
    base = next(rest for name, rest in found if name == "ARG" and rest.startswith("PYTHON_IMAGE="))
    assert base == f"PYTHON_IMAGE=python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm"
    uninstalled = re.search(r"pip uninstall --yes (.*)", DOCKERFILE).group(1).split()
    dev = (ROOT / "pyproject.toml").read_text().partition("dev = [")[2].partition("]\n\n")[0]
    assert all(f'"{name}>' in dev for name in uninstalled), "only what tests use is taken out"
    workdir = {rest for name, rest in found if name == "WORKDIR"}
    submitter = containers("base")
    assert workdir == {one["workingDir"] for _, one in submitter if one["name"] == "submit"}


@pytest.mark.parametrize(
    ("variant", "index", "options"),
    [
        ("cpu", "", "--index-url https://download.pytorch.org/whl/cpu "),
        ("gpu", "", ""),
        ("cpu", "https://mirror.example/cpu", "--index-url https://mirror.example/cpu "),
        ("gpu", "https://mirror.example/cuda", "--index-url https://mirror.example/cuda "),
    ],
)
def test_torch_is_the_pinned_one_of_the_variant(variant: str, index: str, options: str) -> None:
    """The Dockerfile's own shell, with a pip that prints."""
    command = next(rest for name, rest in instructions() if name == "RUN" and rest.startswith("case"))
    script = f'pip() {{ echo "pip $*"; }}\n{command}'
    done = run(["sh", "-c", script], VARIANT=variant, TORCH_INDEX_URL=index)
    torch = re.search(r"torch==[0-9.]+", (ROOT / "pyproject.toml").read_text()).group()
    assert (done.code, done.stdout.splitlines()) == (0, [f"pip install {options}{torch}", "pip check"])
    assert f"ARG VARIANT={variant}" in DOCKERFILE or variant == "gpu"


def test_an_unknown_variant_ends_the_build() -> None:
    command = next(rest for name, rest in instructions() if name == "RUN" and rest.startswith("case"))
    done = run(["sh", "-c", command], VARIANT="tpu", TORCH_INDEX_URL="")
    assert (done.code, done.stderr) == (2, "VARIANT is cpu or gpu, not tpu\n")


@pytest.fixture(scope="module")
def compose() -> Document:
    return yaml.safe_load((INFRA / "compose.yaml").read_text())


def test_compose_takes_the_file() -> None:
    done = run([str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(INFRA / "compose.yaml")])
    assert done.code == 0, done


def test_compose_is_of_this_machine_only(compose: Document) -> None:
    assert set(compose["services"]) == {"postgres", "mlflow", "ray"}
    for name, service in compose["services"].items():
        assert all(fnmatch.fnmatch(port, "127.0.0.1:*:*") for port in service["ports"]), name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert set(service.get("depends_on", {})) <= set(compose["services"]), name
        mounted = {volume.partition(":")[0] for volume in service["volumes"] if not volume.startswith("$")}
        assert mounted <= set(compose["volumes"]), name
    own = {service["image"] for name, service in compose["services"].items() if name != "postgres"}
    assert own == {f"mgray:{__version__}-ray{LOCK['ray']}-cpu"}
    build = compose["services"]["mlflow"]["build"]
    assert (INFRA / build["context"] / build["dockerfile"]).is_file()
    ray_command = compose["services"]["ray"]["command"]
    ray.scripts.scripts.start.make_parser(click.Context(ray.scripts.scripts.start)).parse_args(ray_command[2:])


def test_composes_secrets_come_from_the_env_file(compose: Document) -> None:
    given = {
        line.partition("=")[0]
        for line in (INFRA / "compose.env.example").read_text().splitlines()
        if line and not line.startswith("#")
    }
    wanted = set(re.findall(r"\$\{([A-Z_]+)", "\n".join(n for n in nodes(compose) if isinstance(n, str))))
    assert wanted == given
    for name, secret in (("postgres", "POSTGRES_PASSWORD"), ("ray", "RAY_AUTH_TOKEN")):
        assert compose["services"][name]["environment"][secret].startswith(f"${{{secret}:?"), "unset is an error"
    assert "${" in compose["services"]["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert "compose.env\n" in (INFRA / ".gitignore").read_text()

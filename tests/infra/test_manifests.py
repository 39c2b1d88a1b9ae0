"""Kubernetes' objects, which no cluster runs here, against what there is: schemas, the jobs' own parsers, the lock."""

import copy
import functools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import mlflow.cli
import mlflow.environment_variables
import pytest
import ray.scripts.scripts
import yaml

import mgray.config
import mgray.config.command_line
from mgray import __version__
from tests.infra.rendered import (
    DOCKERFILE,
    INFRA,
    LOCK,
    RUNS,
    STANDING,
    compose_services,
    containers,
    mlflow_command_lines,
    num_bytes,
    of_kind,
    ray_specs,
    render,
)
from tests.jobs.processes import ROOT

RENDERED = ["base", *STANDING, *RUNS]
# The newest that the package knows, and one that clusters of two years before still run.
KUBERNETES_VERSIONS = [kubernetes_validate.latest_version(), "1.31.0"]


# Shape.


def test_every_file_parses_and_is_used() -> None:
    files = set(INFRA.rglob("*.yaml"))
    for path in files:
        assert list(yaml.safe_load_all(path.read_text())), path
    used = {path for path in files if path.name == "kustomization.yaml"} | {INFRA / "compose.yaml"}
    for path in [path for path in files if path.name == "kustomization.yaml"]:
        document = yaml.safe_load(path.read_text())
        given = [*document["resources"], *(patch.get("path") for patch in document.get("patches", []))]
        used |= {(path.parent / name).resolve() for name in given if name}
    assert files <= used


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("target", RENDERED)
def test_kubernetes_takes_the_core_objects(target: str, version: str) -> None:
    core = [document for document in render(target) if not document["apiVersion"].startswith("ray.io/")]
    assert len(core) >= 15
    for document in core:
        kubernetes_validate.validate(document, version, strict=True)


def strict(schema: Any) -> Any:
    """The schema, where an unknown field is an error: Kubernetes would drop it without a word."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        closed["additionalProperties"] = False
    return closed


@functools.cache
def kuberay(kind: str) -> jsonschema.Draft7Validator:
    path = Path(__file__).parent / "schemas" / "kuberay-rayjobs-v1.json"
    schema = strict(json.loads(path.read_text()))
    if kind == "RayCluster":
        schema["properties"]["spec"] = schema["properties"]["spec"]["properties"]["rayClusterSpec"]
    return jsonschema.Draft7Validator(schema)


@pytest.mark.parametrize("target", [*STANDING, *RUNS])
def test_kuberay_takes_its_objects(target: str) -> None:
    objects = [document for document in render(target) if document["apiVersion"] == "ray.io/v1"]
    kinds = sorted(document["kind"] for document in objects)
    assert kinds == ["RayCluster"] + (["RayJob"] * 3 if target in RUNS else [])
    for document in objects:
        kuberay(document["kind"]).validate(document)
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?", document["metadata"]["name"])  # KubeRay's own limit


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "envs"], []),
        (["spec", "backoffLimits"], 1),
        (["spec", "backoffLimit"], "1"),
        (["spec", "rayClusterSpec", "authOptions", "mode"], "tokens"),
    ],
)
def test_a_wrong_field_is_seen(path: list[str | int], value: Any) -> None:
    document = copy.deepcopy(of_kind("runs/dev", "RayJob")[0])
    place = functools.reduce(lambda inner, key: inner[key], path[:-1], document)
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        kuberay("RayJob").validate(document)


# Ray and its jobs.


@pytest.mark.parametrize("target", [*STANDING, *RUNS])
def test_versions_are_those_of_the_lock(target: str) -> None:
    assert {spec["rayVersion"] for _, spec in ray_specs(target)} == {LOCK["ray"]}
    variant = "gpu" if target.endswith("prod") else "cpu"
    images = {container["image"] for _, container in containers(target)}
    own = {image for image in images if "mgray" in image}
    assert {image.rpartition(":")[2] for image in own} == {f"{__version__}-ray{LOCK['ray']}-{variant}"}
    assert len(own) == 1, "one image for all, or nodes and submitters differ"
    assert images - own == {compose_services()["postgres"]["image"]}


def entrypoints(target: str) -> list[tuple[str, list[str]]]:
    found = [(d["metadata"]["name"], shlex.split(d["spec"]["entrypoint"])) for d in of_kind(target, "RayJob")]
    for document in of_kind(target, "CronJob"):
        (container,) = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        found.append((document["metadata"]["name"], container["args"][container["args"].index("--") + 1 :]))
    return found


def parsed(argv: list[str]) -> mgray.config.JobConfig:
    """The config that a job's own command line gives, by the schema that its script names."""
    python, script, *rest = argv
    assert python == "python"
    name, schema = re.search(r"run_job\(\"(\w+)\", (\w+)", (ROOT / script).read_text()).groups()
    assert script == f"jobs/{name}.py"
    return mgray.config.command_line.parse_args(getattr(mgray.config, schema), script, rest)


@pytest.mark.parametrize("target", RUNS)
def test_entrypoints_are_jobs_that_take_their_arguments(target: str) -> None:
    given = dict(entrypoints(target))
    assert set(given) == {"mgray-train", "mgray-tune", "mgray-predict", "mgray-retrain"}
    log = next(
        mount["mountPath"]
        for _, container in containers(target)
        for mount in container["volumeMounts"]
        if mount["name"] == "log"
    )
    for argv in given.values():
        assert parsed(argv).data.source == log


@pytest.mark.parametrize("target", RUNS)
def test_jobs_fit_their_cluster(target: str) -> None:
    """Where they do not, a job ends with exit code 2, after its cluster came up."""
    ((_, spec),) = [found for found in ray_specs(target) if found[0] == "RayCluster"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = spec["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    assert not spec.get("enableInTreeAutoscaling")
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    cpus, gpus = (group["replicas"] * int(limits.get(name, 0)) for name in ("cpu", "nvidia.com/gpu"))
    for name, argv in entrypoints(target):
        config = parsed(argv)
        scale = config.predict if name == "mgray-predict" else config.scale
        workers = scale.num_workers or 1
        assert workers * scale.cpus_per_worker <= cpus, name
        assert scale.use_gpu is not True or workers <= gpus, name
        if "prod" in target and name != "mgray-retrain":
            assert scale.use_gpu is True, name


@pytest.mark.parametrize("target", RUNS)
def test_each_rayjob_brings_the_overlays_cluster(target: str) -> None:
    (cluster,) = of_kind(target, "RayCluster")
    for document in of_kind(target, "RayJob"):
        spec = document["spec"]
        assert spec["rayClusterSpec"] == cluster["spec"]
        assert "clusterSelector" not in spec
        assert (spec["submissionMode"], spec["shutdownAfterJobFinishes"]) == ("K8sJobMode", True)
        assert spec["ttlSecondsAfterFinished"] > 0
        # what README starts it by
        assert document["metadata"]["labels"]["mgray/run"] == document["metadata"]["name"].removeprefix("mgray-")


@pytest.mark.parametrize("target", STANDING)
def test_an_overlay_starts_no_job(target: str) -> None:
    assert of_kind(target, "RayJob") == []
    assert len(of_kind(target, "CronJob")) == 1


@pytest.mark.parametrize("target", RUNS)
def test_ray_start_takes_its_options_and_memory_suffices(target: str) -> None:
    options = {name.lstrip("-") for option in ray.scripts.scripts.start.params for name in option.opts}
    for _, spec in ray_specs(target):
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            assert set(group["rayStartParams"]) <= options
            pod = group["template"]["spec"]
            shm = next(volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm")
            memory = num_bytes(pod["containers"][0]["resources"]["limits"]["memory"])
            assert shm["medium"] == "Memory"
            # Over the first, Ray falls back to disk; over the second, the pod is killed.
            assert int(group["rayStartParams"]["object-store-memory"]) < num_bytes(shm["sizeLimit"]) <= memory / 2


def known_variables() -> set[str]:
    """Environment variables that something reads: the code's, MLflow's and its server's, the programs' of the image."""
    code = "".join(path.read_text() for folder in ("mgray", "pipelines") for path in (ROOT / folder).rglob("*.py"))
    known = set(re.findall(r"\"((?:MGRAY|MLFLOW|RAY)_[A-Z0-9_]+)\"", code))
    known |= {name for name in vars(mlflow.environment_variables) if name.startswith("MLFLOW_")}
    known |= {str(option.envvar) for option in mlflow.cli.server.params if getattr(option, "envvar", None)}
    ray_own = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"}
    postgres = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "PGDATA"}
    python = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR"}
    return known | ray_own | postgres | python | {"HOME", "PATH", "MPLCONFIGDIR", "NVIDIA_DRIVER_CAPABILITIES", "SLOT"}


def test_environment_variables_are_read_by_something() -> None:
    given = {entry["name"] for target in RUNS for _, one in containers(target) for entry in one.get("env", [])}
    for service in compose_services().values():
        given |= set(service["environment"])
    for block in re.findall(r"^ENV ((?:.*\\\n)*.*)", DOCKERFILE, re.MULTILINE):
        given |= {pair.split("=", 1)[0] for pair in shlex.split(block.replace("\\\n", " "))}
    assert given <= known_variables()
    assert {"MGRAY_HOME", "MLFLOW_TRACKING_URI", "RAY_AUTH_TOKEN", "MLFLOW_BACKEND_STORE_URI"} <= given


def test_mlflows_server_takes_its_options() -> None:
    lines = mlflow_command_lines()
    assert len(lines) == 3
    for line in lines:
        assert line[:2] == ["mlflow", "server"]
        parser = mlflow.cli.server.make_parser(click.Context(mlflow.cli.server))
        options, rest, _ = parser.parse_args(line[2:])
        assert rest == []
        assert options["artifacts_destination"] == "/artifacts"
        assert "backend_store_uri" not in options, "it holds the password"

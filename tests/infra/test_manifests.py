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
from mgray import __version__
from tests.infra.rendered import (
    DOCKERFILE,
    INFRA,
    KUBERNETES,
    LOCK,
    RUNS,
    STANDING,
    Document,
    compose_services,
    containers,
    mlflow_command_lines,
    names,
    nodes,
    num_bytes,
    of_kind,
    pods,
    ray_specs,
    render,
)
from tests.jobs.processes import ROOT

RENDERED = ["base", *STANDING, *RUNS]
# The newest that the package knows, and one that clusters of two years before still run.
KUBERNETES_VERSIONS = [kubernetes_validate.latest_version(), "1.31.0"]
README = (INFRA / "README.md").read_text()


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
    return mgray.config.parse_args(getattr(mgray.config, schema), script, rest)


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
    code = "".join(path.read_text() for folder in ("mgray", "pipelines") for path in (ROOT / folder).glob("*.py"))
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


# Who runs as what, and who reaches whom.


@pytest.mark.parametrize("target", [*STANDING, *RUNS])
def test_no_container_runs_as_root(target: str) -> None:
    """What the namespace's `restricted` level asks of every pod, and a root file system that nothing writes to."""
    (namespace,) = of_kind(target, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for where, pod in pods(target):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, where
        assert security["runAsUser"] > 0, where
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert pod["spec"]["automountServiceAccountToken"] is False, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"]), where
        assert all(set(volume) & {"emptyDir", "persistentVolumeClaim"} for volume in pod["spec"]["volumes"]), where
    for where, container in containers(target):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, where
        resources = container["resources"]
        assert set(resources["requests"]) == set(resources["limits"]) >= {"cpu", "memory"}, where
        if "CronJob" not in where:  # a few seconds of a submitter may borrow
            assert resources["requests"]["memory"] == resources["limits"]["memory"], where


def secret_references(target: str) -> set[tuple[str, str]]:
    found = {(spec["authOptions"]["secretName"], "auth_token") for _, spec in ray_specs(target)}
    for node in nodes(render(target)):
        if isinstance(node, dict) and "secretKeyRef" in node:
            found.add((node["secretKeyRef"]["name"], node["secretKeyRef"]["key"]))
    return found


def test_secrets_of_dev_are_made_and_those_of_prod_told() -> None:
    wanted = {("mgray-ray-token", "auth_token"), ("mgray-postgres", "password"), ("mgray-postgres", "uri")}
    for target in RUNS:
        assert secret_references(target) == wanted
    dev = {(secret["metadata"]["name"], key) for secret in of_kind("runs/dev", "Secret") for key in secret["data"]}
    assert dev == wanted
    for target in ("base", "runs/prod"):
        assert of_kind(target, "Secret") == []
    for name, key in wanted:
        assert re.search(rf"create secret generic {name} (.|\\\n)*--from-(file|literal)={key}=", README), (name, key)


def test_the_only_secrets_in_git_are_marked() -> None:
    for path in [path for path in INFRA.rglob("*.env*") if path.name != "compose.env"]:
        values = [line.split("=", 1)[1] for line in path.read_text().splitlines() if line and line[0] != "#"]
        if path.name.startswith("dev-only-"):
            assert all("dev-only-" in value for value in values), path
        else:
            assert [value for value in values if value] == ["./log"], path


@pytest.mark.parametrize("target", RUNS)
def test_names_that_objects_give_each_other_exist(target: str) -> None:
    claims = names(target, "PersistentVolumeClaim")
    accounts = names(target, "ServiceAccount")
    for where, pod in pods(target):
        spec = pod["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        used = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in spec["volumes"]
            if len(volume) == 2 and "persistentVolumeClaim" in volume
        }
        assert used <= claims, where
        if where.startswith("StatefulSet"):
            volumes |= {"data"}  # of volumeClaimTemplates
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes, where
        assert spec.get("serviceAccountName", "mgray-ray") in accounts, where
    (namespace,) = names(target, "Namespace")
    spaces = {d["metadata"].get("namespace") for d in render(target) if d["kind"] != "Namespace"}
    assert spaces == {namespace}


def services(target: str) -> dict[str, set[int]]:
    """Service -> its ports; that of a RayCluster's head is KubeRay's, with the ports of the head's container."""
    found = {d["metadata"]["name"]: {port["port"] for port in d["spec"]["ports"]} for d in of_kind(target, "Service")}
    for document in of_kind(target, "RayCluster"):
        (container,) = document["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
        ports = {port["containerPort"] for port in container["ports"]}
        found[f"{document['metadata']['name']}-head-svc"] = ports
    return found


@pytest.mark.parametrize("target", RUNS)
def test_addresses_are_services(target: str) -> None:
    known = services(target)
    texts = [node for node in nodes(render(target)) if isinstance(node, str)]
    addresses = {found for text in texts for found in re.findall(r"(?:://|@)(mgray[a-z-]*):(\d+)", text)}
    assert {name for name, _ in addresses} == {"mgray-mlflow", "mgray-head-svc"}
    for name, port in addresses:
        assert int(port) in known[name]
    dev = dict(
        line.split("=", 1)
        for line in (KUBERNETES / "overlays/dev/dev-only-postgres.env").read_text().split()
        if "=" in line
    )
    assert dev["uri"] == f"postgresql://mlflow:{dev['password']}@mgray-postgres:5432/mlflow"
    assert 5432 in known["mgray-postgres"]
    for service in of_kind(target, "Service"):
        chosen = selected(target, {"matchLabels": service["spec"]["selector"]})
        assert len(chosen) == 1, service["metadata"]["name"]
        ports = {port["name"] for pod in chosen for one in pod["spec"]["containers"] for port in one["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_mlflow_takes_the_names_that_clients_call_it_by() -> None:
    hosts = [
        next(word for word in line if word.startswith("--allowed-hosts=")).partition("=")[2].split(",")
        for line in mlflow_command_lines()
    ]
    uri = {e["value"] for _, one in containers("runs/prod") for e in one["env"] if e["name"] == "MLFLOW_TRACKING_URI"}
    assert uri == {f"http://{hosts[0][0]}"} == {f"http://{hosts[1][0]}"}
    compose = compose_services()["ray"]["environment"]
    assert compose["MLFLOW_TRACKING_URI"] == f"http://{hosts[2][0]}"
    assert all("localhost:5000" in given for given in hosts)  # MLflow's own list is replaced, localhost with it


def selected(target: str, selector: Document) -> list[Document]:
    """The pod templates that a selector of labels finds."""

    def fits(labels: dict[str, str]) -> bool:
        by_value = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
        return by_value and all(
            rule["operator"] == "In" and labels.get(rule["key"]) in rule["values"]
            for rule in selector.get("matchExpressions", [])
        )

    return [pod for _, pod in pods(target) if fits(pod["metadata"]["labels"])]


@pytest.mark.parametrize("target", RUNS)
def test_policies_find_every_pod_and_open_its_ports_only(target: str) -> None:
    policies = of_kind(target, "NetworkPolicy")
    for where, pod in pods(target):
        covering = [p for p in policies if pod in selected(target, p["spec"]["podSelector"])]
        assert len(covering) == 1, where
        assert set(covering[0]["spec"]["policyTypes"]) == {"Ingress", "Egress"}, where
    listening = {"mgray-ray": {8265, 52365}, "mgray-mlflow": {5000}, "mgray-postgres": {5432}, "mgray-submit": set()}
    for policy in policies:
        rules = policy["spec"].get("ingress", [])
        assert {port["port"] for rule in rules for port in rule.get("ports", [])} == listening[
            policy["metadata"]["name"]
        ]
        for rule in rules:
            for peer in rule["from"]:
                if "namespaceSelector" in peer:  # KubeRay's operator, which is not of this project
                    assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
                else:
                    assert selected(target, peer["podSelector"])
    # What goes out of one comes in at the other.
    out = {
        (policy["metadata"]["name"], peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
        for policy in policies
        for rule in policy["spec"].get("egress", [])
        for peer in rule["to"]
        if "namespaceSelector" not in peer
    }
    assert out == {
        ("mgray-ray", "ray"),
        ("mgray-ray", "mlflow"),
        ("mgray-submit", "ray"),
        ("mgray-mlflow", "postgres"),
    }

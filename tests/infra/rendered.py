"""What infra/ holds: Kubernetes' objects as kustomize (kubectl's, from the dev extra) renders them, and other files."""

import functools
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import yaml

from tests.jobs.processes import BIN, ROOT

INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"
STANDING = ["overlays/dev", "overlays/prod"]
RUNS = ["runs/dev", "runs/prod"]  # hold all of their overlay, and the RayJobs
LOCK = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
DOCKERFILE = (INFRA / "docker" / "Dockerfile").read_text()

Document = dict[str, Any]


@functools.cache
def render(target: str) -> tuple[Document, ...]:
    """The objects of a kustomization, shared by all tests: change a copy."""
    command = [str(BIN / "kubectl"), "kustomize", str(KUBERNETES / target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done  # stderr tells of deprecated fields
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(target: str, kind: str) -> list[Document]:
    return [document for document in render(target) if document["kind"] == kind]


def names(target: str, kind: str) -> set[str]:
    return {document["metadata"]["name"] for document in of_kind(target, kind)}


def nodes(value: Any) -> Iterator[Any]:
    """Every mapping, list and scalar below a value, itself first."""
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for one in inner:
        yield from nodes(one)


def pods(target: str) -> list[tuple[str, Document]]:
    """(where, pod template) of every pod that the objects make, the nodes of RayJobs' clusters among them."""
    return [
        (f"{document['kind']}/{document['metadata']['name']}", node)
        for document in render(target)
        for node in nodes(document)
        if isinstance(node, dict) and isinstance(node.get("spec"), dict) and "containers" in node["spec"]
    ]


def containers(target: str) -> list[tuple[str, Document]]:
    return [(where, container) for where, pod in pods(target) for container in pod["spec"]["containers"]]


def ray_specs(target: str) -> list[tuple[str, Document]]:
    found = [("RayCluster", document["spec"]) for document in of_kind(target, "RayCluster")]
    return found + [(d["metadata"]["name"], d["spec"]["rayClusterSpec"]) for d in of_kind(target, "RayJob")]


def num_bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMGT]i)?", quantity).groups()
    return int(number) * 1024 ** (" KMGT".index(unit[0]) if unit else 0)


def compose_services() -> dict[str, Document]:
    return yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]


def mlflow_command_lines() -> list[list[str]]:
    found = [
        [*container["command"], *container["args"]]
        for target in STANDING
        for _, container in containers(target)
        if container["name"] == "mlflow"
    ]
    return [*found, compose_services()["mlflow"]["command"]]

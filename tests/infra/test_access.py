"""Who runs as what and reaches whom: pods' rights, secrets, names that objects give each other, network policies."""

import re

import pytest

from tests.infra.rendered import (
    INFRA,
    KUBERNETES,
    RUNS,
    STANDING,
    Document,
    compose_services,
    containers,
    mlflow_command_lines,
    names,
    nodes,
    of_kind,
    pods,
    ray_specs,
    render,
)

README = (INFRA / "README.md").read_text()


@pytest.mark.parametrize("target", [*STANDING, *RUNS])
def test_no_container_runs_as_root(target: str) -> None:
    """Every pod meets the namespace's `restricted` level, and a root file system that nothing writes to."""
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

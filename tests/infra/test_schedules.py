"""Each schedule's own command line is taken from its file and run against a real head that wants a token."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.heads import TOKEN, Head, clean_environment, ray_head

ROOT = Path(__file__).parent.parent.parent
SCHEDULES = ROOT / "infra" / "schedules"
JOB = ["python", "jobs/retrain.py", "--data.source"]
# Stands where the head's jobs/retrain.py would: the schedules are under test here, and not the retraining.
STAND_IN = """
import json, pathlib, sys, time
assert sys.argv[1] == "--data.source", sys.argv
mood = pathlib.Path(sys.argv[2]).name
print("reading the log", file=sys.stderr)
if mood == "slow":
    time.sleep(120)
if mood == "broken":
    print("error: part-7.csv: no column item_id", file=sys.stderr)
    sys.exit(2)
print(json.dumps({"job": "retrain", "status": "ok", "decision": "kept"}))
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    code = tmp_path_factory.mktemp("code")
    (code / "jobs").mkdir()
    (code / "jobs" / "retrain.py").write_text(STAND_IN)
    with ray_head(code) as started:
        yield started


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the schedules know as /opt/mgray: the code, and the environment in its .venv."""
    folder = tmp_path_factory.mktemp("opt")
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "infra").symlink_to(ROOT / "infra")
    return folder


class Crontab:
    """mgray.crontab as cron reads it: assignments, then one line of five times, a user and a command for /bin/sh."""

    def __init__(self) -> None:
        lines = [
            line for line in (SCHEDULES / "mgray.crontab").read_text().splitlines() if line and not line.startswith("#")
        ]
        self.environment = dict(line.split("=", 1) for line in lines[:-1])
        self.times, self.user, self.command = re.fullmatch(r"((?:\S+ ){5})(\S+) (.+)", lines[-1]).groups()

    def start(self, root: Path, head: Head, mood: str, **changes: str | None) -> subprocess.Popen:
        """The command with cron's bare environment; the places of a real machine are changed for the test's."""
        places = {
            "MGRAY_ROOT": str(root),
            "MGRAY_LOG": mood,
            "MGRAY_RAY": head.address,
            "RAY_AUTH_TOKEN_PATH": str(head.token_file),
        }
        assert set(places) <= set(self.environment)
        environment = {"HOME": str(root)} | self.environment | places | changes
        # The slot is the minute, and these tests share one: a prefix each keeps their jobs apart.
        prefix = "--submission-prefix retrain"
        assert self.command.count(prefix) == 1
        return subprocess.Popen(
            [environment["SHELL"], "-c", self.command.replace(prefix, f"--submission-prefix cron-{mood}")],
            cwd=root,
            env={name: value for name, value in environment.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def test_the_crontab_is_one_that_cron_takes() -> None:
    crontab = Crontab()
    assert crontab.times.split() == ["30", "3", "*", "*", "*"]
    assert (crontab.user, crontab.environment["RAY_AUTH_MODE"]) == ("mgray", "token")
    assert "%" not in crontab.command, "cron reads % as the end of the line"
    # cron does not expand what is assigned
    assert not any("$" in value for value in crontab.environment.values())


def test_cron_gives_a_good_jobs_result(root: Path, head: Head) -> None:
    process = Crontab().start(root, head, "good")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out) == {"job": "retrain", "status": "ok", "decision": "kept"}
    assert "reading the log" in err  # the job's own log
    assert re.search(r"submit: cron-good-\d{8}T\d{4} succeeded", err)
    assert TOKEN not in out + err


def test_cron_gives_a_failed_jobs_exit_code(root: Path, head: Head) -> None:
    process = Crontab().start(root, head, "broken")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, ""), err
    assert "error: part-7.csv: no column item_id" in err
    assert "failed with exit code 2" in err.splitlines()[-1]


def test_cron_does_not_take_a_stopped_job_for_a_good_one(root: Path, head: Head) -> None:
    process = Crontab().start(root, head, "slow")
    announced = process.stderr.readline()
    job_id = re.match(r"submit: (cron-slow-\S+) submitted", announced).group(1)
    url, headers = f"{head.address}/api/jobs/{job_id}", {"Authorization": f"Bearer {TOKEN}"}
    while (job := requests.get(url, headers=headers, timeout=10).json())["status"] == "PENDING":
        time.sleep(0.2)
    assert (job["status"], job["runtime_env"]) == ("RUNNING", {}), "nothing of ours belongs in the job's record"
    assert requests.post(f"{url}/stop", headers=headers, timeout=10).json() == {"stopped": True}
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, ""), err
    assert err.splitlines()[-1] == f"submit: {job_id} was stopped"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"RAY_AUTH_TOKEN_PATH": None, "RAY_AUTH_MODE": None}, "Missing authentication token"),
        ({"RAY_AUTH_MODE": None}, "Missing authentication token"),  # a token is there, and the client does not send it
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/ray-token"}, "cannot be opened or is empty: /nowhere/ray-token"),
        ({"RAY_AUTH_TOKEN_PATH": None, "RAY_AUTH_TOKEN": "x" * 32}, "Invalid authentication token"),
    ],
)
def test_cron_without_the_token_says_so(root: Path, head: Head, changes: dict[str, str | None], reason: str) -> None:
    process = Crontab().start(root, head, "good", **changes)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"submit: error: Ray at {head.address} did not take cron-good-")
    assert reason in line
    assert "set RAY_AUTH_MODE=token" in line


def unit(name: str) -> dict[str, list[str]]:
    """A systemd unit's `Section.Key` -> its values; a line that ends in a backslash goes on in the next."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (SCHEDULES / name).read_text().replace("\\\n", " ").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(f"{section}.{key}", []).append(value)
    return found


def test_the_units_are_ones_that_systemd_takes(root: Path, tmp_path: Path) -> None:
    timer, service = unit("mgray-retrain.timer"), unit("mgray-retrain.service")
    assert timer["Timer.OnCalendar"] == ["*-*-* 03:30:00"]
    assert timer["Timer.Persistent"] == ["true"]
    assert timer["Install.WantedBy"] == ["timers.target"]
    assert service["Service.Type"] == ["oneshot"]  # with any other, the timer would start it beside itself
    assert service["Service.User"] == ["mgray"]
    assert service["Service.LoadCredential"] == ["ray-token:/etc/mgray/ray-token"]
    assert service["Service.Environment"] == ["RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=%d/ray-token"]
    assert (service["Service.ProtectSystem"], service["Service.NoNewPrivileges"]) == (["strict"], ["true"])
    if shutil.which("systemd-analyze") is None:
        return  # Debian has it in systemd; the keys above are what matters of these files
    for name in ("mgray-retrain.service", "mgray-retrain.timer"):
        (tmp_path / name).write_text((SCHEDULES / name).read_text().replace("/opt/mgray", str(root)))
    units = [str(tmp_path / name) for name in ("mgray-retrain.service", "mgray-retrain.timer")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_services_command_runs(root: Path, head: Head) -> None:
    service = unit("mgray-retrain.service")
    (command,) = service["Service.ExecStart"]
    assert "%" not in command, "systemd would expand it"
    argv = shlex.split(command.replace("/opt/mgray", str(root)))
    argv[argv.index("--address") + 1] = head.address
    argv[argv.index("--submission-prefix") + 1] = "systemd"
    environment = dict(pair.split("=", 1) for pair in service["Service.Environment"])
    environment["RAY_AUTH_TOKEN_PATH"] = environment["RAY_AUTH_TOKEN_PATH"].replace(
        "%d/ray-token", str(head.token_file)
    )
    done = subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["job"] == "retrain"
    assert re.search(r"systemd-\d{8}T\d\d00 succeeded", done.stderr)  # the hour's slot


@pytest.fixture(scope="module")
def cronjob() -> dict[str, Any]:
    (document,) = yaml.safe_load_all((SCHEDULES / "retrain-cronjob.yaml").read_text())
    return document


def test_the_cronjob_is_one_that_kubernetes_takes(cronjob: dict[str, Any]) -> None:
    """Whole sections are compared, so that a misspelt field shows: Kubernetes drops what it does not know."""
    assert (cronjob["apiVersion"], cronjob["kind"]) == ("batch/v1", "CronJob")
    assert re.fullmatch(
        r"[a-z0-9-]{1,52}", cronjob["metadata"]["name"]
    )  # CronJob adds 11 characters, and 63 is the end
    spec = cronjob["spec"]
    job = spec.pop("jobTemplate")["spec"]
    assert spec == {
        "schedule": "30 3 * * *",
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 3600,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 7,
    }
    spec["jobTemplate"] = {"spec": job}
    pod = job["template"]["spec"]
    assert {key: value for key, value in job.items() if key != "template"} == {
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "activeDeadlineSeconds": 15000,
        "ttlSecondsAfterFinished": 604800,
    }
    (container,) = pod["containers"]
    assert {key: value for key, value in pod.items() if key != "containers"} == {
        "restartPolicy": "Never",  # podFailurePolicy wants it
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}],
    }
    assert set(container) == {
        "name",
        "image",
        "workingDir",
        "command",
        "args",
        "env",
        "resources",
        "securityContext",
        "volumeMounts",
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert set(container["resources"]) == {"requests", "limits"}
    timeout_s = next(arg for arg in container["args"] if arg.startswith("--timeout-s=")).split("=")[1]
    assert int(timeout_s) < job["activeDeadlineSeconds"]


def test_the_token_comes_from_a_secret(cronjob: dict[str, Any]) -> None:
    (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    environment = {entry.pop("name"): entry for entry in [dict(entry) for entry in container["env"]]}
    assert environment == {
        "SLOT": {"valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}}},
        "RAY_AUTH_MODE": {"value": "token"},
        # the key is the one that KubeRay's authOptions reads
        "RAY_AUTH_TOKEN": {"valueFrom": {"secretKeyRef": {"name": "mgray-ray-token", "key": "auth_token"}}},
    }
    # the Secret's own making is told in the README, by the same name and key
    assert (
        "kubectl create secret generic mgray-ray-token --from-file=auth_token="
        in (ROOT / "infra" / "README.md").read_text()
    )


def test_the_cronjobs_command_runs_once_for_a_slot(cronjob: dict[str, Any], head: Head) -> None:
    """A second pod of one run (the first was evicted) reports the first one's job."""
    (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    argv = [*container["command"], *container["args"]]
    argv = [arg.replace("$(SLOT)", "mgray-retrain-29400000") for arg in argv]
    argv = [f"--address={head.address}" if arg.startswith("--address=") else arg for arg in argv]
    environment = clean_environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    runs = [
        subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [0, 0], runs
    assert runs[0].stdout == runs[1].stdout != ""
    assert "mgray-retrain-29400000 submitted" in runs[0].stderr
    assert "exists already (SUCCEEDED): following it" in runs[1].stderr
    jobs = requests.get(f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10).json()
    assert [job["submission_id"] for job in jobs].count("mgray-retrain-29400000") == 1

    argv[-1] = "/another/log"
    other = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert other.returncode == 2
    assert "mgray-retrain-29400000 is the id of another command" in other.stderr


def test_a_job_that_takes_too_long_is_stopped(head: Head) -> None:
    argv = [sys.executable, str(SCHEDULES / "submit.py"), "--address", head.address, "--submission-id", "too-long"]
    done = subprocess.run(
        [*argv, "--timeout-s", "1", "--", "sleep", "120"],
        env=clean_environment() | head.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "has run for longer than --timeout-s 1: stopping it" in done.stderr
    assert done.stderr.splitlines()[-1] == "submit: too-long was stopped"


def test_every_schedule_submits_the_same_job(cronjob: dict[str, Any]) -> None:
    (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    commands = [
        shlex.split(os.path.expandvars(Crontab().command)),
        shlex.split(unit("mgray-retrain.service")["Service.ExecStart"][0]),
        container["args"],
    ]
    assert all(command[command.index("--") + 1 : -1] == JOB for command in commands), commands


def test_the_job_takes_what_the_schedules_give(tmp_path: Path) -> None:
    argv = [sys.executable, *JOB[1:], str(tmp_path / "nowhere")]
    environment = clean_environment() | {"MGRAY_HOME": str(tmp_path / "home")}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert f"{tmp_path / 'nowhere'}" in done.stderr.splitlines()[-1]
    assert "unknown config key" not in done.stderr

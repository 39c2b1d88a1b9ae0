"""`ray job submit` to a real head with token authentication, in both forms: the code is where the head was started, or
it travels with the job.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from mlflow.tracking import MlflowClient

from mgray.synthetic import make_log
from tests.jobs.processes import BIN, ROOT, Done, environment, result_line, run

UPLOADED_VERSION = "0.0.0+uploaded"
TINY = (
    "--model.width=16 --model.heads=2 --train.epochs=1 --train.global_batch_events=500 --train.num_negatives=15 "
    "--data.num_shards=2 --scale.collective_timeout_s=60 --tracking.system_metrics=false"
)


class Head(NamedTuple):
    address: str
    token: dict[str, str]

    def ray_job(self, *words: str, cwd: Path = ROOT, with_token: bool = True) -> Done:
        command, *rest = words
        extra = self.token if with_token else {}
        return run([str(BIN / "ray"), "job", command, "--address", self.address, *rest], cwd=cwd, **extra)


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports


def wait_for_dashboard(address: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5)
        except urllib.error.HTTPError as error:
            if error.code == 401:  # it is up, and asks for the token
                return
        except OSError:
            pass
        else:
            raise AssertionError("the head answers without a token")
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def stop(process: subprocess.Popen, folder: Path) -> None:
    """This head's processes and no other: those that it started, and those that name its folder."""
    found = {process.pid: psutil.Process(process.pid)} if process.poll() is None else {}
    for candidate in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in candidate.info["cmdline"] or []):
            found[candidate.pid] = candidate
            found |= {child.pid: child for child in candidate.children(recursive=True)}
    found.pop(os.getpid(), None)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for member in found.values():
            try:
                member.send_signal(sign)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(list(found.values()), timeout=5)
    process.wait()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # The paths of Ray's sockets must stay below 108 characters, so not in pytest's folder.
    folder = Path(tempfile.mkdtemp(prefix="mg", dir="/tmp"))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    gcs, dashboard, agent, metrics, client = free_ports(5)
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={folder}"]
    command += ["--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--metrics-export-port={metrics}"]
    log = folder / "head.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(**token), stdout=out, stderr=out)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for_dashboard(address, process, log)
        yield Head(address, token)
    finally:
        stop(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


class Place(NamedTuple):
    home: Path
    log: Path

    def train(self) -> list[str]:
        return ["python", "jobs/train.py", f"--home={self.home}", f"--data.source={self.log}", *TINY.split()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("submit")
    make_log(40, 30).write_csv(folder / "log.csv")
    return Place(folder / "home", folder / "log.csv")


def test_a_submit_without_a_token_starts_nothing(head: Head, place: Place) -> None:
    done = head.ray_job("submit", "--", *place.train(), with_token=False)
    assert done.code == 1, done
    assert "AuthenticationError" in done.stderr
    assert "authentication" in done.stderr.splitlines()[-1].lower(), "the last line tells what is missing"
    request = urllib.request.Request(f"{head.address}/api/jobs/", json.dumps({"entrypoint": "true"}).encode())
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == 401
    assert not place.home.exists()
    listed = head.ray_job("list")
    assert listed.code == 0, listed
    assert "JobDetails" not in listed.stdout, listed


def test_the_code_is_where_the_head_was_started(head: Head, place: Place) -> None:
    done = head.ray_job("submit", "--submission-id=in-place", "--", *place.train())
    assert done.code == 0, done
    result = result_line(head.ray_job("logs", "in-place", "--log-style=record").stdout)
    assert (result["job"], result["status"]) == ("train", "ok")
    assert result["model"] == {"name": "mgray-interest", "version": "1"}
    assert set(result["metrics"]) == {"hr@10", "ndcg@10", "mrr@10", "coverage@10"}
    assert result["tracking_uri"] == f"sqlite:///{place.home / 'mlflow.db'}"
    assert not result["dataset"]["reused"]
    assert Path(result["dataset"]["path"], "manifest.json").is_file()
    assert Path(result["report"]).is_file()
    assert result["seconds"]["total"] > 0


def test_the_code_travels_with_the_job(head: Head, place: Place, tmp_path: Path) -> None:
    """From a copy that says it is another version, and holds what .rayignore must keep out of the upload."""
    left = shutil.ignore_patterns(".git", ".venv", "var", "build", ".*_cache", "__pycache__", "tests", "*.egg-info")
    shutil.copytree(ROOT, tmp_path / "copy", ignore=left)
    copy = tmp_path / "copy"
    (copy / "mgray" / "__init__.py").write_text(f'__version__ = "{UPLOADED_VERSION}"\n')
    for name in (".venv/lib/large", "var/large", ".git/large"):
        (copy / name).parent.mkdir(parents=True)
        (copy / name).touch()
        os.truncate(copy / name, 1 << 30)  # ten times what Ray takes; sparse, so it costs nothing here
    done = head.ray_job("submit", "--submission-id=uploaded", "--working-dir=.", "--", *place.train(), cwd=copy)
    assert done.code == 0, done
    result = result_line(head.ray_job("logs", "uploaded", "--log-style=record").stdout)
    assert (result["job"], result["status"]) == ("train", "ok")
    assert result["dataset"]["reused"]
    assert set(result["metrics"]) == {"hr@10", "ndcg@10", "mrr@10", "coverage@10"}
    # The uploaded code ran, in the driver and in the workers, not the code installed where the head runs.
    tags = MlflowClient(result["tracking_uri"]).get_run(result["run_id"]).data.tags
    assert tags["mgray_version"] == UPLOADED_VERSION
    assert json.loads(Path(result["checkpoint"], "model.json").read_text())["mgray_version"] == UPLOADED_VERSION

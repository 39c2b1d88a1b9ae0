"""A real Ray head of a test's own: its own ports, its own folder, token authentication on."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import requests

from tests.jobs.processes import BIN
from tests.jobs.processes import environment as clean_environment

TOKEN = "a-token-of-this-test-alone-0123456789abcdef"  # Ray wants 16 characters or more
PORT_OPTIONS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
    "object-manager-port",
    "node-manager-port",
)
START_TIMEOUT_S, STOP_TIMEOUT_S = 90, 10


class Head(NamedTuple):
    address: str  # of the dashboard, http://...
    token_file: Path
    environment: dict[str, str]  # what a client of it needs, over an environment without any RAY_*


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()


@contextmanager
def ray_head(cwd: Path, num_cpus: int = 2) -> Iterator[Head]:
    """`ray start --head --block` in `cwd`, where jobs then run; ended with all that it started."""
    # Not tmp_path: Ray's sockets live below it, and the path of one holds 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="mgray-", ignore_cleanup_errors=True) as folder:
        token_file = Path(folder) / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(TOKEN)
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)}
        ports = dict(zip(PORT_OPTIONS, free_ports(len(PORT_OPTIONS)), strict=True))
        address = f"http://127.0.0.1:{ports['dashboard-port']}"
        options = [f"--{name}={port}" for name, port in ports.items()]
        options += [f"--num-cpus={num_cpus}", f"--temp-dir={folder}/ray", "--node-ip-address=127.0.0.1"]
        options += ["--disable-usage-stats", f"--object-store-memory={200 * 2**20}"]
        with (Path(folder) / "head.log").open("w+") as log:
            process = subprocess.Popen(
                [str(BIN / "ray"), "start", "--head", "--block", *options],
                cwd=cwd,
                env=clean_environment() | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                agent = f"http://127.0.0.1:{ports['dashboard-agent-listen-port']}"
                _wait_until_ready(process, f"{address}/api/jobs/", Path(log.name))
                # Through the agent jobs are submitted, and it may start late on a busy machine.
                _wait_until_ready(process, f"{agent}/api/local_raylet_healthz", Path(log.name))
                yield Head(address, token_file, environment)
            finally:
                process.terminate()  # --block ends what it started
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT_S)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_until_ready(process: subprocess.Popen, page: str, log: Path) -> None:
    """Waits until a page of the head answers; its job API does later than its first page."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(requests.RequestException):
            answer = requests.get(page, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5)
            if answer.ok:
                return
        time.sleep(0.2)
    raise RuntimeError(f"ray start --head did not come up:\n{log.read_text()[-3000:]}")

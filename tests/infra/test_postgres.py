"""Jobs over HTTP against a real MLflow server, started as infra/kubernetes/ starts it, on a real PostgreSQL."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
import requests

from mgray.testing.synthetic import make_log
from tests.datasets import write_dataset
from tests.heads import free_ports
from tests.infra.rendered import containers, mlflow_command_lines
from tests.jobs.open_homes import openers
from tests.jobs.processes import BIN, environment, result_line, run_job_process

PASSWORD = "a-password-of-this-test-alone"
MODEL = "mgray-interest"
WAIT_S = 60
TINY = (
    "--model.width=8 --model.heads=2 --model.granularities=[1,4] --train.epochs=1 --train.global_batch_events=500 "
    "--train.num_negatives=15 --scale.num_workers=1 --tracking.system_metrics=false"
)


def wait_until(ready: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(psycopg.OperationalError, requests.RequestException):
            if ready():
                return
        time.sleep(0.2)
    pytest.fail(f"{process.args[0]} did not come up:\n{log.read_text()[-3000:]}")


class Postgres(NamedTuple):
    port: int

    @property
    def uri(self) -> str:
        return f"postgresql://mlflow:{PASSWORD}@127.0.0.1:{self.port}/mlflow"

    def rows(self, query: str, database: str = "mlflow") -> list[tuple[Any, ...]]:
        address = self.uri.removesuffix("mlflow") + database
        with psycopg.connect(address, autocommit=True) as connection:  # CREATE DATABASE wants no transaction
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """Debian's PostgreSQL with a data folder of its own, as a user of its own: it refuses to run as root."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not installed:
        pytest.fail("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    programs = installed[-1].parent
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    # Not tmp_path, which only its owner may enter, and whose length a socket's path does not hold.
    with tempfile.TemporaryDirectory(prefix="mgray-pg-") as name:
        folder, (port,) = Path(name), free_ports(1)
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            if user:
                shutil.chown(path, "postgres", "postgres")
        initdb = [programs / "initdb", "--pgdata", folder / "data", "--username=mlflow", "--auth=scram-sha-256"]
        initdb += [f"--pwfile={folder / 'password'}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        done = subprocess.run(initdb, cwd=folder, capture_output=True, text=True, check=False, timeout=WAIT_S, **user)
        assert done.returncode == 0, done.stdout + done.stderr
        options = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off"]
        log = folder / "log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", *(word for one in options for word in ("-c", one))],
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                **user,
            )
        server = Postgres(port)
        try:
            wait_until(lambda: server.rows("SELECT 1", "postgres") == [(1,)], process, log)
            server.rows("CREATE DATABASE mlflow", "postgres")
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # "fast": connections are ended, and the rest is written
            with suppress(subprocess.TimeoutExpired):
                process.wait(WAIT_S)
            process.kill()
        assert process.wait() == 0, log.read_text()[-3000:]
        assert "database system is shut down" in log.read_text()


class Site(NamedTuple):
    url: str
    artifacts: Path
    postgres: Postgres

    def get(self, path: str, host: str | None = None, **params: str) -> requests.Response:
        headers = {"Host": host} if host else {}
        return requests.get(f"{self.url}/api/2.0/mlflow/{path}", params=params, headers=headers, timeout=20)

    def version_of(self, alias: str) -> str:
        answer = self.get("registered-models/alias", name=MODEL, alias=alias)
        assert answer.ok, answer.text
        return answer.json()["model_version"]["version"]


@pytest.fixture(scope="module")
def site(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The Deployment's own command line, less its places: address, port and folder are the test's."""
    folder, (port,) = tmp_path_factory.mktemp("mlflow"), free_ports(1)
    (container,) = [one for _, one in containers("overlays/prod") if one["name"] == "mlflow"]
    plain = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    places = {"--host": "127.0.0.1", "--port": str(port), "--artifacts-destination": str(folder / "artifacts")}
    places["--workers"] = "1"
    (allowed,) = [word for word in mlflow_command_lines()[0] if word.startswith("--allowed-hosts=")]
    kept = [word for word in container["args"] if word.partition("=")[0] not in {*places, "--allowed-hosts"}]
    argv = [*kept, f"{allowed},127.0.0.1:{port}", *(f"{name}={value}" for name, value in places.items())]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(BIN / "mlflow"), "server", *argv],
            cwd=folder,
            env=environment(
                **plain | {"HOME": str(folder)}, MLFLOW_BACKEND_STORE_URI=postgres.uri, DO_NOT_TRACK="true"
            ),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: requests.get(f"{url}/health", timeout=5).ok, process, log)
        yield Site(url, folder / "artifacts", postgres)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def test_the_server_answers_by_its_services_name_alone(site: Site) -> None:
    experiments = "experiments/search"
    assert site.get(experiments, host="mgray-mlflow:5000", max_results="1").ok
    refused = site.get(experiments, host="mgray-mlflow", max_results="1")  # the port belongs to the name
    assert refused.status_code == 403


def test_pairs_that_open_a_fresh_database_at_once(postgres: Postgres, tmp_path: Path) -> None:
    """Jobs without a server before it: MLflow's tables and the experiment are made by one of the two."""
    with openers() as pair:
        for number in range(3):
            postgres.rows(f"CREATE DATABASE fresh{number}", "postgres")
            for one in pair:
                one.tell(tmp_path, postgres.uri.removesuffix("mlflow") + f"fresh{number}")
            assert [one.answer() for one in pair] == ["ok", "ok"]
            found = postgres.rows("SELECT name FROM experiments ORDER BY name", f"fresh{number}")
            assert found == [("Default",), ("mgray",)]


def test_train_register_and_promote(site: Site, tmp_path: Path) -> None:
    home = tmp_path / "home"
    dataset = write_dataset(tmp_path / "dataset", make_log(40, 30))  # ingest is tested elsewhere, and takes its time

    def job(name: str, *argv: str) -> dict[str, Any]:
        done = run_job_process(name, f"--home={home}", f"--tracking.uri={site.url}", *argv)
        assert done.code == 0, done
        assert PASSWORD not in done.stdout + done.stderr
        return result_line(done.stdout)

    train = [f"--data.dataset={dataset.folder}", *TINY.split()]
    first = job("train", *train)
    assert (site.version_of("champion"), site.version_of("challenger")) == ("1", "1")
    second = job("train", *train, "--train.seed=1")
    assert (site.version_of("champion"), site.version_of("challenger")) == ("1", "2")
    promoted = job("promote", "--version=2", "--skip_gate", "--reason=test")
    assert promoted["action"] == "promoted"
    assert site.version_of("champion") == "2"

    # It is PostgreSQL that holds them, and the server's folder: neither is in the jobs' own.
    rows = site.postgres.rows("SELECT version FROM registered_model_aliases WHERE alias = 'champion'")
    assert rows == [(2,)]
    runs = {run for (run,) in site.postgres.rows("SELECT run_uuid FROM runs WHERE status = 'FINISHED'")}
    assert runs == {first["run_id"], second["run_id"]}
    models = [folder for folder in site.artifacts.glob("*/models/*") if list(folder.rglob("*.safetensors"))]
    assert len(models) == 2
    assert not (home / "mlflow.db").exists()
    assert not (home / "artifacts").exists()

"""infra/schedules/submit.py: what no real cluster can be made to do within a test."""

import importlib.util
import socket
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from tests.heads import clean_environment, free_ports
from tests.infra.rendered import INFRA

SCHEDULES = INFRA / "schedules"


@pytest.fixture(scope="module")
def submit() -> Any:
    """submit.py as a module; infra/ is no package."""
    spec = importlib.util.spec_from_file_location("submit", SCHEDULES / "submit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_slots(submit: Any) -> None:
    moment = datetime(2026, 11, 24, 3, 37, 59, tzinfo=UTC)
    assert submit.slot_id("retrain", 1, moment) == "retrain-20261124T0337"
    assert submit.slot_id("retrain", 60, moment) == "retrain-20261124T0300"
    assert submit.slot_id("retrain", 24 * 60, moment) == "retrain-20261124T0000"


def test_the_result_line_is_found_among_others(submit: Any) -> None:
    assert submit.result_line('{"job": "a"}\nlog\n{"job": "b"}\nlate warning\n{broken\n') == '{"job": "b"}'
    assert submit.result_line('{"level": "info"}\nlog\n') is None


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("STOPPED", None, 1),
        ("FAILED", 2, 2),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),  # the job's process never started
        ("FAILED", 0, 1),
    ],
)
def test_outcomes(submit: Any, status: str, driver_exit_code: int | None, code: int) -> None:
    info = SimpleNamespace(
        status=SimpleNamespace(value=status), driver_exit_code=driver_exit_code, error_type="E", message=None
    )
    assert submit.outcome(info)[0] == code


class FlakyClient:
    """Answers from a list: exceptions are raised, a status ends the job."""

    def __init__(self, *answers: Exception | str) -> None:
        self.answers = list(answers)

    def get_job_info(self, job_id: str) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(status=SimpleNamespace(value=answer, is_terminal=lambda: answer != "RUNNING"))


def test_an_outage_is_waited_out_and_a_loss_is_told(submit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.01)
    client = FlakyClient("RUNNING", ConnectionError("refused"), RuntimeError("status code 500: busy"), "SUCCEEDED")
    assert submit.wait(client, "id", None).status.value == "SUCCEEDED"
    with pytest.raises(RuntimeError, match="no longer knows it; was its head restarted"):
        submit.wait(FlakyClient("RUNNING", RuntimeError("Request failed with status code 404: none")), "id", None)
    monkeypatch.setattr(submit, "LOST_AFTER_S", 0.05)
    with pytest.raises(RuntimeError, match=r"no word of it for 0.05 s \(refused\); it may still run"):
        submit.wait(FlakyClient(ConnectionError("refused")), "id", None)


def test_a_cluster_that_is_not_there() -> None:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"

    def run() -> list[str]:
        code = "import sys, submit; submit.CALL_TIMEOUT_S = 2; sys.exit(submit.main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", code, "--address", address, "--submission-id", "x", "--", "true"],
            cwd=SCHEDULES,
            # what this machine says of another cluster does not win over the command line
            env=clean_environment() | {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "http://127.0.0.1:9"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr.splitlines()

    refused = f"submit: error: Ray at {address} did not take x: "
    assert run() == [f"{refused}Failed to connect to Ray at address: {address}."]
    with socket.create_server(("127.0.0.1", port)):  # takes the connection and never answers
        assert run() == [f"{refused}no answer within 2 s"]

"""Submit a command to a Ray cluster, follow it, exit by its real outcome. What every schedule of this folder calls.

    python submit.py --address http://127.0.0.1:8265 --submission-prefix retrain -- python jobs/retrain.py

`ray job submit` itself exits with 0 for a job that was stopped, and with 1 for any failure. Here: the job's own exit
code; 1 for a job that was stopped, ran too long, or was lost; 2 for a cluster that does not answer or refuses it.
The job's log goes to stderr, its result line (the last JSON object with "job" that it printed) to stdout.

The submission id names a slot of the schedule (PREFIX-20261124T0330, UTC). Ray takes an id once, so two machines with
one schedule, or a submitter that was restarted, make one job: the second finds the id and follows that job.
Ending the submitter ends no job; `ray job stop ID` does. Needs ray[default] alone, and nothing of mgray.
"""

import argparse
import asyncio
import json
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

EXIT_FAILED, EXIT_CANNOT_SUBMIT = 1, 2
SIGNAL_BASE = 128  # what a shell adds to the number of the signal that ended a command
CALL_TIMEOUT_S = 30
POLL_S = 2.0
# A dashboard that restarts is no reason to give a job up.
LOST_AFTER_S = 300.0
STOP_WAIT_S = 60.0
TOKEN_HINT = "set RAY_AUTH_MODE=token (without it no token is sent) and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"


def say(text: str) -> None:
    print(f"submit: {text}", file=sys.stderr, flush=True)


def first_words(error: BaseException) -> str:
    """The first sentence of it: Ray explains at length."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0][:300]


class NoAnswerError(Exception):
    """Not a TimeoutError, which the HTTP library would take for its own."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises NoAnswerError in the main thread: Ray's client waits forever for a host that does not answer."""

    def stop(*_: object) -> None:
        raise NoAnswerError(f"no answer within {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def slot_id(prefix: str, slot_minutes: int, now: datetime) -> str:
    """PREFIX-YYYYMMDDTHHMM: the start, in UTC, of the slot of `slot_minutes` that `now` lies in."""
    step_s = slot_minutes * 60
    start = datetime.fromtimestamp(int(now.timestamp()) // step_s * step_s, UTC)
    return f"{prefix}-{start:%Y%m%dT%H%M}"


def result_line(log: str) -> str | None:
    """The last result line of a job's log; it need not be the log's last line, for stderr is in there too."""
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            try:
                if "job" in json.loads(line):
                    return line
            except json.JSONDecodeError:
                continue
    return None


class LogStream(threading.Thread):
    """Copies a job's log to stderr as it grows; connects again where the connection breaks."""

    def __init__(self, client: Any, job_id: str) -> None:
        super().__init__(daemon=True)
        self.client, self.job_id = client, job_id
        self._num_shown = 0
        self._is_over = False
        self._lock = threading.Lock()

    def show(self, text: str, position: int, is_whole: bool = False) -> None:
        """Show what is new of `text`, which begins at `position` of the log; after the whole log, nothing more."""
        with self._lock:
            if not self._is_over:
                new = text[max(0, self._num_shown - position) :]
                sys.stderr.write(new)
                sys.stderr.flush()
                self._num_shown += len(new)
            self._is_over |= is_whole

    async def _tail(self) -> None:
        position = 0  # a new connection starts at the log's beginning
        async for text in self.client.tail_job_logs(self.job_id):
            self.show(text, position)
            position += len(text)

    def run(self) -> None:
        while True:
            try:
                asyncio.run(self._tail())
                return
            except Exception:  # of the network: the main thread tells a cluster that is gone
                time.sleep(POLL_S)


def obtain_job(client: Any, job_id: str, command: str) -> None:
    """Submit, or find the job that has the id already. Raises RuntimeError where the id is another command's."""
    try:
        # No runtime_env: what stands there is kept in the job's record, and secrets do not belong there.
        client.submit_job(entrypoint=command, submission_id=job_id)
    except RuntimeError as refused:
        try:
            info = client.get_job_info(job_id)
        except RuntimeError:
            raise refused from None
        if info.entrypoint != command:
            raise RuntimeError(f"{job_id} is the id of another command: {info.entrypoint}") from None
        say(f"{job_id} exists already ({info.status}): following it instead of starting a second")
    else:
        say(f"{job_id} submitted: {command}")


def wait(client: Any, job_id: str, timeout_s: float | None) -> Any:
    """The job's details once it ended. After `timeout_s` the job is stopped. Raises RuntimeError where it is lost."""
    started = seen = time.monotonic()
    stopping = False
    while True:
        now = time.monotonic()
        try:
            with within(CALL_TIMEOUT_S):
                info = client.get_job_info(job_id)
                seen = now
                if info.status.is_terminal():
                    return info
                if timeout_s is not None and now - started > timeout_s and not stopping:
                    say(f"{job_id} has run for longer than --timeout-s {timeout_s:g}: stopping it")
                    client.stop_job(job_id)
                    stopping = True
        except Exception as error:  # the client raises what requests, aiohttp and Ray raise
            if "status code 404" in str(error):
                raise RuntimeError("the cluster no longer knows it; was its head restarted?") from error
            if now - seen > LOST_AFTER_S:
                raise RuntimeError(
                    f"no word of it for {LOST_AFTER_S:g} s ({first_words(error)}); it may still run"
                ) from error
        if stopping and timeout_s is not None and now - started > timeout_s + STOP_WAIT_S:
            raise RuntimeError(f"it did not stop within {STOP_WAIT_S:g} s")
        time.sleep(POLL_S)


def outcome(info: Any) -> tuple[int, str]:
    """A finished job's details -> (exit code, one sentence)."""
    status, code = str(info.status.value), info.driver_exit_code
    if status == "SUCCEEDED":
        return 0, "succeeded"
    if status == "STOPPED":
        return EXIT_FAILED, "was stopped"
    if code:
        return (code, f"failed with exit code {code}") if code > 0 else (SIGNAL_BASE - code, f"died of signal {-code}")
    return EXIT_FAILED, f"failed before its command ran ({info.error_type}): {(info.message or '').strip()[-300:]}"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Submit a command to Ray, follow it, exit by its outcome.")
    parser.add_argument(
        "--address", default="http://127.0.0.1:8265", help="the head's dashboard, http(s)://HOST:PORT [%(default)s]"
    )
    identity = parser.add_mutually_exclusive_group(required=True)
    identity.add_argument("--submission-prefix", metavar="NAME", help="the id is NAME-YYYYMMDDTHHMM, the slot's start")
    identity.add_argument("--submission-id", metavar="ID", help="the whole id, where the caller knows its slot's name")
    parser.add_argument("--slot-minutes", type=int, default=1, help="length of a slot, minutes [%(default)s]")
    parser.add_argument("--timeout-s", type=float, default=None, help="then the job is stopped, seconds [never]")
    parser.add_argument(
        "command", nargs="+", metavar="-- COMMAND", help="run on the cluster, where its head was started"
    )
    args = parser.parse_args(argv)
    if not args.address.startswith(("http://", "https://")):
        parser.error(f"--address {args.address}: give http://HOST:PORT or https://HOST:PORT")
    if args.slot_minutes < 1:
        parser.error("--slot-minutes must be at least 1")
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    # Ray lets these win over the address that it is given.
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(variable, None)
    job_id = args.submission_id or slot_id(args.submission_prefix, args.slot_minutes, datetime.now(UTC))
    command = shlex.join(args.command)
    try:
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.ERROR)  # tells of each websocket
        with within(CALL_TIMEOUT_S):
            client = JobSubmissionClient(args.address)
            obtain_job(client, job_id, command)
    except Exception as error:  # whatever stands in the way, nothing was started by us
        hint = f"; {TOKEN_HINT}" if "uthenticat" in type(error).__name__ + str(error) else ""
        say(f"error: Ray at {args.address} did not take {job_id}: {first_words(error)}{hint}")
        return EXIT_CANNOT_SUBMIT

    stream = LogStream(client, job_id)
    stream.start()
    try:
        info = wait(client, job_id, args.timeout_s)
    except RuntimeError as error:
        say(f"error: {job_id} was lost: {error}; its outcome is unknown")
        return EXIT_FAILED
    result = None
    try:
        with within(CALL_TIMEOUT_S):
            log = client.get_job_logs(job_id)
        stream.show(log, 0, is_whole=True)
        result = result_line(log)
    except Exception as error:  # the outcome is known, and counts for more than the log
        say(f"the log of {job_id} cannot be read: {first_words(error)}")
    code, sentence = outcome(info)
    say(f"{job_id} {sentence}")
    if result is not None:
        print(result, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

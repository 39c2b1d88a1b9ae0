"""Frame of every job around its one pipeline call: argv to config, exit code, and the result line."""

import json
import math
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from mgray.config import JobConfig
from mgray.config.command_line import job_command, parse_args
from mgray.errors import InputError
from pipelines.runtime.interrupt import Signals

Config = TypeVar("Config", bound=JobConfig)

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_INPUT = 0, 1, 2
# What an interrupted job leaves, and how to go on.
LEFT = {
    "ingest": "no dataset is committed by it; the same command goes on from the log's parts that were read",
    "train": "its run is KILLED in MLflow; the same command starts over",
    "tune": "the trials that ended are kept; the same command with --resume goes on",
    "eval": "it changes nothing; run the same again",
    "predict": "nothing is committed by it; run the same again",
    "retrain": "champion is as MLflow says; the same command finds what is done and goes on",
    "promote": "champion is as MLflow says; run the same again",
    "rollback": "champion is as MLflow says; see there before you run it again",
    "export": "what is at --out is whole; run the same again",
}


def _jsonable(value: Any) -> Any:
    """NaN is no JSON: null says that there is no figure."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(inner) for inner in value]
    return value


def run_job(
    name: str, schema: type[Config], pipeline: Callable[[Config], dict[str, Any]], argv: list[str] | None = None
) -> int:
    """Parse, run, print `{"job": name, "status": "ok", ...}` as the last line of stdout; gives the exit code.

    The user's mistakes give one line on stderr and 2, Ctrl-C, SIGTERM and SIGHUP one line and 128 + the signal's
    number; anything else a traceback and 1.
    """
    started = time.perf_counter()
    with Signals() as signals:
        try:
            config = parse_args(schema, job_command(name), sys.argv[1:] if argv is None else argv)
            result = pipeline(config)
        except BaseException as error:  # the last stop before the shell: whatever it is, it is told
            # Libraries turn a KeyboardInterrupt into errors of their own, and make one of a SIGINT that they see.
            if signals.received or isinstance(error, KeyboardInterrupt):
                return _interrupted(name, signals.received or signal.SIGINT)
            if isinstance(error, InputError):
                print(f"error: {error}", file=sys.stderr)
                return EXIT_WRONG_INPUT
            if not isinstance(error, Exception):
                raise
            traceback.print_exc()
            return EXIT_FAILED
    seconds = {**result.pop("seconds", {}), "total": round(time.perf_counter() - started, 2)}
    line = {"job": name, "status": "ok", **result, "seconds": seconds}
    sys.stderr.flush()
    print(json.dumps(_jsonable(line)), flush=True)
    return EXIT_DONE


def _interrupted(name: str, received: signal.Signals) -> int:
    print(
        f"interrupted: {received.name} ended {job_command(name)}; {LEFT.get(name, 'run the same again')}",
        file=sys.stderr,
        flush=True,
    )
    return 128 + received

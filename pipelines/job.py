"""What every job does around its one pipeline call: argv to config, exit code, and the result line."""

import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from mgray.arguments import parse_args
from mgray.config import JobConfig
from mgray.errors import InputError

Config = TypeVar("Config", bound=JobConfig)

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_INPUT = 0, 1, 2


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

    The user's mistakes give one line on stderr and 2; anything else a traceback and 1.
    """
    started = time.perf_counter()
    try:
        config = parse_args(schema, f"jobs/{name}.py", sys.argv[1:] if argv is None else argv)
        result = pipeline(config)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    except Exception:  # the last stop before the shell: whatever it is, it is told in full, and exits with 1
        traceback.print_exc()
        return EXIT_FAILED
    seconds = {**result.pop("seconds", {}), "total": round(time.perf_counter() - started, 2)}
    line = {"job": name, "status": "ok", **result, "seconds": seconds}
    sys.stderr.flush()
    print(json.dumps(_jsonable(line)), flush=True)
    return EXIT_DONE

"""The command `mgray`: `mgray train ...` is `python jobs/train.py ...`, from any folder."""

import sys
from importlib import import_module
from importlib.util import find_spec

from mgray import __version__
from mgray.config.jobs import JOB_CONFIGS


def usage() -> str:
    """Every job with the first sentence of its description."""
    jobs = {name: (schema.__doc__ or "").strip().splitlines()[0].split(". ")[0] for name, schema in JOB_CONFIGS.items()}
    lines = [f"  {name:<10}{text.removesuffix('.')}" for name, text in jobs.items()]
    return "\n".join(["usage: mgray JOB [options]; mgray JOB --help lists a job's options", "", *lines])


def main() -> int:
    """Run the job that the first argument names and give its exit code; 2 where there is no such job, or no engine."""
    name, *argv = sys.argv[1:] or [""]
    if name in ("-h", "--help", "--version"):
        print(f"mgray {__version__}" if name == "--version" else usage())
        return 0
    missing = [engine for engine in ("ray", "mlflow") if find_spec(engine) is None]
    if name not in JOB_CONFIGS:
        wrong = f"no job is called {name!r}" if name else "no job given"
        print(f"error: {wrong}; give one of {', '.join(JOB_CONFIGS)}, see mgray --help", file=sys.stderr)
    elif missing:
        print(f"error: mgray {name} needs {' and '.join(missing)}: pip install 'mgray[pipelines]'", file=sys.stderr)
    else:
        code: int = import_module(f"jobs.{name}").main(argv)
        return code
    return 2


if __name__ == "__main__":
    sys.exit(main())

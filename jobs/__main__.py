"""The command `mgray`: `mgray train ...` is `python jobs/train.py ...`, from any folder."""

import sys
from importlib import import_module
from importlib.util import find_spec

from mgray import __version__
from mgray.config.jobs import JOB_CONFIGS

ENGINES = ("ray", "mlflow")  # the extra `pipelines` brings them


def usage() -> str:
    """The jobs, a line each."""
    lines = [f"  {name:<10}{(schema.__doc__ or '').split('. ')[0].split(chr(10))[0]}" for name, schema in JOB_CONFIGS.items()]
    return "\n".join(["usage: mgray JOB [options]; mgray JOB --help lists a job's options", "", *lines])


def main() -> int:
    """Run the job that the first argument names. Exit codes: the job's; 2 where none is named."""
    name, *argv = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"mgray {__version__}")
        return 0
    if name not in JOB_CONFIGS:
        wrong = f"no job is called {name!r}" if name else "no job given"
        print(f"error: {wrong}; give one of {', '.join(JOB_CONFIGS)}, see mgray --help", file=sys.stderr)
        return 2
    missing = [engine for engine in ENGINES if find_spec(engine) is None]
    if missing:
        print(f"error: mgray {name} needs {' and '.join(missing)}: pip install 'mgray[pipelines]'", file=sys.stderr)
        return 2
    code: int = import_module(f"jobs.{name}").main(argv)
    return code


if __name__ == "__main__":
    sys.exit(main())

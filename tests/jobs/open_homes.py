"""A process that opens the tracking store of each home it is told, and answers `ok` or the error.

Two of these, told the same home at the same moment, are two jobs on a fresh home, without the seconds of their imports.
A line of stdin is a home, and after a tab a tracking URI or nothing.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.jobs.processes import ROOT, environment


class Opener:
    """The parent's side of such a process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.open_homes"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def tell(self, home: Path, uri: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{home}\t{uri}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def openers(count: int = 2) -> Iterator[tuple[Opener, ...]]:
    started = tuple(Opener() for _ in range(count))
    try:
        for one in started:
            assert one.answer() == "ready"
        yield started
    finally:
        for one in started:
            one.process.kill()
            one.process.communicate()


def main() -> None:
    from mgray.config import TrackingConfig
    from pipelines.tracking import open_tracking

    print("ready", flush=True)
    for line in sys.stdin:
        home, _, uri = line.rstrip("\n").partition("\t")
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # of the home before
        try:
            open_tracking(TrackingConfig(uri=uri or None), Path(home))
            print("ok", flush=True)
        except Exception as error:  # whatever it is, it is the answer
            print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()

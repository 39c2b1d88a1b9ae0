"""An ingest job in processes of its own, to kill parts of; and the finding of all that is left of it.

A job's raylet and workers are its descendants while it lives and orphans of its session afterwards: they are noted
before anything is killed, and none outlives `Job.end`.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil

ROOT = Path(__file__).parent.parent
RANGE_BYTES = 256 << 10  # many units of a small log
POLL_S = 0.005
# jobs/ingest.py, but with smaller ranges than its 32 MB
LAUNCHER = """
import functools, sys
from mgray.config import IngestJobConfig
from pipelines.ingest import job as ingest
from pipelines.runtime.job import run_job
ingest.ingest = functools.partial(ingest.ingest, range_bytes=int(sys.argv[1]))
sys.exit(run_job("ingest", IngestJobConfig, ingest.run_ingest, sys.argv[2:]))
"""

Victim = Literal["driver", "worker", "raylet"]


def write_log(folder: Path, num_rows: int, num_files: int = 6, seed: int = 0) -> Path:
    """Files of `user_id,item_id,timestamp,rating`, the first rows of some users in one file and the last in another."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    for number in range(num_files):
        with (folder / f"part-{number}.csv").open("w") as file:
            file.write("user_id,item_id,timestamp,rating\n")
            for place in range(num_rows // num_files):
                user, item = draw.randrange(num_rows // 30), int(draw.paretovariate(0.6)) % 5000
                file.write(f"u{user},i{item},{number * num_rows + place},{draw.randrange(1, 6)}\n")
    return folder


class Job:
    """One run, in a session of its own."""

    def __init__(self, home: Path, log: Path, *options: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.stdout, self.stderr = home / "stdout.txt", home / "stderr.txt"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "MGRAY_"))}
        argv = ["--home", str(home), "--data.source", str(log), "--data.num_shards", "8", *options]
        with self.stdout.open("w") as out, self.stderr.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, str(RANGE_BYTES), *argv],
                cwd=ROOT,
                env=kept | {"RAY_ADDRESS": "local"},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._family: dict[int, psutil.Process] = {}

    def family(self) -> list[psutil.Process]:
        """The processes alive that the job started, itself first."""
        found = {}
        with suppress(psutil.NoSuchProcess):
            me = psutil.Process(self.process.pid)
            found = {one.pid: one for one in (me, *me.children(recursive=True))}
        for one in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getsid(one.pid) == self.process.pid:
                    found.setdefault(one.pid, one)
        self._family |= found
        for one in list(self._family.values()):
            with suppress(psutil.NoSuchProcess):
                self._family |= {child.pid: child for child in one.children(recursive=True)}
        return [one for one in self._family.values() if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def wait_until(self, reached: Callable[[], bool], timeout_s: float = 120) -> bool:
        """Whether that came true while the job ran."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None and time.monotonic() < deadline:
            if reached():
                return True
            time.sleep(POLL_S)
        return False

    def kill(self, victim: Victim) -> bool:
        """SIGKILL to the driver with its process group, to the raylet, or to a worker that runs a task.

        False: the job ended before there was one.
        """
        found: list[psutil.Process] = []

        def is_there() -> bool:
            found[:] = [one for one in self.family() if _is(one, victim)] if victim != "driver" else self.family()[:1]
            return bool(found)

        if not self.wait_until(is_there):
            return False
        self.family()  # noted before any of it dies
        if victim == "driver":
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            found[0].kill()
        return True

    def end(self, timeout_s: float = 120) -> int:
        """The job's exit code, once it ended or was ended; then nothing of it runs any more."""
        try:
            self.family()
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = -signal.SIGALRM
        finally:
            for _ in range(3):
                left = self.family()
                for one in left:
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
                psutil.wait_procs(left, timeout=10)
                if not left:
                    break
            self.process.wait()
        return code


def _is(process: psutil.Process, victim: Victim) -> bool:
    try:
        if victim == "raylet":
            return process.name() == "raylet"
        title = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return title.startswith("ray::") and "run_one" in title


def staged_units(out: Path) -> dict[str, int]:
    """When each unit that is staged whole was made, ns since 1970."""
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob(".staged/*/done.json")}

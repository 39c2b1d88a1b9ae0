"""Measured runs of benchmarks/ingest.py: the log on disk, a side as a process of its own, and rounds of sides."""

import contextlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from _memory import INTERVAL_S, MemorySampler

ROOT = Path(__file__).parent.parent
SIDES = "benchmarks/_ingest_sides.py"
SMALL_ROWS = 10_000_000
LARGE_INTERVAL_S = 0.5
TIMEOUT_S = 3600
CORES = len(os.sched_getaffinity(0))
TWO_CPUS = "mgray" if CORES == 2 else "mgray, 2 CPUs"
MGRAY: dict[str, dict[str, Any]] = {
    "mgray": {"num_cpus": CORES},
    "mgray, 1 CPU": {"num_cpus": 1},
    "mgray, 2 CPUs": {"num_cpus": 2},
    "mgray, 1 file": {"num_cpus": CORES},
    "mgray, 3 nodes": {"num_cpus": 1, "num_nodes": 3},
    "mgray, skewed": {"num_cpus": CORES},
}
PEERS: dict[str, list[dict[str, str]]] = {
    "polars": [{"engine": engine, "plan": plan} for engine in ("in-memory", "streaming") for plan in ("sort", "group")],
    "duckdb": [{"plan": "lists"}, {"plan": "structs"}],
}
ONCE = ("mgray, 3 nodes",)  # its time is of no interest
Run = dict[str, Any]  # of one side: wall_s and what the side says, memory; or `failed`


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def label(rows: int) -> str:
    return next(f"{rows // unit}{name}" for unit, name in ((10**6, "m"), (10**3, "k"), (1, "")) if rows % unit == 0)


def run_side(side: str, arguments: dict[str, Any], interval_s: float = INTERVAL_S) -> Run:
    """Run a side to its end and give its result with `memory`, or {"failed": why}. Ends whatever it leaves behind.

    interval_s: from one look at the memory to the next.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "POLARS_", "MGRAY_"))}
    # RAY_ADDRESS=local: a Ray of its own; RAY_worker_niceness: as the peers, by default Ray's workers give way
    own = {"RAY_ADDRESS": "local", "RAY_worker_niceness": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    command = [sys.executable, SIDES, side, json.dumps(arguments)]
    with (
        tempfile.TemporaryDirectory(prefix="mgray-", ignore_cleanup_errors=True) as temporary,
        tempfile.TemporaryFile("w+") as errors,
    ):
        own["TMPDIR"] = temporary  # whatever a side that is ended leaves there goes too
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=kept | own, cwd=ROOT)
        sampler = MemorySampler(process.pid, interval_s)
        sampler.start()
        out, why = "", None
        try:
            out, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            why = f"not done after {TIMEOUT_S} s"
        finally:
            peak = sampler.stop()
            if process.poll() is None:
                process.kill()
                process.wait()
            if left := sampler.end_leftovers():
                say(f"{side} left processes behind, ended now: {', '.join(left)}")
        if why is None and process.returncode:
            errors.seek(0)
            tail = errors.read()[-3000:]
            print(tail, file=sys.stderr)
            killed = process.returncode < 0
            # the last line names the error; no paths of this machine belong in the results
            lines = [line for line in tail.splitlines() if line.strip()]
            name = lines[-1].split(":")[0][:200] if lines else "no message"
            why = f"killed by signal {-process.returncode} (9: out of memory?)" if killed else name
    memory = {
        "peak_gb": peak.peak_bytes / 1e9,
        "peak_anon_shmem_gb": peak.anon_shmem_bytes / 1e9,
        "by_process_mb": {
            name: round(size / 1e6) for name, size in sorted(peak.by_process.items(), key=lambda pair: -pair[1])
        },
        "samples": len(peak.samples),
        "longest_gap_s": max((b.time_s - a.time_s for a, b in pairwise(peak.samples)), default=0.0),
        "sampler_cpu_s": peak.sampler_cpu_s,
    }
    if why is not None:
        return {"failed": why, "memory": memory}
    result = json.loads(out.splitlines()[-1])
    if "begun" in result:
        begun = result.pop("begun")
        used = sampler.cpu_between(begun, begun + result["wall_s"])
        result["cpu_s_by_process"] = {
            name: round(seconds, 1) for name, seconds in sorted(used.items(), key=lambda pair: -pair[1])
        }
        memory["before_gb"] = next((s.pss / 1e9 for s in reversed(peak.samples) if s.time_s < begun), math.nan)
    return result | {"memory": memory}


class Log:
    """A log on disk, made at need: `files` of one folder, the same rows as `single`, one file, and a `skewed` one."""

    def __init__(self, work: Path, rows: int, num_files: int) -> None:
        self.work, self.rows, self.num_files = work, rows, num_files
        self.folder = work / f"log-v1-{rows}-{num_files}"

    @property
    def files(self) -> list[Path]:
        return self._made(self.folder, skewed=False)

    @property
    def skewed(self) -> list[Path]:
        return self._made(Path(f"{self.folder}-skewed"), skewed=True)

    def _made(self, folder: Path, skewed: bool) -> list[Path]:
        if not folder.exists():
            say(f"making a {'skewed ' if skewed else ''}log of {self.rows:,} rows in {self.num_files} files")
            arguments = {"rows": self.rows, "num_files": self.num_files, "folder": str(folder), "skewed": skewed}
            made = run_side("make_log", arguments | {"processes": CORES})
            if "failed" in made:
                raise SystemExit(f"the log cannot be made: {made['failed']}")
        return sorted(folder.iterdir())

    @property
    def single(self) -> Path:
        folder = Path(f"{self.folder}-single")
        if not folder.exists():
            say(f"writing the log's {self.rows:,} rows as one file")
            draft = Path(f"{folder}.draft-{os.getpid()}")
            draft.mkdir()
            with (draft / "log.csv").open("wb") as target:
                for number, path in enumerate(self.files):
                    with path.open("rb") as source:
                        header = source.readline()
                        if not number:
                            target.write(header)
                        shutil.copyfileobj(source, target, 16 << 20)
            draft.rename(folder)
        return folder / "log.csv"

    @property
    def interval_s(self) -> float:
        """Between looks at the memory: ten a second cost a long run of two workers 4% of its cores."""
        return INTERVAL_S if self.rows <= SMALL_ROWS else LARGE_INTERVAL_S

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)


def settle(files: list[Path]) -> None:
    """The same start for every side: nothing left to write to disk, the log in the page cache."""
    os.sync()
    buffer = bytearray(16 << 20)
    for path in files:
        with path.open("rb", buffering=0) as source:
            while source.readinto(buffer):
                pass


class Scale(NamedTuple):
    """All runs at one number of rows. `runs`: side -> one entry a round; a peer's also has `way`."""

    log: Log
    runs: dict[str, list[Run]]
    floor: Run

    def best_way(self, side: str) -> str | None:
        """The fastest way of a peer in the first round, where all are tried."""
        tried = [run for run in self.runs.get(side, []) if "failed" not in run and run["round"] == 0]
        return min(tried, key=lambda run: run["wall_s"])["way"] if tried else None

    def good(self, side: str) -> list[Run]:
        runs = [run for run in self.runs.get(side, []) if "failed" not in run]
        return [run for run in runs if run["way"] == self.best_way(side)] if side in PEERS else runs

    def wall_s(self, side: str) -> float:
        """NaN, which no check holds of, where a side has failed or was not run."""
        if side not in PEERS and any("failed" in run for run in self.runs.get(side, [])):
            return math.nan
        return statistics.median([run["wall_s"] for run in self.good(side)] or [math.nan])

    def peak_gb(self, side: str) -> float:
        if any("failed" in run for run in self.runs.get(side, [])):
            return math.nan
        return max([run["memory"]["peak_gb"] for run in self.good(side)] or [math.nan])


def way_name(way: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in way.items())


def disagreement(peer: Run, mgray: Run, rows: int) -> str | None:
    """Differences of a peer's output from mgray's manifest; None: there are none."""
    counts = mgray["rows"]
    wanted = {
        "distinct": counts["read"] - counts["dropped_duplicates"],
        "users": mgray["users"],
        "written": counts["written"],
        "items": mgray["items"],
    }
    wrong = [f"{name} {peer[name]} against {value}" for name, value in wanted.items() if peer[name] != value]
    if counts["read"] != rows:
        wrong.append(f"mgray has read {counts['read']} of {rows} rows")
    return "; ".join(wrong) or None


@contextlib.contextmanager
def scratch(work: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=work))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def run_mgray(side: str, log: Log, work: Path, floor: Run | None) -> Run:
    """One ingest into a home of its own. `floor`: filled with the floor's figures, if it is empty."""
    files = {"mgray, 1 file": lambda: [log.single], "mgray, skewed": lambda: log.skewed}.get(side, lambda: log.files)()
    source = str(files[0] if len(files) == 1 else files[0].parent)
    with scratch(work) as home:
        settle(files)
        result = run_side("mgray", {"source": source, "home": str(home)} | MGRAY[side], log.interval_s)
        dataset = result.pop("folder", None)
        if floor is not None and not floor and dataset:
            settle(files)
            floor |= run_side("floor", {"files": [str(path) for path in files], "dataset": dataset}, log.interval_s)
    return result


def run_peer(side: str, way: dict[str, str], log: Log, work: Path) -> Run:
    with scratch(work) as out:
        settle(log.files)
        result = run_side(side, {"files": [str(path) for path in log.files], "out": str(out)} | way, log.interval_s)
        if "failed" not in result:
            valid = run_side("validate", {"out": str(out)})
            valid.pop("memory")
            result |= valid
    return result


def measure(log: Log, sides: list[str], rounds: int, work: Path, with_floor: bool) -> Scale:
    scale = Scale(log, {side: [] for side in sides}, {})
    name = label(log.rows)
    for number in range(rounds):
        turn = number % len(sides)
        for side in sides[turn:] + sides[:turn]:
            if number and side in ONCE:
                continue
            ways = PEERS.get(side, [{}])
            if number:  # the fastest way alone; none where all have failed
                ways = [way for way in ways if side not in PEERS or way_name(way) == scale.best_way(side)]
            for way in ways:
                if side in PEERS:
                    run = run_peer(side, way, log, work) | {"way": way_name(way)}
                else:
                    run = run_mgray(side, log, work, scale.floor if with_floor and side == "mgray" else None)
                scale.runs[side].append(run | {"round": number})
                figures = run.get("failed") or f"{run['wall_s']:.2f} s, peak {run['memory']['peak_gb']:.2f} GB"
                say(f"{name} round {number + 1}/{rounds}: {side} {way_name(way)}: {figures}".replace(" : ", ": "))
    if reference := [run for run in scale.runs.get("mgray", []) if "failed" not in run]:
        for run in (run for peer in PEERS for run in scale.runs.get(peer, []) if "failed" not in run):
            if wrong := disagreement(run, reference[0], log.rows):
                run["failed"] = f"disagrees with mgray: {wrong}"
                say(f"{name}: {run['way']}: {run['failed']}")
    return scale

"""jobs/ingest.py's pipeline against Polars and DuckDB doing the same work, at 10 and at 100 million rows, with memory.

    .venv/bin/pip install --no-deps -r benchmarks/requirements.txt    # duckdb
    python benchmarks/ingest.py                        # about 40 minutes on 2 idle cores; 13 GB of disk, 20 of memory
    python benchmarks/ingest.py --rows 10m             # about 10 minutes; 2 GB of disk; the other sizes' figures stay
    python benchmarks/ingest.py --only peak_gb_100m    # what one check needs
    python benchmarks/ingest.py --rows 100k 200k       # a try of every part, about 4 minutes; writes no results
    python benchmarks/ingest.py --huge 300m            # and one run of mgray alone at 300 million rows: 28 GB of disk

The log is made here, from a seed: CSV files of user_id, item_id, timestamp, event_type, rating, some 37 bytes a row
(8 files up to 10 million rows, 24 beyond), 20 events a user on average, popular users and items (100,000), 2% exact
duplicates, a year of time, not sorted by user. `--work` keeps it for the next run. benchmarks/_ingest_sides.py has the
work of every side, and what they have in common. A peer may break ties of time as it likes and need not sync its files
to disk; mgray keeps the log's order and syncs. Each peer is tried in every way that is known to be good (Polars:
in-memory and streaming engine, two plans; DuckDB: two plans), and its fastest way counts, by the median of its rounds.
What a peer wrote must agree with mgray's manifest in distinct events, users, events written and items, else it counts
as failed.

Each side is a process of its own, after a sync of the disk and one reading of the log's files, so that the page cache
is warm for all alike; the order changes from round to round. A wall time runs from warm workers (Ray is up, every
worker has run a task and imported polars and pyarrow) or from finished imports to the last file in place; Ray's start
and warm-up are beside it in `raw`. All processes have equal niceness.

Checks:
- `wall_10m_vs_polars`, `wall_100m_vs_best`: mgray's wall over Polars', and over the faster of both peers'.
- `peak_gb_10m`, `peak_gb_100m`: the highest peak of any round, GB (1e9), of all processes together: driver, Ray's own,
  workers, object store (PSS, see benchmarks/_memory.py; anonymous and shared memory alone is in `raw`).
- `speedup_2_workers`: at the larger size, wall with Ray of 1 CPU over wall with Ray of 2. On 2 cores, driver and Ray's
  own processes have the second core in the first case, and share in the second: `speedup_ceiling` in `raw` is what two
  cores that are never idle would give, from the CPU seconds of all processes (2 wall / (all CPU of the 2-CPU run)).
- `single_file_vs_many`: wall on one file over wall on the same rows in 24.
- `skewed_vs_even`: wall on a log of as many rows in which one user has 5% of the events and one item 20%, over wall on
  the plain one; the skewed one's peak counts for `peak_gb_10m` too. (1.25 is our own target.)
- `fingerprint_3_nodes`: 1 where 3 Ray nodes of 1 CPU (on this machine) make the very fingerprint of the plain run.

`floor` is what no ingest can do without: 2 processes that parse the log with pyarrow into columns, then write the
dataset's own tables as Parquet.
"""

import argparse
import contextlib
import importlib.util
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
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from _memory import INTERVAL_S, MemorySampler
from _results import check, environment, read, write

ROOT = Path(__file__).parent.parent
SIDES = "benchmarks/_ingest_sides.py"
ASKED = ("10m", "100m")
SMALL_ROWS = 10_000_000
SMALL_FILES, LARGE_FILES = 8, 24
BYTES_PER_ROW = 37
LARGE_INTERVAL_S = 0.5
DISK_FACTOR = 3.4  # of the log's bytes: the log, the same in one file, and staging, output or spill of one side
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
NEEDS = {  # check -> sides
    "wall_10m_vs_polars": ("mgray", "polars", "duckdb"),
    "wall_100m_vs_best": ("mgray", "polars", "duckdb"),
    "peak_gb_10m": ("mgray",),
    "peak_gb_100m": ("mgray",),
    "speedup_2_workers": ("mgray, 1 CPU", TWO_CPUS),
    "single_file_vs_many": ("mgray", "mgray, 1 file"),
    "fingerprint_3_nodes": ("mgray", "mgray, 3 nodes"),
    "skewed_vs_even": ("mgray", "mgray, skewed"),
}
SMALL_CHECKS = ("wall_10m_vs_polars", "peak_gb_10m", "fingerprint_3_nodes", "skewed_vs_even")
LARGE_CHECKS = ("wall_100m_vs_best", "peak_gb_100m", "speedup_2_workers", "single_file_vs_many")
ONCE = ("mgray, 3 nodes",)  # its time is of no interest

Run = dict[str, Any]  # of one side: wall_s and what the side says, memory; or `failed`


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def parse_rows(text: str) -> int:
    units = {"k": 10**3, "m": 10**6}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if not number.isdecimal() or int(number) * unit < 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows such as 200k or 10m (1000 at least)")
    return int(number) * unit


def label(rows: int) -> str:
    return next(f"{rows // unit}{name}" for unit, name in ((10**6, "m"), (10**3, "k"), (1, "")) if rows % unit == 0)


# --------------------------------------------------------------------------------------------------------------- runs


def run_side(side: str, arguments: dict[str, Any], interval_s: float = INTERVAL_S) -> Run:
    """Runs a side to its end; its result with `memory`, or {"failed": why}. Ends whatever it leaves behind.

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
    """What a peer's output has other than mgray's manifest."""
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


# ------------------------------------------------------------------------------------------------------------- report


def small_checks(scale: Scale, wanted: list[str]) -> list[dict[str, Any]]:
    mgray_s = scale.wall_s("mgray")
    prints = {run.get("fingerprint", f"{side} failed") for side in ("mgray", *ONCE) for run in scale.runs.get(side, [])}
    made = {
        "wall_10m_vs_polars": lambda: (mgray_s / scale.wall_s("polars"), 1.0, "<="),
        "peak_gb_10m": lambda: (
            max(scale.peak_gb(side) for side in ("mgray", "mgray, skewed") if side in scale.runs),
            2.0,
            "<=",
        ),
        "skewed_vs_even": lambda: (scale.wall_s("mgray, skewed") / mgray_s, 1.25, "<="),
        "fingerprint_3_nodes": lambda: (float(len(prints) == 1), 1.0, "=="),
    }
    return [check(name, *made[name]()) for name in wanted if name in made]


def large_checks(scale: Scale, wanted: list[str]) -> list[dict[str, Any]]:
    mgray_s = scale.wall_s("mgray")
    best_s = min([wall for peer in PEERS if not math.isnan(wall := scale.wall_s(peer))], default=math.nan)
    made = {
        "wall_100m_vs_best": lambda: (mgray_s / best_s, 0.7, "<="),
        "peak_gb_100m": lambda: (scale.peak_gb("mgray"), 3.0, "<="),
        "speedup_2_workers": lambda: (scale.wall_s("mgray, 1 CPU") / scale.wall_s(TWO_CPUS), 1.8, ">="),
        "single_file_vs_many": lambda: (scale.wall_s("mgray, 1 file") / mgray_s, 1.1, "<="),
    }
    return [check(name, *made[name]()) for name in wanted if name in made]


def stages(scale: Scale) -> dict[str, float]:
    """Median seconds by stage of the plain runs, and what is in none of them."""
    runs = scale.good("mgray")
    if not runs:
        return {}
    names = list(runs[0]["stages_s"])
    table = {name: statistics.median(run["stages_s"].get(name, 0.0) for run in runs) for name in names}
    return table | {"other": scale.wall_s("mgray") - sum(table.values())}


def speedup_ceiling(scale: Scale) -> float | None:
    """Wall on one CPU over the wall of as much work as the runs on two had, on two cores that are never idle."""
    used = [sum(run["cpu_s_by_process"].values()) for run in scale.good(TWO_CPUS)]
    one_s = scale.wall_s("mgray, 1 CPU")
    return None if not used or math.isnan(one_s) else 2 * one_s / statistics.median(used)


def summary(scale: Scale) -> dict[str, Any]:
    mgray_s = scale.wall_s("mgray")
    return {
        "rows": scale.log.rows,
        "files": scale.log.num_files,
        "bytes": scale.log.num_bytes,
        "wall_s": {side: scale.wall_s(side) for side in scale.runs},
        "ways": {peer: scale.best_way(peer) for peer in PEERS if peer in scale.runs},
        "stages_s": stages(scale),
        "stage_shares": {name: seconds / mgray_s for name, seconds in stages(scale).items()},
        "floor": scale.floor,
        "share_of_floor": scale.floor["wall_s"] / mgray_s if "wall_s" in scale.floor else None,
        "speedup_ceiling": speedup_ceiling(scale),
        "runs": scale.runs,
    }


def print_scale(scale: Scale) -> None:
    rows, mgray_s = scale.log.rows, scale.wall_s("mgray")
    print(f"\n{rows:,} rows, {scale.log.num_bytes / 1e9:.2f} GB in {scale.log.num_files} files")
    print(f"{'side':44} {'wall s':>8} {'of rounds':>15} {'rows/s':>11} {'vs mgray':>8} {'peak GB':>8} {'anon+shm':>8}")
    for side, runs in scale.runs.items():
        for way in dict.fromkeys(run.get("way", "") for run in runs):
            mine = [run for run in runs if run.get("way", "") == way]
            name = f"{side} ({way})" if way else side
            name += " *" if side in PEERS and way == scale.best_way(side) else ""
            failed = [run["failed"] for run in mine if "failed" in run]
            if failed:
                print(f"{name:44} failed: {failed[0]}")
                continue
            walls = [run["wall_s"] for run in mine]
            wall_s, spread = statistics.median(walls), f"{min(walls):.2f}-{max(walls):.2f}"
            peaks = [max(run["memory"][key] for run in mine) for key in ("peak_gb", "peak_anon_shmem_gb")]
            print(
                f"{name:44} {wall_s:8.2f} {spread:>15} {rows / wall_s:11,.0f} {wall_s / mgray_s:8.2f}"
                f" {peaks[0]:8.2f} {peaks[1]:8.2f}"
            )
    if table := stages(scale):
        print("mgray by stage: " + ", ".join(f"{name} {s:.2f} s ({s / mgray_s:.0%})" for name, s in table.items()))
        starts = [(run["ray_start_s"], run["warm_up_s"]) for run in scale.good("mgray")]
        start_s, warm_s = (statistics.median(seconds) for seconds in zip(*starts, strict=True))
        peak = max((run["memory"] for run in scale.good("mgray")), key=lambda memory: memory["peak_gb"])
        print(f"before it: Ray's start {start_s:.1f} s, warm-up {warm_s:.1f} s; {peak['before_gb']:.2f} GB in use")
        print("at its peak, MB: " + ", ".join(f"{name} {mb}" for name, mb in peak["by_process_mb"].items() if mb))
    if "wall_s" in scale.floor:
        floor = scale.floor
        print(
            f"floor: read {floor['read_s']:.2f} s + write {floor['write_s']:.2f} s = {floor['wall_s']:.2f} s, "
            f"{floor['wall_s'] / mgray_s:.0%} of mgray's wall"
        )
    if ceiling := speedup_ceiling(scale):
        print(f"two CPUs over one: {ceiling:.2f} is the most that two cores give, driver and Ray's processes included")
    if any(side in PEERS for side in scale.runs):
        print("* the fastest way of a peer, which counts", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows",
        nargs="+",
        type=parse_rows,
        default=[parse_rows(text) for text in ASKED],
        help="the smaller for the checks of 10m, the larger for those of 100m; other sizes are a try, with no results",
    )
    parser.add_argument("--only", nargs="+", choices=NEEDS, metavar="CHECK", help=f"of {', '.join(NEEDS)}")
    parser.add_argument("--rounds", type=int, default=3, help="at the smaller size")
    parser.add_argument("--large_rounds", type=int, default=2, help="at the larger size")
    parser.add_argument("--huge", type=parse_rows, help="one run of mgray alone at this size too, such as 300m")
    parser.add_argument("--work", type=Path, help="folder on disk for logs, which stay, and outputs; none: a temporary")
    args = parser.parse_args()
    if len(args.rows) > 2 or len(set(args.rows)) < len(args.rows) or min(args.rounds, args.large_rounds) < 1:
        parser.error("--rows takes one or two different sizes, and every size at least one round")
    if importlib.util.find_spec("duckdb") is None:
        parser.error("duckdb is missing: .venv/bin/pip install --no-deps -r benchmarks/requirements.txt")

    small = min(args.rows) if len(args.rows) == 2 or args.rows[0] <= SMALL_ROWS else None
    large = max(args.rows) if len(args.rows) == 2 or args.rows[0] > SMALL_ROWS else None
    possible = [*(SMALL_CHECKS if small else ()), *(LARGE_CHECKS if large else ())]
    wanted = [name for name in possible if args.only is None or name in args.only]
    if not wanted and not args.huge:
        parser.error(f"--only: at these --rows there is {', '.join(possible)}")
    asked = all(label(rows) in ASKED for rows in args.rows)

    parent = "/var/tmp" if os.path.isdir("/var/tmp") else None  # /tmp may be memory
    with contextlib.ExitStack() as stack:
        if args.work:
            args.work.mkdir(parents=True, exist_ok=True)
            work = args.work.resolve()
        else:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mgray-ingest-", dir=parent)))
        need, free = BYTES_PER_ROW * DISK_FACTOR * max(*args.rows, (args.huge or 0) * 0.75), disk_free(work)
        if free < need:
            parser.error(f"--work: {free / 1e9:.1f} GB are free, {need / 1e9:.1f} are needed; give another folder")
        raw: dict[str, Any] = {"duckdb": version("duckdb"), "sizes": {}}
        checks: list[dict[str, Any]] = []
        scales = []
        for rows, group, rounds, to_checks in (
            (small, SMALL_CHECKS, args.rounds, small_checks),
            (large, LARGE_CHECKS, args.large_rounds, large_checks),
        ):
            mine = [name for name in group if name in wanted]
            if rows is None or not mine:
                continue
            sides = list(dict.fromkeys(side for name in mine for side in NEEDS[name]))
            log = Log(work, rows, SMALL_FILES if group is SMALL_CHECKS else LARGE_FILES)
            scale = measure(log, sides, rounds, work, with_floor=any(name.startswith("wall") for name in mine))
            raw["sizes"][label(rows)] = summary(scale)
            checks += to_checks(scale, mine)
            scales.append(scale)
        if args.huge:
            log = Log(work, args.huge, max(LARGE_FILES, LARGE_FILES * args.huge // 100_000_000))
            scale = measure(log, ["mgray"], 1, work, with_floor=False)
            raw["sizes"][label(args.huge)] = summary(scale)
            scales.append(scale)
        for scale in scales:
            print_scale(scale)
    print()
    for one in checks:
        verdict = "holds" if one["holds"] else "FAILS"
        print(f"{verdict:6} {one['name']:22} {one['value']:8.3f}  asked {one['op']} {one['target']:g}")
    if not asked:
        say(f"a try: results are written at {' and '.join(ASKED)} alone")
        return
    write("ingest", *joined(raw, checks))


def joined(raw: dict[str, Any], checks: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """This run's figures and checks over an earlier run's; the runs of both, each of which says when it was. Stages are
    of the plain runs measured last.
    """
    here = environment()
    measured = {name: here[name] for name in ("date", "git_commit", "machine", "command")}
    before = read("ingest") or {"raw": {"sizes": {}}, "checks": []}
    sizes = dict(before["raw"]["sizes"])
    for size, figures in raw["sizes"].items():
        earlier = sizes.get(size, {})
        runs = {side: [run | {"measured": measured} for run in mine] for side, mine in figures["runs"].items()}
        of_earlier = {"measured": earlier.pop("measured")} if "measured" in earlier else {}
        kept = {side: [of_earlier | run for run in mine] for side, mine in earlier.get("runs", {}).items()}
        sizes[size] = {
            **earlier,
            **{name: value for name, value in figures.items() if value or name not in earlier},
            **{name: earlier.get(name, {}) | figures[name] for name in ("wall_s", "ways")},
            "runs": {side: [*kept.get(side, []), *runs.get(side, [])] for side in kept | runs},
        }
    names = {one["name"] for one in checks}
    kept_checks = [one for one in before["checks"] if one["name"] not in names]
    order = list(NEEDS)
    return (
        raw | {"sizes": sizes},
        sorted([*kept_checks, *checks], key=lambda one: order.index(one["name"])),
    )


def disk_free(work: Path) -> int:
    """Bytes free, logs that are there already counted as free."""
    return shutil.disk_usage(work).free + sum(path.stat().st_size for path in work.glob("log-v1-*/*"))


if __name__ == "__main__":
    main()

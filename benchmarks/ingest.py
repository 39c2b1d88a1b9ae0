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
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from _ingest_report import NEEDS, joined, large_checks, print_scale, small_checks, summary
from _ingest_runs import SMALL_ROWS, Log, Scale, label, measure, say
from _results import write

ASKED = ("10m", "100m")
SMALL_FILES, LARGE_FILES = 8, 24
BYTES_PER_ROW = 37
DISK_FACTOR = 3.4  # of the log's bytes: the log, the same in one file, and staging, output or spill of one side
SMALL_CHECKS = ("wall_10m_vs_polars", "peak_gb_10m", "fingerprint_3_nodes", "skewed_vs_even")
LARGE_CHECKS = ("wall_100m_vs_best", "peak_gb_100m", "speedup_2_workers", "single_file_vs_many")


def parse_rows(text: str) -> int:
    units = {"k": 10**3, "m": 10**6}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if not number.isdecimal() or int(number) * unit < 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows such as 200k or 10m (1000 at least)")
    return int(number) * unit


class Plan(NamedTuple):
    """One size to measure, with the checks wanted of it."""

    log: Log
    wanted: list[str]
    rounds: int
    to_checks: Callable[[Scale, list[str]], list[dict[str, Any]]]

    def run(self, work: Path) -> Scale:
        sides = list(dict.fromkeys(side for name in self.wanted for side in NEEDS[name]))
        return measure(self.log, sides, self.rounds, work, any(name.startswith("wall") for name in self.wanted))


def parse_arguments() -> tuple[argparse.Namespace, argparse.ArgumentParser]:
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
    return args, parser


def work_folder(args: argparse.Namespace, stack: contextlib.ExitStack) -> Path:
    """The folder for logs and outputs: --work, or a temporary one that goes with the stack."""
    if args.work:
        args.work.mkdir(parents=True, exist_ok=True)
        return args.work.resolve()
    parent = "/var/tmp" if os.path.isdir("/var/tmp") else None  # /tmp may be memory
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mgray-ingest-", dir=parent)))


def measure_sizes(plans: list[Plan], huge: int | None, work: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure every size and print its table; gives raw figures and checks."""
    raw: dict[str, Any] = {"duckdb": version("duckdb"), "sizes": {}}
    checks: list[dict[str, Any]] = []
    scales = []
    for plan in plans:
        scales.append(plan.run(work))
        checks += plan.to_checks(scales[-1], plan.wanted)
    if huge:
        log = Log(work, huge, max(LARGE_FILES, LARGE_FILES * huge // 100_000_000))
        scales.append(measure(log, ["mgray"], 1, work, with_floor=False))
    raw["sizes"] = {label(scale.log.rows): summary(scale) for scale in scales}
    for scale in scales:
        print_scale(scale)
    return raw, checks


def main() -> None:
    args, parser = parse_arguments()
    small = min(args.rows) if len(args.rows) == 2 or args.rows[0] <= SMALL_ROWS else None
    large = max(args.rows) if len(args.rows) == 2 or args.rows[0] > SMALL_ROWS else None
    possible = [*(SMALL_CHECKS if small else ()), *(LARGE_CHECKS if large else ())]
    wanted = [name for name in possible if args.only is None or name in args.only]
    if not wanted and not args.huge:
        parser.error(f"--only: at these --rows there is {', '.join(possible)}")
    with contextlib.ExitStack() as stack:
        work = work_folder(args, stack)
        need, free = BYTES_PER_ROW * DISK_FACTOR * max(*args.rows, (args.huge or 0) * 0.75), disk_free(work)
        if free < need:
            parser.error(f"--work: {free / 1e9:.1f} GB are free, {need / 1e9:.1f} are needed; give another folder")
        plans = [
            Plan(Log(work, rows, num_files), mine, rounds, to_checks)
            for rows, num_files, group, rounds, to_checks in (
                (small, SMALL_FILES, SMALL_CHECKS, args.rounds, small_checks),
                (large, LARGE_FILES, LARGE_CHECKS, args.large_rounds, large_checks),
            )
            if rows is not None and (mine := [name for name in group if name in wanted])
        ]
        raw, checks = measure_sizes(plans, args.huge, work)
    print()
    for one in checks:
        verdict = "holds" if one["holds"] else "FAILS"
        print(f"{verdict:6} {one['name']:22} {one['value']:8.3f}  asked {one['op']} {one['target']:g}")
    if not all(label(rows) in ASKED for rows in args.rows):
        say(f"a try: results are written at {' and '.join(ASKED)} alone")
        return
    write("ingest", *joined(raw, checks))


def disk_free(work: Path) -> int:
    """Bytes free, logs that are there already counted as free."""
    return shutil.disk_usage(work).free + sum(path.stat().st_size for path in work.glob("log-v1-*/*"))


if __name__ == "__main__":
    main()

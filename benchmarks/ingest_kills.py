"""kill -9 of an ingest at 20 random moments: of its driver, of a worker, of the raylet.

    python benchmarks/ingest_kills.py           # about 8 minutes on two idle cores

Each time: a home with an earlier version; the job is killed at a random mark of its progress on a log of 300,000 rows
in 6 files; the earlier version must be as it was; then the same command must end with exit code 0 and the fingerprint
of an undisturbed run, without reading again what had been staged. A worker's death the job must survive by itself.
"""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from _kills import Job, Victim, staged_units, write_log
from _results import check, write
from rich.console import Console
from rich.table import Table

from mgray.data.manifest import read_manifest

MARKS = (".staged/*/done.json", ".staging-*/work/*/*.json", ".staging-*/part-*.parquet")
VICTIMS: tuple[Victim, ...] = ("driver", "worker", "raylet")


def versions(out: Path) -> dict[str, str]:
    """Fingerprint of every version, by its folder's name."""
    return {
        file.parent.name: read_manifest(file.parent).fingerprint
        for file in out.glob("*/manifest.json")
        if not file.parent.name.startswith(".")
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def progress(out: Path) -> int:
    """Files that tell of done tasks: staged units, results of passes, shards."""
    return sum(1 for pattern in MARKS for _ in out.glob(pattern))


def undisturbed(home: Path, log: Path) -> tuple[str, int]:
    """(name of the version, the most that `progress` came to)."""
    out = home / "datasets"
    before, most = versions(out), [0]

    def is_through() -> bool:
        most[0] = max(most[0], progress(out))
        return False

    job = Job(home, log)
    job.wait_until(is_through, 600)
    code = job.end()
    if code:
        sys.exit(f"the undisturbed run failed ({code}):\n{job.stderr.read_text()}")
    (name,) = versions(out).keys() - before.keys()
    return name, most[0]


def kill_once(home: Path, log: Path, victim: Victim, moment: int) -> dict[str, Any] | None:
    """Outcome of a kill at that progress, which the start has none of; None: the job was through before."""
    out = home / "datasets"
    before = versions(out)
    (earlier,) = before
    kept = contents(out / earlier)
    units_before = staged_units(out)
    job = Job(home, log)
    try:
        start = progress(out)
        is_reached = job.wait_until(lambda: any(out.glob(".staged/*.lock")) and progress(out) - start >= moment)
        is_killed = is_reached and job.kill(victim)
        units = staged_units(out)
        code = job.end(300)
    finally:
        job.end(0)
    if not is_killed:
        return None
    is_earlier_whole = contents(out / earlier) == kept and set(before) <= set(versions(out))
    codes = [code]
    if code:
        rerun = Job(home, log)
        codes.append(rerun.end(300))
        job = rerun
    after = staged_units(out)
    new = versions(out).items() - before.items()
    return {
        "victim": victim,
        "moment": moment,
        "staged_at_kill": len(units) - len(units_before),
        "staged_in_all": len(after) - len(units_before),
        "codes": codes,
        "earlier_version_whole": is_earlier_whole,
        "read_again": sum(after.get(key) != made for key, made in units.items()),
        "fingerprints": sorted(fingerprint for _, fingerprint in new),
        "left_behind": sorted(path.name for path in out.glob(".staging-*")),
        "processes_left": len(job.family()),
        "stderr": job.stderr.read_text()[-2000:] if codes[-1] else "",
    }


def survived(trial: dict[str, Any], fingerprint: str) -> bool:
    return (
        trial["codes"][-1] == 0
        and (trial["victim"] != "worker" or trial["codes"] == [0])
        and trial["earlier_version_whole"]
        and trial["read_again"] == 0
        and trial["fingerprints"] == [fingerprint]
        and not trial["left_behind"]
        and trial["processes_left"] == 0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="moments")
    parser.add_argument("--rows", type=int, default=300_000, help="of the log")
    parser.add_argument("--seed", type=int, default=0, help="of the log and of the moments")
    given = parser.parse_args()
    draw = random.Random(given.seed)
    out = Console(stderr=True)
    trials: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mgray-kills-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        log = write_log(place / "log", given.rows, seed=given.seed)
        undisturbed(place / "start", write_log(place / "small", 600))
        shutil.copytree(place / "start", place / "reference")
        name, most = undisturbed(place / "reference", log)
        most -= progress(place / "start" / "datasets")
        fingerprint = read_manifest(place / "reference" / "datasets" / name).fingerprint
        out.print(f"undisturbed: {most} marks of progress, fingerprint {fingerprint[:16]}")
        while len(trials) < given.kills:
            victim = VICTIMS[len(trials) % len(VICTIMS)]
            moment, trial = draw.randrange(most), None
            while trial is None:
                home = place / "trial"
                shutil.copytree(place / "start", home)
                trial = kill_once(home, log, victim, moment)
                shutil.rmtree(home, ignore_errors=True)
                moment = moment * 3 // 4  # it was through before: sooner
            trial["survived"] = survived(trial, fingerprint)
            trials.append(trial)
            out.print(f"{len(trials)}/{given.kills} {victim} {'survived' if trial['survived'] else trial}", style="dim")
    table = Table("victim", "at mark", "staged at kill", "exit codes", "read again", "survived")
    for trial in trials:
        table.add_row(
            trial["victim"],
            f"{trial['moment']} of {most}",
            f"{trial['staged_at_kill']} of {trial['staged_in_all']}",
            ", ".join(map(str, trial["codes"])),
            str(trial["read_again"]),
            "yes" if trial["survived"] else "NO",
        )
    out.print(table)
    count = sum(trial["survived"] for trial in trials)
    raw = {"rows": given.rows, "seed": given.seed, "marks": most, "fingerprint": fingerprint, "kills": trials}
    write("ingest_kills", raw, [check("ingest_kills_survived", count, given.kills, "==")])


if __name__ == "__main__":
    main()

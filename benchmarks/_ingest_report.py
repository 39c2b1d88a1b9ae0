"""Report of benchmarks/ingest.py: checks, figures, the printed table, and the merge with an earlier run's results."""

import math
import statistics
from typing import Any

from _ingest_runs import ONCE, PEERS, TWO_CPUS, Scale
from _results import check, environment, read

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
